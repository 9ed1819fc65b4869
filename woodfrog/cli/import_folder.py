"""A folder beside an archive for what it holds, which nobody has to remove by hand: what killed imports left goes with the next one.

Whoever has such a folder holds a lock on it, which the kernel lets go when they end, however they end. On a file system that locks no
folders (NFS) nothing is removed, for nothing says whose it is.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_PREFIX: Final = ".woodfrog-import-"
_YOUNG_SECONDS: Final = 60.0
"""So long one may have no lock yet."""


@contextmanager
def import_folder(beside: Path) -> Iterator[Path]:
    """Make one, having removed those that nobody has any more.

    Raises:
        OSError: it cannot be made.
    """
    for left in beside.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            _remove_if_left(left)
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=beside) as name:
        descriptor = _opened(Path(name))
        try:
            with suppress(OSError):
                _lock(descriptor)
            yield Path(name)
        finally:
            os.close(descriptor)


def _remove_if_left(folder: Path) -> None:
    descriptor = _opened(folder)
    try:
        if time.time() - os.fstat(descriptor).st_mtime > _YOUNG_SECONDS:
            _lock(descriptor)
            shutil.rmtree(folder)
    finally:
        os.close(descriptor)


def _opened(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _lock(descriptor: int) -> None:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
