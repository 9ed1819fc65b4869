"""Which directories are made of huge pages: an emptyDir with ``medium: HugePages`` is a hugetlbfs, which no copy can be taken of.

Its files can be mapped and not written to (``write`` gives EINVAL; hugetlbpage.rst in the kernel's documentation), and pages that the
new node has not set aside cannot be put back.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Final

_HUGETLBFS_MAGIC: Final = 0x958458F6
"""Of <linux/magic.h>."""
_STATFS_BYTES: Final = 256
"""More than struct statfs has on any architecture; its first word is the file system's type (statfs(2))."""

_libc = ctypes.CDLL(None, use_errno=True)


def are_under(directory: Path) -> bool:
    """Tell whether a directory that exists lies on huge pages.

    Raises:
        OSError: it cannot be looked at.
    """
    answer = ctypes.create_string_buffer(_STATFS_BYTES)
    if _libc.statfs(os.fsencode(directory), answer) != 0:
        raise OSError(ctypes.get_errno(), "statfs failed", str(directory))
    return ctypes.c_ulong.from_buffer(answer).value & 0xFFFFFFFF == _HUGETLBFS_MAGIC
