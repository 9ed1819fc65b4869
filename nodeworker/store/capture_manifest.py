"""The manifest of a capture that no store has: its files as they lie on this node, with the digest of every chunk of them.

It proves those files as the manifest of a stored snapshot proves a copy, and is read by the same code. Nothing is compressed or packed
for it: each chunk counts as a pack of its own, which is nowhere but in the file that the chunk is cut from.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from nodeworker.store.chunks import CHUNK_BYTES, read
from nodeworker.store.pack_writer import filled
from nodeworker.store.snapshots import ManifestHeader, TreeToStore, files_of, manifest_of
from woodfrog.protocol.manifest import HOLE, Chunk, Manifest, Pack


class _Listing:
    def __init__(self) -> None:
        self.chunks: list[Chunk] = []
        self._known: dict[bytes, int] = {}

    def add_file(self, path: Path, size_bytes: int) -> list[int]:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            there = filled(descriptor, size_bytes)
            return [
                self._index_of(descriptor, offset, min(CHUNK_BYTES, size_bytes - offset))
                if there is None or offset in there
                else HOLE
                for offset in range(0, size_bytes, CHUNK_BYTES)
            ]
        finally:
            os.close(descriptor)

    def _index_of(self, descriptor: int, offset: int, length: int) -> int:
        _, digest = read(descriptor, offset, length)
        if digest is None:
            return HOLE
        index = self._known.setdefault(digest, len(self.chunks))
        if index == len(self.chunks):
            self.chunks.append(Chunk(digest.hex(), index, 0, length, length))
        return index


def list_files(header: ManifestHeader, trees: Sequence[TreeToStore]) -> Manifest:
    """Read all files of a capture and make its manifest.

    Raises:
        FailureError: ``capture-unfit``, or ``spool-corrupt`` if a file became shorter.
        OSError: a file cannot be read.
    """
    listing = _Listing()
    listed = [
        (tree, {entry.path: listing.add_file(tree.contents[entry.path], entry.size_bytes) for entry in files_of(tree)})
        for tree in trees
    ]
    packs = [Pack(chunk.digest, chunk.raw_bytes) for chunk in listing.chunks]
    return manifest_of(header, listed, listing.chunks, packs)
