"""What `woodfrog run` makes for a container: a fresh overlay over a directory, or over the host's own root, and a network.

One directory holds all of a container that we started (bundle, layer, mount points); its lock is held by the process that
runs the container in the foreground, so whoever finds the lock free knows that the container has lost its owner.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from woodfrog.protocol.failures import Failure, FailureError
from woodfrog.service import libc, procfs

_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_IFF_UP = 1
_UNSEEN = ".new-"
"""Begins the name of a directory that has no lock yet: it would look like one that lost its owner."""


def make_network(path: Path) -> None:
    """Make a network namespace that lives at ``path``, with its loopback interface up and no other.

    Raises:
        OSError: when the kernel refuses.
    """
    path.touch(mode=0o600)
    problems: list[OSError] = []

    def make() -> None:
        try:
            libc.unshare(libc.CLONE_NEWNET)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                request = struct.pack("16sh14x", b"lo", 0)
                (flags,) = struct.unpack_from("h", fcntl.ioctl(probe, _SIOCGIFFLAGS, request), 16)
                fcntl.ioctl(probe, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))
            libc.mount("/proc/thread-self/ns/net", path, "none", libc.MS_BIND)
        except OSError as problem:
            problems.append(problem)

    # unshare(2) moves the calling thread only: one that ends afterwards leaves nothing of this process behind.
    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if problems:
        raise problems[0]


def _escaped(path: Path) -> str:
    r"""Write a path for overlayfs's option parser, which takes ``,`` and ``:`` for separators and ``\`` for an escape."""
    return str(path).replace("\\", "\\\\").replace(",", "\\,").replace(":", "\\:")


class ContainerDirectory:
    """``<state>/containers/<container id>``: made, locked, mounted, and at the end unmounted and removed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.root = path / "rootfs"
        self.network = path / "network"
        self._lock: int | None = None

    @property
    def upper(self) -> Path:
        """The container's own layer."""
        return self.path / "upper"

    @classmethod
    def create(
        cls,
        path: Path,
        lower: Path,
        fill: Callable[[Path], object] | None = None,
        give_back: Callable[[Path], object] | None = None,
    ) -> Self:
        """Make the directory, locked from the moment that others can see it, and mount a layer over ``lower``.

        The layer is fresh, or ``fill`` puts another in the place of the empty one, and ``give_back`` takes it if what follows fails.

        The layer may lie below ``lower`` (the kernel refuses only a *lower* directory inside another layer; see
        ovl_check_layer in fs/overlayfs/super.c). Mounts below ``lower`` are not part of it.

        Raises:
            FailureError: ``overlay-failed``, or what ``fill`` raises; nothing is left behind.
        """
        unseen = cls(path.with_name(f"{_UNSEEN}{path.name}"))
        unseen.path.mkdir(mode=0o700, parents=True)
        assert unseen.lock(), "no other process looks at a directory with this name"
        directory = cls(unseen.path.rename(path))
        directory._lock = unseen._lock
        for name in ("upper", "work", "rootfs"):
            (path / name).mkdir(mode=0o755)
        status = lower.stat()
        os.chown(path / "upper", status.st_uid, status.st_gid)
        (path / "upper").chmod(status.st_mode & 0o7777)
        if fill is not None:
            try:
                fill(directory.upper)
            except BaseException:
                directory.remove()
                raise
        options = f"lowerdir={_escaped(lower)},upperdir={_escaped(path / 'upper')},workdir={_escaped(path / 'work')}"
        try:
            libc.mount("overlay", directory.root, "overlay", data=options)
            make_network(directory.network)
        except OSError as problem:
            if give_back is not None:
                directory.unmount()
                give_back(directory.upper)
            directory.remove()
            raise FailureError(
                Failure(
                    code="overlay-failed",
                    cause=f"the container's file system or network could not be made over {lower}: {problem}",
                    advice="The state directory must lie on a file system that can hold an overlay's upper layer (ext4, "
                    "xfs, tmpfs, but not another overlay): choose another with --state-dir.",
                )
            ) from problem
        return directory

    def lock(self) -> bool:
        """Take the directory's lock if nobody holds it; it is held until this process ends or :meth:`remove`.

        A directory that somebody is removing, or has removed, cannot be locked.
        """
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        if not os.fstat(descriptor).st_nlink:  # its owner removed it between the two calls
            os.close(descriptor)
            return False
        self._lock = descriptor
        return True

    def unlock(self) -> None:
        """Let go of the lock and leave everything as it is."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def unmount(self) -> None:
        """Unmount the overlay and the network namespace; what the container wrote is in :attr:`upper`."""
        mounted = [mount.place for mount in procfs.mounts()]
        for place in (self.root, self.network):
            for _ in range(mounted.count(str(place))):
                libc.unmount(place, libc.MNT_DETACH | libc.UMOUNT_NOFOLLOW)

    def remove(self) -> None:
        """Unmount the overlay and delete everything, then let go of the lock. Safe to call twice."""
        self.unmount()
        for name in ("rootfs", "upper", "work"):
            shutil.rmtree(self.path / name, ignore_errors=True)
        shutil.rmtree(self.path, ignore_errors=True)
        self.unlock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


def orphans(containers: Path) -> list[ContainerDirectory]:
    """List the directories whose owner has died, each now locked by us: the caller removes or unlocks it."""
    if not containers.is_dir():
        return []
    seen = sorted(path for path in containers.iterdir() if not path.name.startswith(_UNSEEN))
    found = [ContainerDirectory(path) for path in seen]
    return [directory for directory in found if directory.lock()]
