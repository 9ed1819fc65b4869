"""A key while it is changed: what one event does to it, in the terms in which the fold speaks.

The state's values are frozen, so that a decision can look at "the key as it would be after this event". A fold of millions of
events that nobody looks at meanwhile need not copy two mappings for each of them: it keeps a draft of each key and changes
that in place. Both ways go through here, so that they cannot differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from controlplane.domain.state import (
    REMEMBERED,
    REMEMBERED_STORED,
    Incarnation,
    KeyState,
    Pod,
    Snapshot,
    SnapshotStatus,
    moves_on,
)
from woodfrog.protocol.events.base import AboutSnapshot
from woodfrog.protocol.facts import ContainerFacts, NodeFacts
from woodfrog.protocol.ids import IncarnationNumber, SnapshotId
from woodfrog.protocol.privileges import Privileges

_REMEMBERED_FACTS: Final = 16_384
_FEW: Final = min(REMEMBERED, REMEMBERED_STORED)
"""With so few snapshots, and incarnations, nothing can be too many: most keys, most of the time."""


@lru_cache(_REMEMBERED_FACTS)
def shared(facts: NodeFacts) -> NodeFacts:
    """Give the first of all equal facts: a node's list of CPU features is kilobytes, and comes with each of its snapshots."""
    return facts


@lru_cache(_REMEMBERED_FACTS)
def _shared_privileges(privileges: Privileges) -> Privileges:
    return privileges


def with_shared_privileges(facts: ContainerFacts) -> ContainerFacts:
    """Do the same with privileges: those of an id are a kilobyte, and the same at each start and in each snapshot."""
    if facts.privileges is None:
        return facts
    return replace(facts, privileges=_shared_privileges(facts.privileges))


class Draft(msgspec.Struct, gc=False):
    """The fields of a :class:`~controlplane.domain.state.KeyState`, in dictionaries of its own."""

    incarnations: dict[IncarnationNumber, Incarnation]
    snapshots: dict[SnapshotId, Snapshot]
    latest_start: IncarnationNumber
    pods: Mapping[str, Pod]
    """Replaced as a whole: few events are about pods."""
    done_through: IncarnationNumber
    used_at: datetime | None
    fresh_since: IncarnationNumber
    fresh_used: tuple[str, ...]

    @classmethod
    def of(cls, key: KeyState) -> Draft:
        """Begin with a copy."""
        return cls(
            dict(key.incarnations), dict(key.snapshots), key.latest_start, key.pods, key.done_through, key.used_at,
            key.fresh_since, key.fresh_used,
        )  # fmt: skip

    def ended(self) -> KeyState:
        """Hand the dictionaries over; the draft is used no more, or only by whoever owns the value, too."""
        return KeyState(
            self.incarnations, self.snapshots, self.latest_start, self.pods, self.done_through, self.used_at,
            self.fresh_since, self.fresh_used,
        )  # fmt: skip

    def start(self, number: IncarnationNumber, **changes: Any) -> None:
        """Change an incarnation, unknown until now or not."""
        known = self.incarnations.get(number)
        if known is None:
            self.incarnations[number] = Incarnation(number, **changes)
        elif changes:
            self.incarnations[number] = replace(known, **changes)

    def move(self, event: AboutSnapshot, at: datetime, status: SnapshotStatus | None, **changes: Any) -> None:
        """Change the event's snapshot and move it on to ``status``, if any; never back."""
        name = event.snapshot_id
        known = self.snapshots.get(name)
        if known is None:
            known = Snapshot(name, event.incarnation)
        now = status if status is not None and moves_on(known.status, status) else known.status
        since = known.since if now is known.status and known.since is not None else at
        self.snapshots[name] = replace(known, status=now, since=since, **changes)

    def forget(self) -> None:
        """Drop what no decision asks for any more, all but the last few."""
        if len(self.snapshots) <= _FEW and len(self.incarnations) <= REMEMBERED:
            return
        key = self.ended()
        over = [snapshot for snapshot in self.snapshots.values() if not key.has_a_future(snapshot)]
        nowhere = [snapshot.snapshot_id for snapshot in over if not snapshot.takes_room]
        stored = [
            snapshot.snapshot_id
            for snapshot in over
            if snapshot.takes_room and snapshot.status is not SnapshotStatus.EXPIRED
        ]
        for name in (*nowhere[:-REMEMBERED], *stored[:-REMEMBERED_STORED]):
            del self.snapshots[name]
        # The one that started last may still run, and its next dump be worth waiting for, however many were opened since.
        ran = max((number for number, start in self.incarnations.items() if start.started), default=self.latest_start)
        origins = {self.latest_start, ran, *(snapshot.incarnation for snapshot in self.snapshots.values())}
        unreferred = sorted(number for number in self.incarnations if number not in origins)
        for number in unreferred[:-REMEMBERED]:
            del self.incarnations[number]
