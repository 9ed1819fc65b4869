"""One chunk: from the raw bytes of a file to what is kept in a pack, and back.

Chunks are of 1 MiB. Measured on process memory (tests/bench/bench_store.py), everything from 256 KiB to 2 MiB compresses to the
same size within one per cent and at the same speed. So the larger end is for small manifests (some 100 kB for a GiB) and few
requests to a bucket, the smaller end for finding repetitions and for keeping every core busy on small captures.

zstd level 1 is the fastest level that still entropy-codes literals. A sample of every chunk is tried first, because
compressing what cannot be compressed (weights, encrypted or compressed caches) costs more than everything else together.
"""

from __future__ import annotations

import os
import threading
from typing import NamedTuple

import zstandard
from blake3 import blake3

from nodeworker.domain.common_failures import corrupt, spool_corrupt
from woodfrog.protocol.manifest import Chunk

CHUNK_BYTES = 1 << 20
_LEVEL = 1
_SAMPLE_PIECES = 16
_SAMPLE_PIECE_BYTES = 2048
_SAMPLED_FROM_BYTES = 128 << 10
_WORTHWHILE = 0.95
"""Saving less than a twentieth is not worth the decompression at restore."""
_ZEROS = bytes(CHUNK_BYTES)


class Prepared(NamedTuple):
    """A chunk ready for a pack. No digest: all zeros. No payload: the digest is known already."""

    digest: bytes | None
    payload: bytes | memoryview | None
    raw_bytes: int


class _Scratch(threading.local):
    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=False, write_content_size=True)
        self.decompressor = zstandard.ZstdDecompressor()
        self.buffer = bytearray(CHUNK_BYTES)


_scratch = _Scratch()


def read(descriptor: int, offset_bytes: int, length_bytes: int) -> tuple[memoryview, bytes | None]:
    """Read one chunk, at most :data:`CHUNK_BYTES`, and hash it: no digest if it is all zeros. The next read of the thread overwrites it.

    Raises:
        FailureError: ``spool-corrupt`` if the file is shorter than it was when it was listed.
        OSError: the file cannot be read.
    """
    buffer = _scratch.buffer
    view = memoryview(buffer)[:length_bytes]
    filled = 0
    while filled < length_bytes:
        count = os.preadv(descriptor, [view[filled:]], offset_bytes + filled)
        if count == 0:
            raise spool_corrupt(f"a file of the capture became shorter: it ends at byte {offset_bytes + filled}")
        filled += count
    zero = (
        buffer == _ZEROS if length_bytes == CHUNK_BYTES else not any(view[:64]) and bytes(view) == _ZEROS[:length_bytes]
    )
    return view, None if zero else blake3(view).digest()


def prepare(descriptor: int, offset_bytes: int, length_bytes: int, known: dict[bytes, int]) -> Prepared:
    """Read one chunk, hash it, and compress it unless ``known`` has its digest.

    Raises:
        FailureError: as :func:`read`.
        OSError: as :func:`read`.
    """
    view, digest = read(descriptor, offset_bytes, length_bytes)
    if digest is None:
        return Prepared(None, None, length_bytes)
    if digest in known:
        return Prepared(digest, None, length_bytes)
    compressor = _scratch.compressor
    if length_bytes >= _SAMPLED_FROM_BYTES:
        step = length_bytes // _SAMPLE_PIECES
        sample = b"".join([view[at : at + _SAMPLE_PIECE_BYTES] for at in range(0, step * _SAMPLE_PIECES, step)])
        if len(compressor.compress(sample)) > _WORTHWHILE * len(sample):
            return Prepared(digest, bytes(view), length_bytes)
    packed = compressor.compress(view)
    if len(packed) > _WORTHWHILE * length_bytes:
        return Prepared(digest, bytes(view), length_bytes)
    return Prepared(digest, packed, length_bytes)


def unpack(stored: bytes | memoryview, chunk: Chunk, shown: str) -> bytes | memoryview:
    """Give back a chunk's raw bytes, proved by its digest; ``shown`` names the pack.

    The frame's own idea of its length is compared first: zstd allocates what a frame claims.

    Raises:
        FailureError: ``snapshot-corrupt``.
    """
    where = f"Byte {chunk.offset_bytes} and the {chunk.stored_bytes} following in {shown}"
    raw = stored
    if chunk.stored_bytes != chunk.raw_bytes:
        try:
            if zstandard.frame_content_size(stored) != chunk.raw_bytes:
                raise corrupt(f"{where} are not a zstd frame of {chunk.raw_bytes} bytes.")
            raw = _scratch.decompressor.decompress(stored)
        except zstandard.ZstdError as problem:
            raise corrupt(f"{where} cannot be decompressed.", str(problem)) from problem
    if len(raw) != chunk.raw_bytes or blake3(raw).hexdigest() != chunk.digest:
        raise corrupt(f"{where} do not have the digest that the manifest gives.")
    return raw
