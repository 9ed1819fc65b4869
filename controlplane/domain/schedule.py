"""Periodic dumps: when an id's running container is to be dumped next. Off unless somebody asks for it.

The interval is counted from the last time that a dump was asked for, by this control plane's clock alone, so neither a
node's wrong clock nor the time that a dump takes makes it drift. Many containers that start in the same second must not
all be dumped in the same second for ever after: the first dump of a start comes somewhere within the first interval, at a
place that the key itself determines (no chance, so a replay says the same), and the others follow from it.

A container is never dumped twice at once: while a dump is asked for or under way, none is due. One that is captured and waits because
the store does not take it holds up none: it can be restored on its node, and so can a newer one, which costs less work. Dumps that fail are asked
for less and less often, up to an hour apart, because whatever makes them fail costs the workload a freeze each time.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from datetime import datetime, timedelta

import msgspec

from controlplane.domain.state import Incarnation, KeyState, NodeState
from woodfrog.protocol.ids import CheckpointKey, NodeName

_LONGEST_BACKOFF_SECONDS = 3600.0
_MOST_DOUBLINGS = 12


class Schedule(msgspec.Struct, frozen=True):
    """How often ids are dumped; 0 is never. What the container itself says counts most, then the most specific setting."""

    default_seconds: float = 0.0
    namespaces: Mapping[str, float] = {}
    ids: Mapping[tuple[str, str], float] = {}
    """By namespace and id."""
    default_floor_seconds: float = 0.0
    """What an interval is at least, whatever the container itself says: each dump takes one of its node's places."""
    namespace_floors: Mapping[str, float] = {}
    dump_seconds: float = 600.0
    """How long a periodic dump may take until it is stored."""

    def interval_seconds(self, key: CheckpointKey, start: Incarnation) -> float:
        """Tell the interval that holds for a start of a key; 0 for none."""
        seconds = start.container.interval_seconds
        if seconds is None:
            in_namespace = self.namespaces.get(key.namespace, self.default_seconds)
            seconds = self.ids.get((key.namespace, key.id), in_namespace)
        floor_seconds = self.namespace_floors.get(key.namespace, self.default_floor_seconds)
        return max(seconds, floor_seconds) if seconds > 0 else 0.0


def due_at(
    name: CheckpointKey, key: KeyState, nodes: Mapping[NodeName, NodeState], schedule: Schedule
) -> datetime | None:
    """Say when the key's container is to be dumped next, ``None`` if it is not. Pure and total."""
    start = key.running
    if start is None or start.node is None or start.container_id is None:
        return None
    interval_seconds = schedule.interval_seconds(name, start)
    if interval_seconds <= 0 or start.opened_at is None or start.dump_command is not None:
        return None
    node = nodes.get(start.node)
    if node is not None and node.lost:
        return None
    if any(dump.incarnation == start.number and dump.is_under_way for dump in key.snapshots.values()):
        return None
    if start.dump_asked_at is None:
        return start.opened_at + timedelta(seconds=interval_seconds * _share(name))
    return start.dump_asked_at + timedelta(seconds=_spaced(interval_seconds, start.dumps_failed))


def _share(name: CheckpointKey) -> float:
    """Which share of the first interval passes before the first dump: more than 0, at most 1, the same for a key always."""
    return (zlib.crc32(str(name).encode()) + 1) / (1 << 32)


def _spaced(interval_seconds: float, failed: int) -> float:
    longer = interval_seconds * 2.0 ** min(failed, _MOST_DOUBLINGS)
    return min(longer, max(interval_seconds, _LONGEST_BACKOFF_SECONDS))
