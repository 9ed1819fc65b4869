"""Writing: files are cut into chunks, chunks are gathered in packs, packs are proved by reading them back.

Cores, disk and memory are used at the same time and within bounds: worker threads read, hash and compress a few chunks
ahead (the C code behind releases the GIL); the caller's thread puts them into the pack in file order, so that a restore reads
the store from front to back; another thread syncs a full pack and reads it back while the next one fills.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from blake3 import blake3

from nodeworker.domain.common_failures import corrupt, spool_lost
from nodeworker.store.chunks import CHUNK_BYTES, Prepared, prepare
from nodeworker.store.object_store import Objects, ObjectWriter
from woodfrog.protocol.manifest import HOLE, Chunk, Pack

PACK_BYTES = 64 << 20
"""A pack is closed when it reaches this: a GiB of memory becomes a dozen objects, and a failed upload repeats little."""
_READ_BYTES = 1 << 20
_UNPROVED_PACKS = 2
_AHEAD_PER_WORKER = 4


def pack_name(digest: str) -> str:
    """Name a pack's object within the snapshot's folder."""
    return f"{digest}.pack"


@dataclass(slots=True)
class _OpenPack:
    writer: ObjectWriter
    hash: Any = field(default_factory=blake3)
    bytes: int = 0


@dataclass(slots=True)
class _Job:
    """A chunk on its way: ``prepared`` is absent for a hole, ``close`` is the file that this chunk is the last of."""

    landing: list[int]
    prepared: Future[Prepared] | None
    close: int | None


class Packer:
    """Takes the files of one snapshot, one after the other; used by one thread, as a context manager."""

    def __init__(self, objects: Objects, folder: str, workers: int) -> None:
        self._objects = objects
        self._folder = folder
        self._ahead = workers * _AHEAD_PER_WORKER
        self._workers = ThreadPoolExecutor(workers, thread_name_prefix="chunk")
        self._prover = ThreadPoolExecutor(1, thread_name_prefix="pack")
        self._jobs: deque[_Job] = deque()
        self._known: dict[bytes, int] = {}
        self._pack: _OpenPack | None = None
        self._packs = 0
        self._unproved: deque[Future[Pack]] = deque()
        self._proved: list[Pack] = []
        self.chunks: list[Chunk] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._workers.shutdown(cancel_futures=True)
        self._prover.shutdown()
        for job in self._jobs:
            if job.close is not None:
                os.close(job.close)
        if self._pack is not None:
            self._pack.writer.abort()

    def add_file(self, path: Path, size_bytes: int) -> list[int]:
        """Cut a file into chunks. The list fills with their indices, and is complete after :meth:`finish`.

        Raises:
            FailureError: ``disk-full`` from the store, ``snapshot-corrupt`` if it does not give back what it took, ``spool-lost`` if
                a file is gone, ``spool-corrupt`` if one became shorter.
            OSError: a file cannot be read.
        """
        landing: list[int] = []
        if size_bytes == 0:
            return landing
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError as problem:
            raise spool_lost(f"the file {path} of the capture is gone") from problem
        there = filled(descriptor, size_bytes)
        for offset in range(0, size_bytes, CHUNK_BYTES):
            length = min(CHUNK_BYTES, size_bytes - offset)
            future = None
            if there is None or offset in there:
                future = self._workers.submit(prepare, descriptor, offset, length, self._known)
            self._jobs.append(_Job(landing, future, descriptor if offset + length == size_bytes else None))
            while len(self._jobs) > self._ahead:
                self._land(self._jobs.popleft())
        return landing

    def finish(self) -> tuple[Pack, ...]:
        """Land what is on its way, close and prove the last pack, and name all of them in order.

        Raises:
            FailureError: as :meth:`add_file`.
            OSError: as :meth:`add_file`.
        """
        while self._jobs:
            self._land(self._jobs.popleft())
        self._close_pack()
        while self._unproved:
            self._proved.append(self._unproved.popleft().result())
        return tuple(self._proved)

    def _land(self, job: _Job) -> None:
        try:
            job.landing.append(HOLE if job.prepared is None else self._index_of(job.prepared.result()))
        finally:
            if job.close is not None:
                os.close(job.close)

    def _index_of(self, chunk: Prepared) -> int:
        if chunk.digest is None:
            return HOLE
        known = self._known.get(chunk.digest)
        if known is not None:
            return known
        assert chunk.payload is not None, "a digest that a worker found known stays known"
        if self._pack is None:
            self._pack = _OpenPack(self._objects.create(self._folder))
        pack = self._pack
        pack.writer.write(chunk.payload)
        pack.hash.update(chunk.payload)
        index = len(self.chunks)
        stored_bytes = len(chunk.payload)
        self.chunks.append(Chunk(chunk.digest.hex(), self._packs, pack.bytes, stored_bytes, chunk.raw_bytes))
        self._known[chunk.digest] = index
        pack.bytes += stored_bytes
        if pack.bytes >= PACK_BYTES:
            self._close_pack()
        return index

    def _close_pack(self) -> None:
        pack, self._pack = self._pack, None
        if pack is None:
            return
        self._packs += 1
        self._unproved.append(self._prover.submit(self._prove, pack))
        while len(self._unproved) > _UNPROVED_PACKS:
            self._proved.append(self._unproved.popleft().result())

    def _prove(self, pack: _OpenPack) -> Pack:
        digest: str = pack.hash.hexdigest()
        name = pack_name(digest)
        try:
            pack.writer.commit(name)
        except BaseException:
            pack.writer.abort()
            raise
        prove(self._objects, f"{self._folder}/{name}", digest, pack.bytes)
        return Pack(digest, pack.bytes)


def prove(objects: Objects, path: str, digest: str, size_bytes: int) -> None:
    """Read an object back from its medium and compare it with what was written.

    Raises:
        FailureError: ``snapshot-corrupt`` or ``snapshot-missing``.
    """
    reader = objects.open(path, fresh=True)
    try:
        actual = blake3()
        if reader.size_bytes == size_bytes:
            for offset in range(0, size_bytes, _READ_BYTES):
                actual.update(reader.read(offset, min(_READ_BYTES, size_bytes - offset)))
        if reader.size_bytes != size_bytes or actual.hexdigest() != digest:
            raise corrupt(f"The store gave back other bytes for {path} than it was given.")
    finally:
        reader.close()


def filled(descriptor: int, size_bytes: int) -> set[int] | None:
    """Find the offsets of chunks that hold data, by lseek(2) on SEEK_DATA; None for a file without holes."""
    if os.fstat(descriptor).st_blocks * 512 >= size_bytes:
        return None
    with_data: set[int] = set()
    position = 0
    while position < size_bytes:
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError:  # ENXIO: a hole up to the end
            break
        position = os.lseek(descriptor, start, os.SEEK_HOLE)
        with_data.update(range(start - start % CHUNK_BYTES, min(position, size_bytes), CHUNK_BYTES))
    return with_data
