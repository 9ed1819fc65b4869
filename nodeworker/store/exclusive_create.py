"""Giving a file its name only if nobody else has it, on whatever file system a store lies.

A hard link does so, and is what POSIX promises; SMB (Azure Files) and file systems over object storage (gcsfuse, s3fs) have
none. The next best is renameat2(2) with RENAME_NOREPLACE, and where that is missing, too, the name is claimed by an empty file
which is then replaced: a crash in between leaves the empty file, which no reader takes for an object.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

from woodfrog.service import libc

_AT_FDCWD: Final = -100
_RENAME_NOREPLACE: Final = 1
_NO_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EMLINK, errno.EXDEV})
_NO_SUCH_RENAME: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})


def give_name(partial: Path, name: Path) -> None:
    """Let a file that is complete appear under ``name``.

    Raises:
        FileExistsError: something is there already, and stays as it is.
        OSError: the file system does not do it in any way.
    """
    try:
        name.hardlink_to(partial)
    except OSError as problem:
        if problem.errno not in _NO_LINKS:
            raise
    else:
        partial.unlink()
        return
    if not _renamed(partial, name):
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        partial.rename(name)


def _renamed(partial: Path, name: Path) -> bool:
    old, new = os.fsencode(partial), os.fsencode(name)
    try:
        libc.call("renameat2", _AT_FDCWD, old, _AT_FDCWD, new, _RENAME_NOREPLACE, about=str(name))
    except OSError as problem:
        if problem.errno in _NO_SUCH_RENAME:
            return False
        raise
    return True
