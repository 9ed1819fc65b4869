"""Proving files that lie on this node already: are they, byte for byte, what a manifest says?

The same digests that prove what comes out of the store prove a copy of it. Nothing is decompressed or written, so this runs
at the speed at which memory is read and hashed, on every core.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from blake3 import blake3

from nodeworker.domain.common_failures import broken_copy
from nodeworker.domain.filename_codec import bytes_of
from woodfrog.protocol.manifest import HOLE, Entry, Manifest

Take = Callable[[memoryview, int], None]
"""What is done with proved bytes, and at which offset of the file they are."""


class _Scratch(threading.local):
    def __init__(self) -> None:
        self.buffer = bytearray()


_scratch = _Scratch()


def path_of(entry: Entry, folder: Path) -> Path:
    """Where an entry of a tree lies, if the tree lies in ``folder`` under its own names."""
    return folder / os.fsdecode(bytes_of(entry.path))


def prove_sizes(entries: Iterable[Entry], folder: Path) -> None:
    """Look whether every file is there and has its size.

    Raises:
        FailureError: ``local-copy-broken``.
    """
    for entry in entries:
        if entry.kind == "file":
            with _opened(entry, path_of(entry, folder)):
                pass


def prove_file(manifest: Manifest, entry: Entry, path: Path, take: Take | None = None) -> None:
    """Prove a file's every byte, handing each chunk on once it is proved; holes are proved and not handed on.

    Raises:
        FailureError: ``local-copy-broken``.
        OSError: the file cannot be read, or what ``take`` raises.
    """
    with _opened(entry, path) as descriptor:
        for position in range(len(entry.chunks)):
            _prove_chunk(manifest, entry, path, descriptor, position, take)


def prove_files(manifest: Manifest, entries: Iterable[Entry], folder: Path, workers: int) -> None:
    """Prove every file among ``entries``, which lie in ``folder`` under their own names, with several threads.

    Raises:
        FailureError: ``local-copy-broken``.
        OSError: a file cannot be read.
    """
    with ThreadPoolExecutor(workers, thread_name_prefix="prove") as pool:
        try:
            for entry in entries:
                if entry.kind == "file":
                    path = path_of(entry, folder)
                    with _opened(entry, path) as descriptor:
                        jobs = [
                            pool.submit(_prove_chunk, manifest, entry, path, descriptor, position, None)
                            for position in range(len(entry.chunks))
                        ]
                        try:
                            for job in jobs:
                                job.result()
                        except BaseException:
                            pool.shutdown(cancel_futures=True)  # before the descriptor is closed under them
                            raise
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _opened(entry: Entry, path: Path) -> Iterator[int]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as problem:
        raise broken_copy(f"The file {path} cannot be opened: {problem.strerror}.") from problem
    try:
        size = os.fstat(descriptor).st_size
        if size != entry.size_bytes:
            raise broken_copy(f"The file {path} has {size} bytes, its manifest says {entry.size_bytes}.")
        yield descriptor
    finally:
        os.close(descriptor)


def _prove_chunk(
    manifest: Manifest, entry: Entry, path: Path, descriptor: int, position: int, take: Take | None
) -> None:
    offset = position * manifest.chunk_bytes
    length = min(manifest.chunk_bytes, entry.size_bytes - offset)
    if len(_scratch.buffer) < length:
        _scratch.buffer = bytearray(length)
    view = memoryview(_scratch.buffer)[:length]
    filled = 0
    while filled < length:
        count = os.preadv(descriptor, [view[filled:]], offset + filled)
        if count == 0:
            raise broken_copy(f"The file {path} ends at byte {offset + filled}.")
        filled += count
    index = entry.chunks[position]
    if index == HOLE:
        if view != bytes(length):
            raise broken_copy(f"The file {path} has data at byte {offset}, where its manifest says zeros.")
        return
    if blake3(view).hexdigest() != manifest.chunks[index].digest:
        raise broken_copy(f"The file {path} does not have the digest that its manifest gives at byte {offset}.")
    if take is not None:
        take(view, offset)
