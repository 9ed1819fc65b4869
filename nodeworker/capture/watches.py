"""Files and directories of a container's root file system that its processes watch, found by where they are.

The kernel says of a watch which inode it is for (``fdinfo`` of the descriptor, proc_pid_fdinfo(5)). On overlay no handle opens it, so
CRIU has to be given its path, and the path has to be looked for: in the working directories of the processes first, then in the whole
root file system. Nothing is frozen meanwhile.

What waits in a watch and was not read yet is in no image of CRIU's. So a container that was frozen at such a moment is let go on for
as long as it takes to read it.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import termios
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Final

from nodeworker.domain.criu_images.watches import Inode
from nodeworker.errors import refusal
from woodfrog.service import libc
from woodfrog.service.procfs import descriptors, mounts, named

_WATCHERS: Final = frozenset({"anon_inode:inotify", "anon_inode:[fanotify]"})
_WATCH: Final = re.compile(r"^(?:inotify|fanotify) .*?ino:([0-9a-f]+) sdev:([0-9a-f]+)", re.MULTILINE)
_PIDFD_GETFD: Final = 438
_MINOR_BITS: Final = 20
_SEARCH_SECONDS: Final = 10.0


def find(watchers: Collection[tuple[int, int]], pids: Collection[int], first: int) -> dict[Inode, str]:
    """Return what is watched on overlay by these :func:`watchers`, with the path of each as the container sees it.

    ``pids`` are all processes of the container, ``first`` is its first one.

    Raises:
        FailureError: ``watch-not-found``, naming the process that watches what no name leads to.
    """
    watched: dict[Inode, int] = {}
    for pid, numbers in groupby(watchers, itemgetter(0)):
        with suppress(OSError):  # it has ended
            watched |= dict.fromkeys(_watched(pid, [number for _, number in numbers]), pid)
    if not watched:
        return {}
    found = _found(watched, pids, first) if _numbers_are_unique(first) else {}
    for inode, pid in watched.items():
        if inode not in found:
            raise refusal(
                "watch-not-found",
                f"{named(pid)} watches a file or directory of its root file system that no name leads to "
                f"(inode {inode[1]})",
                "It was deleted while it was open, or the layers of the root file system lie on several file systems: let the program "
                "end the watch, or put what it watches on a volume.",
            )
    return found


def watchers(pids: Collection[int]) -> tuple[tuple[int, int], ...]:
    """Return the descriptors by which processes watch files, each with its process."""
    return tuple((pid, int(number)) for pid in pids for number, held in descriptors(pid).items() if held in _WATCHERS)


def unread(watchers: Collection[tuple[int, int]]) -> tuple[int, ...]:
    """Return the processes with events of watches that they have not read; CRIU drops those (criu/fsnotify.c)."""
    found = []
    for pid, number in watchers:
        with suppress(OSError):  # it has ended, or closed it
            process = os.pidfd_open(pid)
            try:
                descriptor = libc.call("syscall", _PIDFD_GETFD, process, number, 0)
            finally:
                os.close(process)
            try:
                waiting = fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4))
            finally:
                os.close(descriptor)
            if any(waiting):
                found.append(pid)
    return tuple(dict.fromkeys(found))


def _watched(pid: int, numbers: Iterable[int]) -> Iterator[Inode]:
    overlays = {_number(mount.device) for mount in mounts(pid) if mount.kind == "overlay"}
    for number in numbers:
        with suppress(OSError):
            for inode, device in _WATCH.findall(Path(f"/proc/{pid}/fdinfo/{number}").read_text()):
                if int(device, 16) in overlays:
                    yield int(device, 16), int(inode, 16)


def _number(device: str) -> int:
    """A device as ``fdinfo`` tells it."""
    major, _, minor = device.partition(":")
    return int(major) << _MINOR_BITS | int(minor)


def _numbers_are_unique(first: int) -> bool:
    """Whether each file of the root file system has a number of its own for the kernel.

    Overlay of several file systems numbers directories itself and leaves files the numbers that they have below, so two have the
    same. It shows by a file's device, which is then not the overlay's (overlayfs.rst, "Inode properties").
    """
    mounted = {mount.place for mount in mounts(first)}
    root = os.open(f"/proc/{first}/root", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        device = os.fstat(root).st_dev
        waiting = deque(["/"])
        while waiting:
            folder = waiting.popleft()
            with suppress(OSError), _listed(root, folder) as entries:
                for entry in entries:
                    path = f"{folder.rstrip('/')}/{entry.name}"
                    if path in mounted:
                        continue
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(status.st_mode):
                        return status.st_dev == device
                    if stat.S_ISDIR(status.st_mode):
                        waiting.append(path)
    finally:
        os.close(root)
    return True


def _found(watched: Collection[Inode], pids: Collection[int], first: int) -> dict[Inode, str]:
    wanted, found = set(watched), dict[Inode, str]()
    deadline = time.monotonic() + _SEARCH_SECONDS
    root = os.open(f"/proc/{first}/root", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for start in (*_working_directories(pids), "/"):
            if wanted:
                with suppress(OSError):
                    _search(root, start, wanted, found, deadline)
    finally:
        os.close(root)
    return found


def _working_directories(pids: Collection[int]) -> list[str]:
    places = set()
    for pid in pids:
        with suppress(OSError):
            places.add(str(Path(f"/proc/{pid}/cwd").readlink()))
    return sorted(place for place in places if place.startswith("/") and place != "/")


def _search(root: int, start: str, wanted: set[Inode], found: dict[Inode, str], deadline: float) -> None:
    """Go through a directory and all that is below it on the same file system, what is near first; links are not followed."""
    status = os.stat(start[1:] or ".", dir_fd=root, follow_symlinks=False)
    _note(status, start, wanted, found)
    numbers = {number for _, number in wanted}
    waiting = deque([start])
    while wanted and waiting and time.monotonic() < deadline:
        folder = waiting.popleft()
        with suppress(OSError), _listed(root, folder) as entries:
            for entry in entries:
                is_folder = entry.is_dir(follow_symlinks=False)
                if is_folder or entry.inode() in numbers:
                    path = f"{folder.rstrip('/')}/{entry.name}"
                    own = entry.stat(follow_symlinks=False)
                    _note(own, path, wanted, found)
                    if is_folder and own.st_dev == status.st_dev:
                        waiting.append(path)


@contextmanager
def _listed(root: int, folder: str) -> Iterator[Iterator[os.DirEntry[str]]]:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(folder[1:] or ".", flags, dir_fd=root)
    try:
        with os.scandir(descriptor) as entries:
            yield entries
    finally:
        os.close(descriptor)


def _note(status: os.stat_result, path: str, wanted: set[Inode], found: dict[Inode, str]) -> None:
    inode = os.major(status.st_dev) << _MINOR_BITS | os.minor(status.st_dev), status.st_ino
    if inode in wanted:
        wanted.remove(inode)
        found[inode] = path
