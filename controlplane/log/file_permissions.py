"""Whose the files of the log are: SQLite has no roles, so the permissions of its file are all that keeps others from reading it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from sqlalchemy.engine import URL

_COMPANIONS: Final = ("", "-wal", "-shm", "-journal")
PRIVATE_FILE: Final = 0o600
PRIVATE_FOLDER: Final = 0o700


def path_of(url: URL) -> Path | None:
    """Return the file of an SQLite database, ``None`` if it has none."""
    name = url.database or ""
    return None if not name or name == ":memory:" or name.startswith("file:") else Path(name).absolute()


def keep_private(database: Path) -> None:
    """Make the file if it is not there, and let nobody but its owner read it, its companions, or look into a folder of its own.

    SQLite gives the companions that it makes the permissions of the database (``findCreateFileMode`` in its os_unix.c). A folder that
    holds other things as well is left alone, and so is what belongs to somebody else.
    """
    with suppress(FileExistsError):
        os.close(os.open(database, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE))
    for companion in _COMPANIONS:
        _tighten(database.with_name(f"{database.name}{companion}"), PRIVATE_FILE)
    with suppress(OSError):
        if all(each.name.startswith(database.name) for each in database.parent.iterdir()):
            _tighten(database.parent, PRIVATE_FOLDER)


def keep_files_private(folder: Path, names: Iterable[str]) -> None:
    """Let nobody but their owner read these files of a folder; those that are not there, or somebody else's, are left alone."""
    for name in names:
        _tighten(folder / name, PRIVATE_FILE)


def _tighten(path: Path, mode: int) -> None:
    with suppress(OSError):
        found = path.lstat()
        if found.st_uid == os.geteuid() and not stat.S_ISLNK(found.st_mode) and found.st_mode & 0o777 & ~mode:
            path.chmod(mode)
