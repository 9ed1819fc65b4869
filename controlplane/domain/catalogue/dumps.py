"""What follows from the events of a dump, and of a snapshot that was brought from elsewhere.

A capture that the store did not take waits on its node, which can restore it. So it is worth replacing by a newer one: what a
container did since would be lost if it crashed while the store is away. The command that asked for its dump holds up no other
dump from then on, and it did not fail.

A snapshot that was brought has an incarnation of its own, one that has started and ended elsewhere. So it is newer than everything
that the id did here, also than an end with exit code 0 or a fresh start, and the next start resumes from it as from any other;
what an earlier container would still store comes too late.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from msgspec.structs import replace

from controlplane.domain import fresh_starts, supersession
from controlplane.domain.catalogue.entry import Known, Note, Row, SnapshotEntry, failure_columns
from controlplane.domain.draft import Draft, shared, with_shared_privileges
from controlplane.domain.state import Snapshot, SnapshotStatus
from woodfrog.protocol.amounts import size
from woodfrog.protocol.events.dumps import (
    DumpFailed,
    DumpStage,
    DumpStarted,
    RehearsalOutcome,
    SnapshotCaptured,
    SnapshotImported,
    SnapshotRehearsed,
    SnapshotStored,
    SnapshotStoreDelayed,
)
from woodfrog.protocol.facts import ContainerFacts
from woodfrog.protocol.failures import CAPTURE_REPLACED, NODE_RESET
from woodfrog.protocol.ids import IncarnationNumber


def _begun(draft: Draft, event: DumpStarted, _at: datetime) -> dict[str, Any]:
    fresh_starts.note_started(draft, event.incarnation)  # what is dumped has started, even if that word was lost
    return {"node": event.node, "final": event.final}


def _begun_row(_row: Row, event: DumpStarted, at: datetime) -> Row:
    return {
        "node": event.node,
        "trigger": event.trigger.value,
        "final": event.final,
        "command_id": event.command_id,
        "dump_started_at": at,
    }


def _begun_command_row(row: Row | None, event: DumpStarted, _at: datetime) -> Row:
    return {} if row is None else {"snapshot_id": event.snapshot_id}


def _begin_shown(_snapshot: Snapshot, _event: DumpStarted) -> bool:
    return True


def _captured(draft: Draft, event: SnapshotCaptured, _at: datetime) -> dict[str, Any]:
    draft.start(event.incarnation)
    return {"node": event.node}


def _captured_row(_row: Row, event: SnapshotCaptured, at: datetime) -> Row:
    return {
        "node": event.node,
        "captured_at": at,
        "freeze_seconds": event.freeze_seconds,
        "raw_bytes": event.raw_bytes,
    }


def _capture_shown(snapshot: Snapshot, _event: SnapshotCaptured) -> bool:
    return snapshot.status is not SnapshotStatus.DUMPING


def _rehearsed_row(_row: Row, event: SnapshotRehearsed, _at: datetime) -> Row:
    return {
        "node": event.node,
        "rehearsal": event.outcome.value,
        "rehearsal_seconds": event.seconds,
        "rehearsal_reason": None if event.failure is None else event.failure.cause,
    }


def _rehearsed_note(event: SnapshotRehearsed, _known: Known) -> Note | None:
    """One that failed is followed by the failure of its dump, which says why."""
    restore = f"a restore of snapshot {event.snapshot_id}"
    if event.outcome is RehearsalOutcome.RESTORABLE:
        return Note("Rehearsed", "Rehearse", f"{restore} was rehearsed in {event.seconds:.1f} s")
    if event.outcome is RehearsalOutcome.FAILED or event.failure is None:
        return None
    return Note("NotRehearsed", "Rehearse", f"{restore} was not rehearsed: {event.failure.cause}")


def _settled(snapshot: Snapshot, _event: SnapshotRehearsed | SnapshotStoreDelayed) -> bool:
    return not snapshot.status.in_flight


def _delayed(draft: Draft, event: SnapshotStoreDelayed, _at: datetime) -> dict[str, Any]:
    """It can be reported again, for another reason, after the next dump was asked for."""
    known = draft.snapshots.get(event.snapshot_id)
    is_first = known is None or not known.is_delayed
    draft.start(event.incarnation, **({"dump_command": None, "dumps_failed": 0} if is_first else {}))
    changes: dict[str, Any] = {
        "node": event.node,
        "note": f"not stored: {event.failure.code} since {event.since:%H:%M}",
    }
    if event.manifest_digest and event.taken_on is not None and event.taken_from is not None:
        changes["local_digest"] = event.manifest_digest
        changes["taken_on"] = shared(event.taken_on)
        changes["taken_from"] = with_shared_privileges(_as_opened(draft, event.incarnation, event.taken_from))
    return changes


def _delayed_row(_row: Row, event: SnapshotStoreDelayed, _at: datetime) -> Row:
    return {"node": event.node}


def _delayed_note(event: SnapshotStoreDelayed, _known: Known) -> Note:
    meanwhile = ", can be restored there" if event.manifest_digest else ""
    where = f"snapshot {event.snapshot_id} lies on node {event.node} only{meanwhile}"
    text = f"{where} and is tried again: {event.failure.cause}. {event.failure.advice}"
    return Note("CheckpointNotStored", "Checkpoint", text, warning=True, frequent=True)


def _stored(draft: Draft, event: SnapshotStored, _at: datetime) -> dict[str, Any]:
    """One that was thought to be lost with its node's journal, and is stored nevertheless, did not fail."""
    draft.start(event.incarnation)
    known = draft.snapshots.get(event.snapshot_id)
    if known is not None and known.journal_gone and known.status is SnapshotStatus.FAILED:
        draft.snapshots[event.snapshot_id] = replace(known, status=SnapshotStatus.CAPTURED)
    return {
        "node": event.node,
        "manifest_digest": event.manifest_digest,
        "local_digest": "",
        "stored_bytes": event.stored_bytes,
        "taken_on": shared(event.taken_on),
        "taken_from": with_shared_privileges(_as_opened(draft, event.incarnation, event.taken_from)),
        "missed_by": supersession.missed_by(draft, event.snapshot_id, event.incarnation),
    }


