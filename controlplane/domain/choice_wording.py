"""The selection law's reasons as people read them: in the log, on the pod and in ``woodfrog why``.

:mod:`controlplane.domain.choose` decides, and here is said what it decided; the two change for different reasons.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from controlplane.domain.start_outcomes import SHORT_LIFE_SECONDS
from controlplane.domain.state import Incarnation, KeyState, Snapshot, SnapshotStatus
from woodfrog.protocol.failures import TOLD_CODES, Failure
from woodfrog.protocol.ids import NodeName

_REASONS_SHOWN: Final = 5

NOT_IN_THIS_START: Final = "it could not be restored in this start"
NOT_ON_THIS_NODE: Final = "it could not be restored on this node before"


def not_in_this_start(failure: Failure) -> str:
    """Say why a restore failed, next to the reason of the start that took place instead."""
    told = failure.cause.rstrip(".")
    return told if failure.code in TOLD_CODES else f"{NOT_IN_THIS_START}: {told} ({failure.code})"


class Skipped(msgspec.Struct, frozen=True):
    """A snapshot that was considered and passed over, and what spoke against it."""

    snapshot: Snapshot
    obstacle: str

    def __str__(self) -> str:
        return f"{self.snapshot.snapshot_id} skipped: {self.obstacle}"


def chosen(snapshot: Snapshot, node: NodeName, skipped: Sequence[Skipped], lowered: str, remark: str) -> str:
    """Say why this snapshot, and why none that was considered before it."""
    name = f"{snapshot.snapshot_id} of incarnation {snapshot.incarnation}"
    rank = "pinned" if snapshot.pinned else f"the newest {'usable ' if skipped else ''}snapshot"
    place = f", which is on this node, {snapshot.note}" if snapshot.waits_on(node) else ""
    newer = [f"{'pinned' if each.snapshot.pinned else 'newer'} {each}" for each in skipped]
    return "; ".join(part for part in (f"{name} is {rank}{place}", lowered, _listed(newer), remark) if part)


def nothing_usable(skipped: Sequence[Skipped], remark: str) -> str:
    """Say why none."""
    if not skipped:
        why = "no snapshot of this id is known"
    else:
        each = [f"pinned {one}" if one.snapshot.pinned else str(one) for one in skipped]
        why = f"no snapshot is usable; {_listed(each)}"
    return f"{why}; {remark}" if remark else why


def awaited(snapshot: Snapshot) -> str:
    """Name a snapshot in flight that a start waits for."""
    kind = "final dump" if snapshot.final else "dump"
    where = f" on node {snapshot.node}" if snapshot.node is not None else ""
    delay = f", {snapshot.note}" if snapshot.note else ""
    return f"the {kind} {snapshot.snapshot_id} of incarnation {snapshot.incarnation}{where}{delay}"


def waited_for_in_vain(snapshot: Snapshot) -> str:
    """Say how far a snapshot had come when a start could wait for it no longer."""
    if not snapshot.note:
        where = "it was still being dumped or stored"
    else:
        there = ", and could be restored there only," if snapshot.local_digest else ","
        where = f"it is on node {snapshot.node}, {snapshot.note}{there}"
    return f"{where} when the time for the hand-over was up"


def fate(snapshot: Snapshot) -> str:
    """Say what became of a snapshot that can never be chosen."""
    match snapshot.status:
        case SnapshotStatus.FAILED:
            return f"its dump failed: {snapshot.note}"
        case SnapshotStatus.INVALIDATED:
            return f"it was invalidated: {snapshot.note}"
        case SnapshotStatus.SUPERSEDED:
            return f"it came after the start of incarnation {snapshot.missed_by} was decided without it"
        case SnapshotStatus.DELETED:
            return f"it was deleted: {snapshot.note}"
        case _:
            return f"it has expired: {snapshot.note}"


def overtaken(key: KeyState) -> str:
    """Say of a snapshot in flight that it will come too late."""
    return f"incarnation {key.latest_start} has started without waiting for it"


def on_lost_node(snapshot: Snapshot) -> str:
    """Say of a snapshot in flight that nobody waits for it."""
    return f"it is still on node {snapshot.node}, which is lost"


def behind_work_done(key: KeyState) -> str:
    """Say that a snapshot is from before its program had done its work."""
    return f"incarnation {key.done_through} has done its work: it ended by itself, with exit code 0"


def behind_fresh_start(key: KeyState) -> str:
    """Say that a snapshot is from before a fresh start."""
    return f"incarnation {key.fresh_since} started fresh, as was asked for"


def ends_soon(lives: Sequence[Incarnation]) -> str:
    """Say that whoever resumed from a snapshot soon ended, the newest first."""
    return (
        f"the last {len(lives)} containers that resumed from it ended by themselves within {SHORT_LIFE_SECONDS:g} s, "
        f"the last with exit code {lives[0].exit_code}"
    )


def _listed(skipped: Sequence[str]) -> str:
    """Put the reasons into one line, the newest first and not too many: a pod's Event holds 1024 characters."""
    shown = "; ".join(skipped[:_REASONS_SHOWN])
    rest = len(skipped) - _REASONS_SHOWN
    return f"{shown}; and {rest} more" if rest > 0 else shown
