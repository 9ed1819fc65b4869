"""The processes of a snapshot by name, each with the memory that the snapshot holds of it.

``pagemap-PID.img`` lists runs of pages; those that are present lie in a pages image. Memory that processes share is in images of its own and
belongs to none of them. Field numbers: CRIU's ``pagemap.proto`` and ``core.proto``; since 4.0 the number of pages has 64 bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec

from nodeworker.domain.criu_images import MalformedImageError, form
from nodeworker.domain.criu_images.tasks import CORE_TC, PSTREE, image, read_core

_PAGEMAP: Final = "pagemap-{}.img"
_COMM: Final = 6
_PAGES_ID: Final = 1
_ADDRESS: Final = 1
_PAGES: Final = 2
_IN_PARENT: Final = 3
_FLAGS: Final = 4
_PAGES_64: Final = 5
_PRESENT: Final = 1 << 2
"""PE_PRESENT (criu/include/pagemap.h)."""


class Process(msgspec.Struct, frozen=True):
    """One process of a snapshot; ``pid`` is the container's."""

    pid: int
    name: str
    threads: int
    memory_bytes: int


def read_processes(images: Mapping[str, bytes], page_size_bytes: int) -> list[Process]:
    """List the processes in the order of ``pstree.img``, parents before children.

    Raises:
        MalformedImageError: an image is missing or not what CRIU writes.
    """
    found = []
    for entry in form.read_messages(image(images, PSTREE), form.PSTREE, PSTREE):
        pid = entry.uint32(1)
        name = read_core(images, pid).message(CORE_TC, f"the process {pid}").optional_text(_COMM)
        found.append(Process(pid, name or "", len(entry.uint32s(5)), _pages(images, pid) * page_size_bytes))
    return found


def read_pages(
    images: Mapping[str, bytes], pids: Iterable[int], page_size_bytes: int
) -> Iterator[tuple[int, int, bytes]]:
    """Read every page of these processes: the pid, its address and what it holds. Whole images of pages are in memory meanwhile.

    Raises:
        MalformedImageError: an image is missing or not what CRIU writes.
    """
    for pid in pids:
        name = _PAGEMAP.format(pid)
        if name not in images:
            continue
        head, *_ = form.read_messages(images[name], form.PAGEMAP, name)
        held, offset = memoryview(image(images, f"pages-{head.uint32(_PAGES_ID)}.img")), 0
        for address, count in _runs(images, pid):
            if offset + count * page_size_bytes > len(held):
                raise MalformedImageError(f"{name} lists more pages than there are")
            for number in range(count):
                yield pid, address + number * page_size_bytes, bytes(held[offset : offset + page_size_bytes])
                offset += page_size_bytes


def _pages(images: Mapping[str, bytes], pid: int) -> int:
    """Count the pages that are in the snapshot."""
    return sum(count for _, count in _runs(images, pid))


def _runs(images: Mapping[str, bytes], pid: int) -> Iterator[tuple[int, int]]:
    """List the runs of pages that are in the snapshot, by address and number; a process that is dead has no list of them."""
    name = _PAGEMAP.format(pid)
    if name not in images:
        return
    _, *runs = form.read_messages(images[name], form.PAGEMAP, name)
    for run in runs:
        flags = run.optional_uint32(_FLAGS)
        if flags & _PRESENT if flags is not None else not run.optional_uint32(_IN_PARENT):
            yield run.optional_uint64(_ADDRESS) or 0, run.optional_uint64(_PAGES_64) or run.uint32(_PAGES)
