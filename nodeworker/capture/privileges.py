"""What the processes of a running container hold, from /proc: recorded with their snapshot, so that the law can compare.

It is read before the freeze, and of each process' first thread only: freezing takes long enough. What a process changes
after that, and what its other threads hold, the worker that restores reads from CRIU's images.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import suppress
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Final

import msgspec

from nodeworker.domain.capabilities import names_of
from nodeworker.domain.spec_privileges import without_level
from woodfrog.protocol.privileges import CAPABILITY_SETS, NO_FILTER, Privileges
from woodfrog.service.procfs import status_fields

_FILES: Final = {"mount": "mnt", "network": "net"}
_SETS: Final = {
    "bounding": "CapBnd",
    "permitted": "CapPrm",
    "effective": "CapEff",
    "inheritable": "CapInh",
    "ambient": "CapAmb",
}
_STRICT: Final = 1


def is_hosts(kind: str, path: str) -> bool:
    """Say whether the namespace at ``path`` is the one that this worker is in, which is the node's; not if it is gone.

    Raises:
        TypeError, ValueError: this is no path.
    """
    place = Path(path)
    with suppress(OSError):
        return place.samefile(f"/proc/self/ns/{_FILES.get(kind, kind)}")
    return False


def held(pids: Collection[int], first: int, spec: Privileges | None) -> Privileges | None:
    """Read what the processes hold that are dumped.

    Args:
        pids: the container's first process and its descendants.
        first: the first process.
        spec: what the container allows, for all that processes do not hold themselves.
    """
    fields = {pid: said for pid in pids if (said := status_fields(pid)).get("Uid")}
    if spec is None or not fields:
        return None
    dumped = fields.values()
    users, groups = _mapping(first, "uid_map"), _mapping(first, "gid_map")
    sets = {field: names_of(reduce(or_, (int(each[name], 16) for each in dumped))) for field, name in _SETS.items()}
    assert sets.keys() == set(CAPABILITY_SETS)
    filtered = all(int(each.get("Seccomp") or 0) >= _STRICT for each in dumped)
    return msgspec.structs.replace(
        spec,
        uids=_inside(users, (number for each in dumped for number in each["Uid"].split())),
        gids=_inside(groups, (number for each in dumped for number in each["Gid"].split())),
        groups=_inside(groups, (number for each in dumped for number in each["Groups"].split())),
        **sets,
        no_new_privs=all(each.get("NoNewPrivs") == "1" for each in dumped),
        seccomp=spec.seccomp if filtered else NO_FILTER,
        lsm=tuple(sorted({name for pid in fields if (name := _confinement(pid))})),
        oom_score_adj=min((score for pid in fields if (score := _oom_score_adj(pid)) is not None), default=None),
    )


def _mapping(pid: int, file: str) -> list[tuple[int, int, int]]:
    with suppress(OSError, ValueError):
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
        return [(int(inside), int(outside), int(count)) for inside, outside, count in (line.split() for line in lines)]
    return []


def _inside(mapping: list[tuple[int, int, int]], numbers: Iterable[str]) -> tuple[int, ...]:
    """Name users as the container does; one that it has no name for keeps its own."""
    found = set()
    for number in map(int, numbers):
        ranges = (inside + number - outside for inside, outside, count in mapping if 0 <= number - outside < count)
        found.add(next(ranges, number))
    return tuple(sorted(found))


def _confinement(pid: int) -> str:
    with suppress(OSError):
        label = Path(f"/proc/{pid}/attr/current").read_text().strip("\n\0")
        name = label.partition(" (")[0]
        return "" if name in {"unconfined", "kernel"} else without_level(name)
    return ""


def _oom_score_adj(pid: int) -> int | None:
    with suppress(OSError, ValueError):
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text())
    return None
