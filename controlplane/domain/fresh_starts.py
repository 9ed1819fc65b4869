"""Starts without their past: those that were asked for, and what a start leaves behind.

Somebody who asks for a fresh start wants the id to begin again: neither this start nor a later one resumes what came before. The
wish is a text in the container's facts, and each text counts once: an engine that restarts the container, or a Job that makes
a second pod of the same template, asks with the same text, and throwing the work away each time is not what anybody meant.
What was left can be had back by a pin, or by a retry.

Every other start that passes over work that was captured does so for want of something better, and must not be silent about it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from controlplane.domain.draft import Draft
from controlplane.domain.state import REMEMBERED, Cold, KeyState, Snapshot, SnapshotStatus
from woodfrog.protocol.facts import ContainerFacts
from woodfrog.protocol.ids import IncarnationNumber

_GONE = frozenset({SnapshotStatus.EXPIRED, SnapshotStatus.DELETED})


def is_asked(key: KeyState, container: ContainerFacts) -> bool:
    """Whether the container asks for a fresh start that no container of the id has made yet."""
    return bool(container.fresh) and container.fresh not in key.fresh_used


def lies_behind(key: KeyState, snapshot: Snapshot) -> bool:
    """Whether the snapshot is from before a fresh start."""
    return snapshot.incarnation < key.fresh_since > snapshot.retried_at


def left_behind(key: KeyState, passed_over: Iterable[Snapshot]) -> tuple[Snapshot, ...]:
    """Return those snapshots that hold work: captured or stored, still there, and neither finished nor given up since."""
    return tuple(
        snapshot
        for snapshot in passed_over
        if (snapshot.status is SnapshotStatus.CAPTURED or bool(snapshot.manifest_digest))
        and snapshot.status not in _GONE
        and snapshot.incarnation > key.done_through
        and snapshot.incarnation >= key.fresh_since
    )


def cold(key: KeyState, snapshots: Collection[Snapshot]) -> Cold:
    """Choose the fresh start that was asked for."""
    left = len(left_behind(key, snapshots))
    return Cold("a fresh start was asked for", fresh=True, left=left)


def note_started(draft: Draft, number: IncarnationNumber) -> None:
    """Take in that an incarnation has started; it may have been to start fresh."""
    draft.start(number, started=True)
    draft.latest_start = max(draft.latest_start, number)
    start = draft.incarnations[number]
    if isinstance(start.choice, Cold) and start.choice.fresh and number > draft.fresh_since:
        draft.fresh_since = number
        wish = (start.container.fresh,) if start.container.fresh else ()
        draft.fresh_used = (*draft.fresh_used, *wish)[-REMEMBERED:]
