"""Opening what a container may swap for something else at any moment: look at the very thing that is then read.

A name says nothing about what will be opened under it: between stat(2) and open(2) a process of the pod can put a device
node in the place of a file, and the worker, which no device cgroup holds back, would read the node's disk. So a name is
opened once, with O_PATH, which calls no driver and follows nothing (open(2)). Type, size, owner and attributes are those of
that descriptor, and it is opened for reading through /proc/self/fd only if it is a regular file or a directory: an inode
never changes its type.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

_PINNED = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class Pinned:
    """One inode below an open directory, held by a descriptor that can be looked at and not read; a context manager."""

    __slots__ = ("descriptor", "status")

    def __init__(self, name: bytes, parent: int) -> None:
        """Hold what is at a name now.

        Raises:
            OSError: nothing is there.
        """
        self.descriptor = os.open(name, _PINNED, dir_fd=parent)
        try:
            self.status = os.fstat(self.descriptor)
        except BaseException:
            os.close(self.descriptor)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)

    @property
    def path(self) -> bytes:
        """A path that always leads to this inode, for calls that take no descriptor of this kind."""
        return b"/proc/self/fd/%d" % self.descriptor

    def target(self) -> bytes:
        """Read a symbolic link."""
        return os.readlink(b"", dir_fd=self.descriptor)

    def open_file(self) -> int:
        """Open a regular file for reading.

        Raises:
            OSError: it is none, so that no device, FIFO or socket is ever opened.
        """
        if not stat.S_ISREG(self.status.st_mode):
            raise OSError(errno.ENXIO, "it is not a regular file")
        return os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    def open_directory(self) -> int:
        """Open a directory for listing.

        Raises:
            NotADirectoryError: it is none.
        """
        return os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


@contextmanager
def opened_root(root: Path) -> Iterator[int]:
    """Open the directory of a tree, which the engine or the kubelet has made and whose name no container can change.

    Raises:
        OSError: it is no directory.
    """
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def names_in(directory: int) -> Iterator[bytes]:
    """Yield the names in an open directory as the kernel gives them, without holding all of them."""
    with os.scandir(b"/proc/self/fd/%d" % directory) as found:
        for each in found:
            yield each.name
