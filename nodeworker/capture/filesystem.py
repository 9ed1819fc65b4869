"""The file system that a directory lies on: its kind (statfs(2)), by which some cannot be copied and some say whose it is; and syncfs(2)."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Final

from woodfrog.service import libc

_HUGETLBFS: Final = 0x958458F6
_TMPFS: Final = 0x01021994
"""Both of <linux/magic.h>."""
_STATFS_BYTES: Final = 256
"""More than struct statfs has on any architecture; its first word is the file system's type."""


def is_huge_pages(directory: Path) -> bool:
    """Tell whether a directory lies on huge pages: an emptyDir with ``medium: HugePages`` is a hugetlbfs.

    Its files can be mapped and not written to (``write`` gives EINVAL; hugetlbpage.rst in the kernel's documentation), and
    pages that the new node has not set aside cannot be put back.

    Raises:
        OSError: it cannot be looked at.
    """
    return _type_of(directory) == _HUGETLBFS


def is_tmpfs(directory: Path) -> bool:
    """Tell whether a directory lies in memory.

    Raises:
        OSError: it cannot be looked at.
    """
    return _type_of(directory) == _TMPFS


def _type_of(directory: Path) -> int:
    answer = ctypes.create_string_buffer(_STATFS_BYTES)
    libc.call("statfs", os.fsencode(directory), answer, about=str(directory))
    return ctypes.c_ulong.from_buffer(answer).value & 0xFFFFFFFF


def sync(directory: Path) -> None:
    """Write out everything of the file system of a directory.

    Raises:
        OSError: that failed.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        libc.call("syncfs", descriptor, about=str(directory))
    finally:
        os.close(descriptor)
