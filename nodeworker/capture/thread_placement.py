"""On which processors a container's threads may run, and with which priority they read and write: CRIU restores neither.

Recorded while the container is frozen, of threads that asked for something of their own; and set again while its processes stand.
The kernel keeps an affinity within the new container's cpuset (sched_setaffinity(2)). A priority for real time is not given
back: the program may have had a right to it that the new container does not have (ioprio_set(2)).
"""

from __future__ import annotations

import os
import platform
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from woodfrog.protocol.manifest import ThreadPlacement
from woodfrog.service import libc
from woodfrog.service.procfs import inside

MOST_THREADS: Final = 10_000
_NUMBERS: Final = {"x86_64": (252, 251), "aarch64": (31, 30)}
"""Of ioprio_get and ioprio_set, which the C library does not wrap."""
_OF_A_THREAD: Final = 1
"""IOPRIO_WHO_PROCESS (include/uapi/linux/ioprio.h)."""
_CLASS_SHIFT: Final = 13
_REAL_TIME: Final = 1
_SHOWN: Final = 3


def record(pids: Iterable[int], cgroups: Collection[str]) -> tuple[ThreadPlacement, ...]:
    """Record the threads whose placement is not the usual one; ``cgroups`` are those of the container."""
    usual = _cpus_of(cgroups)
    found = []
    for pid in pids:
        for thread in _threads(pid):
            with suppress(OSError):
                cpus, priority = frozenset(os.sched_getaffinity(thread)), _io_priority(thread)
                own = () if usual is None or cpus >= usual else tuple(sorted(cpus))
                if (own or priority) and (name := inside(f"{pid}/task/{thread}")):
                    found.append(ThreadPlacement(name, own, priority))
                    if len(found) == MOST_THREADS:
                        return tuple(found)
    return tuple(found)


def apply(wanted: Iterable[ThreadPlacement], pids: Iterable[int]) -> tuple[str, ...]:
    """Give threads back what was recorded of them; return as warnings what could not be given."""
    here = {inside(f"{pid}/task/{thread}"): thread for pid in pids for thread in _threads(pid)}
    lost = [problem for each in wanted if (problem := _apply(each, here.get(each.thread)))]
    if not lost:
        return ()
    more = f" and {len(lost) - _SHOWN} more" if len(lost) > _SHOWN else ""
    return (f"of threads that had processors or an I/O priority of their own: {', '.join(lost[:_SHOWN])}{more}",)


def _apply(wanted: ThreadPlacement, thread: int | None) -> str:
    if thread is None:
        return ""
    if wanted.cpus:
        try:
            os.sched_setaffinity(thread, wanted.cpus)
        except (OSError, ValueError, OverflowError):
            return f"thread {wanted.thread} cannot have any of its processors {_ranges(wanted.cpus)} here"
        with suppress(OSError):
            if (has := os.sched_getaffinity(thread)) < set(wanted.cpus):
                return (
                    f"thread {wanted.thread} has processors {_ranges(sorted(has))} in place of {_ranges(wanted.cpus)}"
                )
    if wanted.io_priority:
        if wanted.io_priority >> _CLASS_SHIFT == _REAL_TIME:
            return f"thread {wanted.thread} had an I/O priority for real time, which is not given back"
        if not _set_io_priority(thread, wanted.io_priority):
            return f"thread {wanted.thread} cannot have its I/O priority"
    return ""


def _cpus_of(cgroups: Collection[str]) -> frozenset[int] | None:
    """Find the processors that the container may use; None if no cpuset says so."""
    for cgroup in cgroups:
        for folder in (Path(cgroup), *Path(cgroup).parents):
            for name in ("cpuset.effective_cpus", "cpuset.cpus.effective"):
                with suppress(OSError, ValueError):
                    if text := (folder / name).read_text().strip():
                        return frozenset(_numbers(text))
    return None


def _numbers(text: str) -> Iterator[int]:
    for part in text.split(","):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


def _ranges(cpus: Collection[int]) -> str:
    shown = ",".join(map(str, list(cpus)[:8]))
    return f"{shown},…" if len(cpus) > 8 else shown


def _threads(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(each.name) for each in Path(f"/proc/{pid}/task").iterdir()]
    return []


def _io_priority(thread: int) -> int:
    numbers = _NUMBERS.get(platform.machine())
    with suppress(OSError):
        return 0 if numbers is None else libc.call("syscall", numbers[0], _OF_A_THREAD, thread)
    return 0


def _set_io_priority(thread: int, priority: int) -> bool:
    numbers = _NUMBERS.get(platform.machine())
    if numbers is None:
        return False
    try:
        libc.call("syscall", numbers[1], _OF_A_THREAD, thread, priority)
    except OSError:
        return False
    return True
