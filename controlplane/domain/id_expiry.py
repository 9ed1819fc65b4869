"""Letting go of ids that nobody uses any more: CronJobs and pod names make ids without end, and each costs memory and room.

An id is idle once nothing has happened under it for as long as the policy says: no start, no pod, no dump, no pin. Then its snapshots
expire, the latest one included; when their bytes are gone the id is forgotten. Whatever may still go on keeps it: a container that
runs, a pinned snapshot. A later start begins like that of a new id, except that its number continues above all numbers that were
given in its namespace to ids that are forgotten: in the log, one number of one id stands for one start.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta

import msgspec

from controlplane.domain.retention import Expiry
from controlplane.domain.state import KeyState, NodeState, SnapshotStatus
from controlplane.domain.stores import remover
from woodfrog.protocol.events import CheckpointForgotten
from woodfrog.protocol.ids import CheckpointKey, NodeName


class IdExpiry(msgspec.Struct, frozen=True):
    """After how long without use an id is let go; ``None``: never. The most specific setting holds."""

    default_seconds: float | None = None
    namespaces: Mapping[str, float] = {}
    ids: Mapping[tuple[str, str], float] = {}
    """By namespace and id."""

    def of(self, key: CheckpointKey) -> float | None:
        """Return the setting that holds for a key."""
        in_namespace = self.namespaces.get(key.namespace, self.default_seconds)
        return self.ids.get((key.namespace, key.id), in_namespace)


def is_idle(key: KeyState, nodes: Mapping[NodeName, NodeState], seconds: float | None, now: datetime) -> bool:
    """Return whether the key has not been used for so long, and nothing is under way. ``None``: it never is."""
    if seconds is None or (key.used_at is not None and now - key.used_at < timedelta(seconds=seconds)):
        return False
    if any(snapshot.pinned and snapshot.status is SnapshotStatus.VALID for snapshot in key.snapshots.values()):
        return False
    there = {start.node for start in key.incarnations.values() if start.running}
    there |= {snapshot.node for snapshot in key.snapshots.values() if snapshot.status.in_flight}
    return not any(name is not None and name in nodes and not nodes[name].lost for name in there)


def last_expiries(key: KeyState, seconds: float) -> Iterator[Expiry]:
    """Say which snapshots of an idle key expire: all that take room."""
    for snapshot in key.snapshots.values():
        if snapshot.takes_room and snapshot.status is not SnapshotStatus.EXPIRED:
            yield Expiry(snapshot, f"nothing was started as this id for {seconds:g} s")


def forgotten(
    name: CheckpointKey, key: KeyState, nodes: Mapping[NodeName, NodeState], seconds: float, now: datetime
) -> CheckpointForgotten | None:
    """Let an idle key go, once the store holds nothing of it that any node could still remove."""
    for snapshot in key.snapshots.values():
        if snapshot.takes_room:
            out_of_reach = snapshot.since is not None and now - snapshot.since >= timedelta(seconds=seconds)
            if (
                snapshot.status is not SnapshotStatus.EXPIRED
                or not out_of_reach
                or remover(nodes, snapshot) is not None
            ):
                return None
    return CheckpointForgotten(key=name, incarnation=key.newest, idle_seconds=seconds)
