"""Which start has gone on without a snapshot, so that the snapshot comes too late.

Two containers of one id that ran beside each other are branches, of which the world has seen the later one since. What the earlier
one stores from then on is superseded. A start counts from the moment when it runs. It counts also once a newer start was opened
while it had its answer: it may run by then, and nobody can tell it to choose again.

A start that was given up before its processes ran holds nobody back: an engine gave it up, a person pressed Ctrl-C, its pod was
deleted while it waited. Its worker is sure of that and says so. What was superseded before that word came stays superseded until
somebody has it retried or pins it.
"""

from __future__ import annotations

from msgspec.structs import replace

from controlplane.domain.draft import Draft
from controlplane.domain.state import Snapshot
from woodfrog.protocol.ids import IncarnationNumber, SnapshotId


def note_opened(draft: Draft, newest: IncarnationNumber) -> None:
    """Take in that a start is opened: every earlier one that has its answer is overtaken."""
    answered = [each for each in draft.incarnations.values() if each.number < newest and each.choice is not None]
    for each in answered:
        if not each.overtaken:
            draft.start(each.number, overtaken=True)
        if not each.never_ran:
            draft.latest_start = max(draft.latest_start, each.number)


def note_turned_back(draft: Draft, number: IncarnationNumber) -> None:
    """Take in that a start does not go on as it was told: what came too late for it alone competes again."""
    if number <= draft.latest_start:
        return
    for name, snapshot in draft.snapshots.items():
        if snapshot.missed_by == number:
            draft.snapshots[name] = replace(snapshot, missed_by=None)


def note_ended(draft: Draft, number: IncarnationNumber) -> None:
    """Take in that a start has ended, if it came to nothing."""
    if draft.incarnations[number].came_to_nothing:
        went_on = (each.number for each in draft.incarnations.values() if each.went_on)
        draft.latest_start = max(went_on, default=IncarnationNumber(0))
        note_turned_back(draft, number)


def missed_by(draft: Draft, name: SnapshotId, taken_from: IncarnationNumber) -> IncarnationNumber | None:
    """Name the later start whose answer could not take a snapshot into account that becomes valid only now."""
    snapshot = draft.snapshots.get(name, Snapshot(name, taken_from))
    key = draft.ended()
    newest = key.current
    answered: tuple[IncarnationNumber, ...] = () if newest is None or newest.choice is None else (newest.number,)
    for later in (draft.latest_start, *answered):
        if key.misses(later, snapshot):
            return later
    return None