def _as_opened(draft: Draft, number: IncarnationNumber, taken_from: ContainerFacts) -> ContainerFacts:
    """Take from its start what the API said of the pod; the rest is the worker's word."""
    start = draft.incarnations[number].container
    if start.service_account is None:
        return taken_from
    names = ("pod", "pod_uid", "service_account", "owner_kind")
    return replace(taken_from, **{name: getattr(start, name) for name in names})


def _stored_row(row: Row, event: SnapshotStored, at: datetime) -> Row:
    came_back = row["status"] == SnapshotStatus.FAILED.value and row["failure_code"] == NODE_RESET
    undone = {"status": SnapshotStatus.VALID.value, "failure_stage": None, **failure_columns(None)}
    return (undone if came_back else {}) | {
        "node": event.node,
        "stored_at": at,
        "raw_bytes": event.raw_bytes,
        "stored_bytes": event.stored_bytes,
        "store_seconds": event.store_seconds,
        "manifest_digest": event.manifest_digest,
    }


def _stored_note(event: SnapshotStored, known: Known) -> Note:
    pause = "" if known.freeze_seconds is None else f", frozen for {known.freeze_seconds:.2f} s"
    text = f"snapshot {event.snapshot_id} is stored and verified: {size(event.stored_bytes)}{pause}"
    return Note("Checkpointed", "Checkpoint", text, frequent=True)


def _storage_shown(snapshot: Snapshot, _event: SnapshotStored) -> bool:
    return snapshot.status.was_stored


def _imported(draft: Draft, event: SnapshotImported, at: datetime) -> dict[str, Any]:
    draft.start(event.incarnation, started=True, ended=True, opened_at=at, started_at=at, ended_at=at)
    draft.latest_start = max(draft.latest_start, event.incarnation)
    return {
        "manifest_digest": event.manifest_digest,
        "stored_bytes": event.stored_bytes,
        "taken_on": shared(event.taken_on),
        "taken_from": with_shared_privileges(event.taken_from),
    }


def _imported_row(_row: Row, event: SnapshotImported, at: datetime) -> Row:
    return {
        "trigger": "import",
        "captured_at": event.taken_at,
        "stored_at": at,
        "raw_bytes": event.raw_bytes,
        "stored_bytes": event.stored_bytes,
        "manifest_digest": event.manifest_digest,
    }


def _failed(draft: Draft, event: DumpFailed, _at: datetime) -> dict[str, Any]:
    draft.start(event.incarnation)
    gone = event.failure.code == NODE_RESET
    return {"node": event.node, "note": event.failure.cause, "journal_gone": gone}


def _failed_row(_row: Row, event: DumpFailed, _at: datetime) -> Row:
    return {"node": event.node, "failure_stage": event.stage.value, **failure_columns(event.failure)}


_STAGES: Final = {
    DumpStage.PREFLIGHT: "it was looked into",
    DumpStage.CAPTURE: "the processes were written out",
    DumpStage.REHEARSAL: "its restore was rehearsed",
    DumpStage.STORE: "it was being stored",
}


def _failed_note(event: DumpFailed, _known: Known) -> Note | None:
    if event.failure.code == CAPTURE_REPLACED:
        return None  # the newer one has an Event of its own
    text = f"the dump failed while {_STAGES[event.stage]}: {event.failure.cause}. {event.failure.advice}"
    return Note("CheckpointFailed", "Checkpoint", text, warning=True)


def _failure_shown(snapshot: Snapshot, _event: DumpFailed) -> bool:
    return snapshot.status is SnapshotStatus.FAILED


ENTRIES: Final[tuple[SnapshotEntry[Any], ...]] = (
    SnapshotEntry(
        event=DumpStarted,
        status=SnapshotStatus.DUMPING,
        changes=_begun,
        row=_begun_row,
        command_row=_begun_command_row,
        shown_by=_begin_shown,
    ),
    SnapshotEntry(
        event=SnapshotCaptured,
        status=SnapshotStatus.CAPTURED,
        changes=_captured,
        row=_captured_row,
        shown_by=_capture_shown,
    ),
    # The state need not know of it: a rehearsal that failed is followed by the failure of its dump.
    SnapshotEntry(
        event=SnapshotRehearsed,
        status=SnapshotStatus.CAPTURED,
        row=_rehearsed_row,
        shown_by=_settled,
        note=_rehearsed_note,
    ),
    SnapshotEntry(
        event=SnapshotStoreDelayed,
        status=SnapshotStatus.CAPTURED,
        changes=_delayed,
        row=_delayed_row,
        shown_by=_settled,
        note=_delayed_note,
    ),
    SnapshotEntry(
        event=SnapshotStored,
        status=SnapshotStatus.VALID,
        changes=_stored,
        row=_stored_row,
        shown_by=_storage_shown,
        note=_stored_note,
        moves_bytes=True,
    ),
    SnapshotEntry(
        event=SnapshotImported, status=SnapshotStatus.VALID, changes=_imported, row=_imported_row, moves_bytes=True
    ),
    SnapshotEntry(
        event=DumpFailed,
        status=SnapshotStatus.FAILED,
        changes=_failed,
        row=_failed_row,
        shown_by=_failure_shown,
        note=_failed_note,
        records_failure=True,
        moves_bytes=True,
    ),
)
