"""What follows from the events of an id's containers."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from msgspec.structs import replace

from controlplane.domain import choice_wording, fresh_starts, supersession
from controlplane.domain.catalogue.entry import Entry, Known, Note, Row, StartEntry
from controlplane.domain.draft import Draft, with_shared_privileges
from controlplane.domain.start_outcomes import note_done
from controlplane.domain.state import Cold, Incarnation, Restore, image_of
from woodfrog.protocol.events.starts import (
    CheckpointForgotten,
    ColdStartChosen,
    ContainerEnded,
    ContainerStarted,
    IncarnationOpened,
    RestoreChosen,
    RestoreFailed,
    RestoreStage,
    StartDeferred,
    StartRefused,
)
from woodfrog.protocol.failures import PASSING_CODES, QUOTA
from woodfrog.protocol.ids import IncarnationNumber


def _opened(draft: Draft, event: IncarnationOpened, at: datetime) -> None:
    supersession.note_opened(draft, event.incarnation)
    draft.start(
        event.incarnation,
        node=event.node,
        container_id=event.container_id,
        container=with_shared_privileges(event.container),
        create_id=event.create_id,
        opened_at=at,
    )


def _opened_row(_row: Row, event: IncarnationOpened, at: datetime) -> Row:
    return {"node": event.node, "container_id": event.container_id, "opened_at": at}


def _refused_note(event: StartRefused, _known: Known) -> Note | None:
    if event.failure.code != QUOTA:
        return None
    text = f"starts from its image and without protection: {event.failure.cause}. {event.failure.advice}"
    return Note("Unprotected", "Start", text, warning=True)


def _deferred(draft: Draft, event: StartDeferred, _at: datetime) -> None:
    known = draft.incarnations.get(event.incarnation)
    if known is None or known.wait_until is None:
        draft.start(event.incarnation, wait_until=event.until)


def _deferred_row(row: Row, event: StartDeferred, at: datetime) -> Row:
    return {
        "waited_for": event.waiting_for,
        "deferred_at": row["deferred_at"] or at,
        "deferred_until": row["deferred_until"] or event.until,
    }


def _restore_chosen(draft: Draft, event: RestoreChosen, _at: datetime) -> None:
    _answer(draft, event.incarnation, Restore(event.snapshot_id, event.reason, event.left))


def _answer(draft: Draft, number: IncarnationNumber, choice: Restore | Cold) -> None:
    """Take in the answer of a start. The snapshot of an earlier answer, which was invalidated meanwhile, it may have tried."""
    before = draft.incarnations.get(number, Incarnation(number=number)).resumes_from
    draft.start(number, choice=choice)
    now = draft.incarnations[number]
    if before not in {None, now.resumes_from}:
        draft.start(number, set_aside=now.set_aside | {before})


def _restore_chosen_row(_row: Row, event: RestoreChosen, at: datetime) -> Row:
    return {"choice": "restored", "snapshot_id": event.snapshot_id, "reason": event.reason, "chosen_at": at}


def _cold_start_chosen(draft: Draft, event: ColdStartChosen, _at: datetime) -> None:
    _answer(draft, event.incarnation, Cold(event.reason, event.fresh, event.left or 0))


def _cold_start_chosen_row(_row: Row, event: ColdStartChosen, at: datetime) -> Row:
    return {"choice": "cold", "snapshot_id": None, "reason": event.reason, "chosen_at": at}


def _cold_start_chosen_note(event: ColdStartChosen, _known: Known) -> Note:
    left = f", {_leaves(event.left)}" if event.left else ""
    text = f"starts from its image{left}: {event.reason}"
    return Note("ColdStarted", "Start", text, warning=bool(event.left) and not event.fresh)


def _restore_failed(draft: Draft, event: RestoreFailed, _at: datetime) -> None:
    """Hold the failure against the snapshot, and let those compete that came too late only for the failed choice.

    A fetch that failed says nothing about the snapshot: the store was away or a disk full. Neither does a port that was taken or
    a file that was not mounted. It is set aside for this start and no longer, or a bad hour would cost every id its newest snapshot.
    """
    number = event.incarnation
    known = draft.incarnations.get(number, Incarnation(number=number))
    draft.start(
        number,
        set_aside=known.set_aside | {event.snapshot_id},
        too_much={**known.too_much, event.snapshot_id: choice_wording.not_in_this_start(event.failure)},
    )
    if known.choice is None or known.resumes_from == event.snapshot_id:  # else it has another answer by now
        draft.start(number, choice=None)
        supersession.note_turned_back(draft, number)
    tried = draft.snapshots.get(event.snapshot_id)
    if tried is not None and event.stage is not RestoreStage.FETCH and event.failure.code not in PASSING_CODES:
        tried_in = image_of(draft.incarnations[number].container)
        failed_on = tried.failed_on | {(event.node, tried_in)}
        draft.snapshots[event.snapshot_id] = replace(tried, failed_on=failed_on)


def _restore_failed_row(row: Row, event: RestoreFailed, _at: datetime) -> Row:
    failed = row["failed_restores"] + 1
    if row["choice"] is not None and row["snapshot_id"] != event.snapshot_id:
        return {"failed_restores": failed}
    return {"failed_restores": failed, "choice": None, "snapshot_id": None, "reason": None, "chosen_at": None}


def _restore_failed_note(event: RestoreFailed, _known: Known) -> Note:
    text = f"snapshot {event.snapshot_id} could not be restored, another way is sought: {event.failure.cause}"
    return Note("RestoreFailed", "Restore", f"{text}. {event.failure.advice}", warning=True)


def _restore_failure_shown(incarnation: Incarnation, event: RestoreFailed) -> bool:
    return event.snapshot_id in incarnation.too_much


def _started(draft: Draft, event: ContainerStarted, at: datetime) -> None:
    fresh_starts.note_started(draft, event.incarnation)
    draft.start(event.incarnation, started_at=at)
    proved = None if event.restored_from is None else draft.snapshots.get(event.restored_from)
    if proved is not None:
        draft.snapshots[proved.snapshot_id] = replace(proved, proved=True)


def _started_row(_row: Row, event: ContainerStarted, at: datetime) -> Row:
    return {
        "node": event.node,
        "container_id": event.container_id,
        "started_at": at,
        "restored_from": event.restored_from,
        "create_seconds": event.create_seconds,
    }


def _started_note(event: ContainerStarted, known: Known) -> Note | None:
    if event.restored_from is None:
        return None
    key = known.key
    snapshot = None if key is None else key.snapshots.get(event.restored_from)
    age = "" if snapshot is None or snapshot.since is None else f", stored {_age(known.at - snapshot.since)} ago"
    start = None if key is None else key.incarnations.get(event.incarnation)
    choice = None if start is None else start.choice
    left = (_leaves(choice.left, choice.reason),) if choice is not None and choice.left else ()
    text = "; ".join((f"resumes from snapshot {event.restored_from}{age}", *left, *event.warnings))
    return Note("Restored", "Restore", text, warning=bool(event.warnings or left))


def _start_shown(incarnation: Incarnation, _event: ContainerStarted) -> bool:
    return incarnation.started


def _ended(draft: Draft, event: ContainerEnded, at: datetime) -> None:
    known = draft.incarnations.get(event.incarnation)
    exit_code = event.exit_code if event.exit_code is not None or known is None else known.exit_code
    ended = {"ended": True, "ended_at": at, "exit_code": exit_code, "stopped": event.stopped}
    draft.start(event.incarnation, never_ran=event.never_ran, **ended)
    note_done(draft, event.incarnation)
    supersession.note_ended(draft, event.incarnation)


def _ended_row(_row: Row, event: ContainerEnded, at: datetime) -> Row:
    return {"node": event.node, "container_id": event.container_id, "ended_at": at, "exit_code": event.exit_code}


def _end_shown(incarnation: Incarnation, _event: ContainerEnded) -> bool:
    return incarnation.ended


def _forgotten_row(_row: Row, _event: CheckpointForgotten, at: datetime) -> Row:
    return {"forgotten_at": at}


def _leaves(count: int, reason: str = "") -> str:
    return f"leaves {count} snapshot{'s' * (count != 1)} with later work behind{f' ({reason})' if reason else ''}"


def _age(span: timedelta) -> str:
    seconds = max(0.0, span.total_seconds())
    for unit, length in (("h", 3600.0), ("min", 60.0)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"


ENTRIES: Final[tuple[Entry[Any], ...]] = (
    StartEntry(event=IncarnationOpened, state=_opened, row=_opened_row),
    # What a worker was refused makes no key known: it may have named any.
    Entry(event=StartRefused, note=_refused_note, records_failure=True),
    StartEntry(event=StartDeferred, state=_deferred, row=_deferred_row),
    StartEntry(event=RestoreChosen, state=_restore_chosen, row=_restore_chosen_row),
    StartEntry(
        event=ColdStartChosen, state=_cold_start_chosen, row=_cold_start_chosen_row, note=_cold_start_chosen_note
    ),
    StartEntry(
        event=RestoreFailed,
        state=_restore_failed,
        row=_restore_failed_row,
        shown_by=_restore_failure_shown,
        note=_restore_failed_note,
        records_failure=True,
    ),
    StartEntry(event=ContainerStarted, state=_started, row=_started_row, shown_by=_start_shown, note=_started_note),
    StartEntry(event=ContainerEnded, state=_ended, row=_ended_row, shown_by=_end_shown),
    StartEntry(event=CheckpointForgotten, row=_forgotten_row, begins=False),
)
