"""Which threads of a snapshot will have a seccomp filter.

``seccomp.img`` holds all filters, each with the one that was installed before it; a thread names its last. Where all threads of a
process had the same, CRIU writes them down for the first thread only and has the kernel give them to the others
(criu/seccomp.c, ``collect_filters``; seccomp(2), SECCOMP_FILTER_FLAG_TSYNC).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from nodeworker.domain.criu_images import form
from nodeworker.domain.criu_images.protobuf import MalformedImageError, Message
from nodeworker.domain.criu_images.tasks import Task, Thread, image

IMAGE: Final = "seccomp.img"
_NONE: Final = 0
_STRICT: Final = 1
_FILTERS: Final = 2
_SYNCHRONIZE: Final = 1
"""SECCOMP_FILTER_FLAG_TSYNC (linux/seccomp.h)."""


def all_filtered(images: Mapping[str, bytes], tasks: tuple[Task, ...]) -> bool:
    """Say whether every thread will have a filter, or be in strict mode.

    Raises:
        MalformedImageError: an image is missing or not what CRIU writes.
    """
    modes = {thread.seccomp_mode for task in tasks for thread in task.threads}
    if not modes <= {_NONE, _STRICT, _FILTERS}:
        raise MalformedImageError(f"a thread is in one of the unknown seccomp modes {sorted(modes)[:9]}")
    filters = _filters(images) if _FILTERS in modes else ()
    found = [_filtered(task, filters) for task in tasks]
    return all(found)


def filter_chains(images: Mapping[str, bytes], tasks: tuple[Task, ...]) -> set[tuple[bytes, ...]]:
    """Return the programs of every chain that a thread has by itself; of threads that are in strict mode, or share one, none.

    Raises:
        MalformedImageError: as :func:`all_filtered`.
    """
    threads = [thread for task in tasks for thread in task.threads if thread.seccomp_mode == _FILTERS]
    filters = _filters(images) if threads else ()
    chains = (_chain(thread, filters) for thread in threads if thread.seccomp_filter is not None)
    return {tuple(one.data(1) for one in chain) for chain in chains}


def _filters(images: Mapping[str, bytes]) -> tuple[Message, ...]:
    return form.read_message(image(images, IMAGE), form.SECCOMP, IMAGE).messages(1, "a seccomp filter")


def _filtered(task: Task, filters: tuple[Message, ...]) -> bool:
    chains = {thread.id: _chain(thread, filters) for thread in task.threads}
    first = chains[task.pid]
    shared = bool(first) and all((one.optional_uint32(3) or 0) & _SYNCHRONIZE for one in first)
    return all(shared or thread.seccomp_mode == _STRICT or chains[thread.id] for thread in task.threads)


def _chain(thread: Thread, filters: tuple[Message, ...]) -> list[Message]:
    if thread.seccomp_mode != _FILTERS:
        return []
    chain: list[Message] = []
    number = thread.seccomp_filter
    while not chain or number is not None:
        if number is None or number >= len(filters) or len(chain) > len(filters):
            raise MalformedImageError(
                f"{IMAGE} lacks filter {number} of thread {thread.id}, or it is its own predecessor"
            )
        chain.append(filters[number])
        number = filters[number].optional_uint32(2)
    return chain
