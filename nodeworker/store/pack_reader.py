"""Reading: chunks come back from packs into files, each proved by its digest before a byte of it is written.

Holes stay holes. Threads share the work by chunks, so that one large file keeps every core and the store busy.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Self

from nodeworker.domain.common_failures import corrupt, disk_full, is_disk_full
from nodeworker.domain.filename_codec import bytes_of
from nodeworker.store.chunks import unpack
from nodeworker.store.object_store import ObjectReader, Objects
from nodeworker.store.pack_writer import pack_name
from woodfrog.protocol.manifest import HOLE, Entry, Manifest, Tree

_AHEAD_PER_WORKER = 8


class Unpacker:
    """The packs of one manifest, opened as they are needed; may be shared by threads; a context manager."""

    def __init__(self, objects: Objects, folder: str, manifest: Manifest) -> None:
        self._objects = objects
        self._folder = folder
        self._manifest = manifest
        self._lock = threading.Lock()
        self._packs: dict[int, ObjectReader] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while self._packs:
            self._packs.popitem()[1].close()

    def chunk(self, index: int) -> bytes | memoryview:
        """Read one proved chunk.

        Raises:
            FailureError: ``snapshot-corrupt``, ``snapshot-missing``.
        """
        chunk = self._manifest.chunks[index]
        stored = self._open(chunk.pack).read(chunk.offset_bytes, chunk.stored_bytes)
        return unpack(stored, chunk, self._path(chunk.pack))

    def write_chunk(self, descriptor: int, offset_bytes: int, index: int) -> None:
        """Write one proved chunk at its place in an open file.

        Raises:
            FailureError: ``snapshot-corrupt``, ``snapshot-missing``.
            OSError: the file cannot be written.
        """
        raw = memoryview(self.chunk(index))
        while raw:
            written = os.pwrite(descriptor, raw, offset_bytes)
            raw = raw[written:]
            offset_bytes += written

    def __call__(self, entry: Entry, descriptor: int) -> None:
        """Fill an open, empty file with the content of ``entry``.

        Raises:
            FailureError: as :meth:`write_chunk`, and ``disk-full``.
            OSError: as :meth:`write_chunk`.
        """
        try:
            os.ftruncate(descriptor, entry.size_bytes)
            for position, index in enumerate(entry.chunks):
                if index != HOLE:
                    self.write_chunk(descriptor, position * self._manifest.chunk_bytes, index)
        except OSError as problem:
            if is_disk_full(problem):
                raise disk_full("the container's root filesystem", str(problem)) from problem
            raise

    def _path(self, pack: int) -> str:
        return f"{self._folder}/{pack_name(self._manifest.packs[pack].digest)}"

    def _open(self, pack: int) -> ObjectReader:
        reader = self._packs.get(pack)
        if reader is not None:
            return reader
        with self._lock:
            if pack not in self._packs:
                reader = self._objects.open(self._path(pack))
                expected = self._manifest.packs[pack].bytes
                if reader.size_bytes != expected:
                    reader.close()
                    raise corrupt(
                        f"The object {self._path(pack)} has {reader.size_bytes} bytes, its manifest says {expected}."
                    )
                self._packs[pack] = reader
            return self._packs[pack]


def fetch_files(unpacker: Unpacker, manifest: Manifest, tree: Tree, into: Path, workers: int) -> None:
    """Write the directories and files of ``tree`` under ``into``, an empty directory that is nobody else's.

    Raises:
        FailureError: ``snapshot-corrupt``, ``snapshot-missing``, ``disk-full``.
        OSError: a file cannot be made.
    """
    needed = sum(manifest.chunks[index].raw_bytes for entry in tree.entries for index in entry.chunks if index != HOLE)
    space = os.statvfs(into)
    if needed > space.f_bavail * space.f_frsize:
        raise disk_full(str(into), f"{needed} bytes are needed, {space.f_bavail * space.f_frsize} are free")
    try:
        _write_files(unpacker, manifest.chunk_bytes, tree.entries, into, workers)
    except OSError as problem:
        if is_disk_full(problem):
            raise disk_full(str(into), str(problem)) from problem
        raise


def _write_files(unpacker: Unpacker, chunk_bytes: int, entries: Iterable[Entry], into: Path, workers: int) -> None:
    jobs: deque[tuple[Future[None], int | None]] = deque()
    open_files: set[int] = set()

    def land() -> None:
        future, last_of = jobs.popleft()
        future.result()
        if last_of is not None:
            open_files.discard(last_of)
            os.close(last_of)

    with ThreadPoolExecutor(workers, thread_name_prefix="fetch") as pool:
        try:
            for entry in entries:
                path = into / os.fsdecode(bytes_of(entry.path))
                if entry.kind == "directory":
                    path.mkdir(0o700)
                    continue
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
                open_files.add(descriptor)
                os.ftruncate(descriptor, entry.size_bytes)
                held = [(at * chunk_bytes, index) for at, index in enumerate(entry.chunks) if index != HOLE]
                for offset, index in held:
                    future = pool.submit(unpacker.write_chunk, descriptor, offset, index)
                    jobs.append((future, descriptor if (offset, index) == held[-1] else None))
                    while len(jobs) > workers * _AHEAD_PER_WORKER:
                        land()
                if not held:
                    open_files.discard(descriptor)
                    os.close(descriptor)
            while jobs:
                land()
        finally:
            pool.shutdown(cancel_futures=True)
            for descriptor in open_files:
                os.close(descriptor)
