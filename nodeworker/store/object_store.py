"""Where objects live: a local directory or, through obstore, a bucket. The rest of the store knows only this port.

A directory is written by hand instead of through obstore's ``LocalStore``, which neither calls fsync nor makes private
files (obstore 0.12): a snapshot counts as stored only when it survives a power cut, and it holds a process's memory. The
layout is the same, so either can read what the other wrote.

Objects are written once, under a name that is known only after their last byte, and appear whole or not at all.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from nodeworker.domain.common_failures import corrupt, disk_full, is_disk_full, missing, store_trouble
from nodeworker.store.buckets import open_bucket
from nodeworker.store.exclusive_create import give_name

_PARTIAL = ".partial-"


class ObjectWriter(Protocol):
    """An object in the making; ends with :meth:`commit` or :meth:`abort`, called once."""

    def write(self, data: bytes | memoryview) -> None:
        """Append."""

    def commit(self, name: str, *, exclusive: bool = False) -> None:
        """Make the object durable and let it appear as ``name``.

        Raises:
            FileExistsError: ``exclusive``, and there is an object of that name, which stays as it is.
        """

    def abort(self) -> None:
        """Leave nothing."""


class ObjectReader(Protocol):
    """An open object; several threads may read."""

    @property
    def size_bytes(self) -> int:
        """Length of the whole object."""

    def read(self, offset_bytes: int, length_bytes: int) -> bytes | memoryview:
        """Read exactly this range; FailureError(snapshot-corrupt) if the object ends before."""

    def close(self) -> None:
        """Free what the reader holds."""


class Objects(Protocol):
    """A place for objects in folders.

    Raises FailureError ``disk-full``, ``snapshot-missing``, ``snapshot-corrupt``, or ``store-…`` for what the store refuses.
    """

    def create(self, folder: str) -> ObjectWriter:
        """Begin an object in ``folder``, which is made if need be."""

    def open(self, path: str, *, fresh: bool = False) -> ObjectReader:
        """Open an object; ``fresh`` asks for the medium's bytes instead of a cache's."""

    def settle(self, folder: str) -> None:
        """Return when the names that were committed in ``folder`` survive a power cut."""

    def names(self, folder: str) -> list[str]:
        """List what is in ``folder``, leftovers of a killed process included; empty if there is no such folder."""

    def remove(self, folder: str, name: str) -> None:
        """Remove an object; a missing one is no error."""

    def prune(self, folder: str) -> None:
        """Remove ``folder`` if it is empty, where folders exist at all."""


def open_objects(url: str) -> Objects:
    """Open the place that ``url`` names: ``file:///dir``, ``s3://bucket/prefix``, ``gs://…`` or ``az://…``.

    Raises:
        ValueError: it names no absolute directory of this machine, and no bucket.
    """
    parts = urlsplit(url)
    if parts.scheme == "file":
        if parts.netloc not in {"", "localhost"} or not parts.path.startswith("/"):
            raise ValueError(f"the store's URL {url!r} names no directory of this machine; write file:///directory")
        return DirectoryObjects(Path(unquote(parts.path)))
    return open_bucket(url, os.environ)


@contextmanager
def _medium(where: Path) -> Iterator[None]:
    """Say in a failure's words what the file system of a store refuses; that an object is there already is none.

    Raises:
        FailureError: ``disk-full``, ``store-denied``, ``store-unreachable``.
    """
    try:
        yield
    except FileExistsError:
        raise
    except OSError as problem:
        if is_disk_full(problem):
            raise disk_full(str(where), str(problem)) from problem
        raise store_trouble(where, problem) from problem


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class DirectoryObjects:
    """Objects as files of mode 0600 in directories of mode 0700."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def create(self, folder: str) -> ObjectWriter:
        """Begin an object."""
        with _medium(self._root):
            return _FileWriter(self._made(folder))

    def open(self, path: str, *, fresh: bool = False) -> ObjectReader:
        """Open an object."""
        return _FileReader(self._root / path, fresh=fresh)

    def settle(self, folder: str) -> None:
        """Sync the directory."""
        with _medium(self._root):
            _sync_directory(self._root / folder)

    def names(self, folder: str) -> list[str]:
        """List a folder."""
        with _medium(self._root):
            try:
                return sorted(path.name for path in (self._root / folder).iterdir())
            except FileNotFoundError:
                return []

    def remove(self, folder: str, name: str) -> None:
        """Remove a file, or whatever else lies under its name."""
        path = self._root / folder / name
        with _medium(self._root):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def prune(self, folder: str) -> None:
        """Remove an empty directory."""
        with suppress(OSError):
            (self._root / folder).rmdir()

    def _made(self, folder: str) -> Path:
        path = self._root / folder
        if path.is_dir():
            return path
        missing_ones = [path, *path.parents]
        missing_ones = missing_ones[: next(i for i, parent in enumerate(missing_ones) if parent.is_dir())]
        for directory in reversed(missing_ones):
            directory.mkdir(mode=0o700, exist_ok=True)
            _sync_directory(directory.parent)
        return path


class _FileWriter:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._partial = directory / f"{_PARTIAL}{uuid.uuid4().hex}"
        self._descriptor = os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def write(self, data: bytes | memoryview) -> None:
        with _medium(self._directory):
            written = os.write(self._descriptor, data)
            while written < len(data):
                written += os.write(self._descriptor, memoryview(data)[written:])

    def commit(self, name: str, *, exclusive: bool = False) -> None:
        with _medium(self._directory):
            os.fsync(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
            if exclusive:
                give_name(self._partial, self._directory / name)
            else:
                self._partial.rename(self._directory / name)

    def abort(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self._partial.unlink(missing_ok=True)


class _FileReader:
    def __init__(self, path: Path, *, fresh: bool) -> None:
        self._path = path
        self._descriptor = -1
        with _medium(path):
            try:
                self._descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except (FileNotFoundError, NotADirectoryError) as problem:
                raise missing(str(path)) from problem
        self.size_bytes = os.fstat(self._descriptor).st_size
        if fresh:  # clean pages leave the page cache, so the next read comes from the disk
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        with _medium(self._path):
            data = os.pread(self._descriptor, length_bytes, offset_bytes)
        while len(data) < length_bytes:
            with _medium(self._path):
                more = os.pread(self._descriptor, length_bytes - len(data), offset_bytes + len(data))
            if not more:
                raise corrupt(f"The object {self._path} is truncated: it ends at byte {offset_bytes + len(data)}.")
            data += more
        return data

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    __del__ = close
