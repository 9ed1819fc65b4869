"""What CRIU's images cannot say of mounts is done to the restored container while all its processes are still stopped.

CRIU before 4.2 leaves the root file system writable whatever its images say (its issue 2632), and a snapshot from a node without
some hardware has nothing mounted over the paths that runtimes mask where there is such hardware. Both are done in each mount
namespace of the container, by a thread that enters it (setns(2)) and ends there. Nothing of the container is run or followed.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from woodfrog.service import libc

_ST_RELATIME: Final = 0x1000
_KEPT: Final = os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC | os.ST_NOATIME | os.ST_NODIRATIME
"""Flags of statvfs(3) with the numbers of mount(2): a remount sets all of them."""
_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Afterwards(msgspec.Struct, frozen=True, gc=False):
    """What is to be done before a restored container may run."""

    read_only_root: bool = False
    mask: tuple[str, ...] = ()
    """Directories of the kernel's file systems that are covered by an empty one, where they are there."""


def do(pids: Iterable[int], what: Afterwards) -> None:
    """Do it in the mount namespaces of these processes, which are stopped.

    Raises:
        OSError: it could not be done, and the container must not run.
    """
    namespaces: dict[int, Path] = {}
    for pid in pids:
        path = Path(f"/proc/{pid}/ns/mnt")
        with suppress(FileNotFoundError):  # it has ended and was not waited for
            namespaces.setdefault(path.stat().st_ino, path)
    if not namespaces or Path("/proc/self/ns/mnt").stat().st_ino in namespaces:
        raise OSError("the restored container has no mount namespace of its own")
    for path in namespaces.values():
        _inside(path, what)


def _inside(namespace: Path, what: Afterwards) -> None:
    problems: list[Exception] = []

    def enter() -> None:
        try:
            libc.unshare(libc.CLONE_FS)
            libc.enter(namespace, libc.CLONE_NEWNS)
            if what.read_only_root:
                _make_root_read_only()
            for place in what.mask:
                _mask(place)
        except Exception as problem:  # noqa: BLE001 -- raised again by whoever waits for this thread
            problems.append(problem)

    thread = threading.Thread(target=enter, name="afterwards")
    thread.start()
    thread.join()
    if problems:
        raise problems[0]


def _make_root_read_only() -> None:
    flags = os.statvfs("/").f_flag
    kept = flags & _KEPT | (libc.MS_RELATIME if flags & _ST_RELATIME else 0)
    libc.mount("none", "/", None, libc.MS_REMOUNT | libc.MS_BIND | libc.MS_RDONLY | kept)


def _mask(place: str) -> None:
    """Cover a directory by an empty one that nobody can write to, as runc does (libcontainer/rootfs_linux.go, ``maskPath``)."""
    folder = os.open("/", _DIRECTORY)
    try:
        *above, name = place.strip("/").split("/")
        for part in above:
            folder, left = os.open(part, _DIRECTORY, dir_fd=folder), folder
            os.close(left)
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if not stat.S_ISDIR(status.st_mode):
            raise NotADirectoryError(f"{place} is not a directory")
        os.fchdir(folder)
    except FileNotFoundError:
        return
    finally:
        os.close(folder)
    libc.mount("tmpfs", name, "tmpfs", libc.MS_RDONLY, "size=0k")
