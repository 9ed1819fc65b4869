"""What follows for a snapshot that is there. Of most of it its incarnation learns nothing: it may be long forgotten."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from msgspec.structs import replace

from controlplane.domain.catalogue.entry import Row, SnapshotEntry
from controlplane.domain.draft import Draft
from controlplane.domain.state import RULED_OUT, Snapshot, SnapshotStatus
from woodfrog.protocol.events.snapshots import (
    SnapshotDeleted,
    SnapshotExpired,
    SnapshotInvalidated,
    SnapshotPinned,
    SnapshotRetried,
    SnapshotSuperseded,
    SnapshotUnpinned,
)


def _superseded(draft: Draft, event: SnapshotSuperseded, _at: datetime) -> dict[str, Any]:
    draft.start(event.incarnation)
    return {"missed_by": event.by}


def _superseded_row(_row: Row, event: SnapshotSuperseded, _at: datetime) -> Row:
    return {"superseded_by": event.by}


def _invalidated(draft: Draft, event: SnapshotInvalidated, _at: datetime) -> dict[str, Any]:
    draft.start(event.incarnation)
    return {"note": event.reason}


def _invalidated_row(_row: Row, event: SnapshotInvalidated, _at: datetime) -> Row:
    return {"invalidated_reason": event.reason}


def _expired(draft: Draft, event: SnapshotExpired, _at: datetime) -> dict[str, Any]:
    before = draft.snapshots.get(event.snapshot_id)
    sooner = before.delete_after if before is not None else None
    return {"note": event.reason, "delete_after": _sooner(sooner, event.delete_after)}


def _expired_row(row: Row, event: SnapshotExpired, at: datetime) -> Row:
    return {
        "expired_at": row["expired_at"] or at,
        "expired_reason": event.reason,
        "delete_after": _sooner(row["delete_after"], event.delete_after),
    }


def _sooner(known: datetime | None, said: datetime) -> datetime:
    return said if known is None else min(known, said)


def _deleted(_draft: Draft, _event: SnapshotDeleted, _at: datetime) -> dict[str, Any]:
    return {"deleting": None}


def _deleted_row(_row: Row, _event: SnapshotDeleted, at: datetime) -> Row:
    return {"deleted_at": at}


def _deletion_shown(snapshot: Snapshot, _event: SnapshotDeleted) -> bool:
    return snapshot.status is SnapshotStatus.DELETED


def _pinned(_draft: Draft, _event: SnapshotPinned, _at: datetime) -> dict[str, Any]:
    return {"pinned": True}


def _pinned_row(_row: Row, event: SnapshotPinned, _at: datetime) -> Row:
    return {"pinned": True, "pinned_reason": event.reason}


def _unpinned(_draft: Draft, _event: SnapshotUnpinned, _at: datetime) -> dict[str, Any]:
    return {"pinned": False}


def _unpinned_row(_row: Row, _event: SnapshotUnpinned, _at: datetime) -> Row:
    return {"pinned": False, "pinned_reason": None}


def _retried(draft: Draft, event: SnapshotRetried, _at: datetime) -> None:
    """Take a snapshot back that was passed over: the one way in which a snapshot's status moves back."""
    known = draft.snapshots.get(event.snapshot_id)
    if known is not None:
        status = SnapshotStatus.VALID if known.status in RULED_OUT else known.status
        newest = max(draft.incarnations, default=event.incarnation)
        draft.snapshots[event.snapshot_id] = replace(
            known, status=status, failed_on=frozenset(), missed_by=None, retried_at=newest
        )


def _retried_row(row: Row, _event: SnapshotRetried, _at: datetime) -> Row:
    if row["status"] not in RULED_OUT:
        return {}
    return {"status": SnapshotStatus.VALID.value, "invalidated_reason": None, "superseded_by": None}


ENTRIES: Final[tuple[SnapshotEntry[Any], ...]] = (
    SnapshotEntry(
        event=SnapshotSuperseded,
        status=SnapshotStatus.SUPERSEDED,
        changes=_superseded,
        row=_superseded_row,
        housekeeping=True,
        moves_bytes=True,
    ),
    SnapshotEntry(
        event=SnapshotInvalidated,
        status=SnapshotStatus.INVALIDATED,
        changes=_invalidated,
        row=_invalidated_row,
        housekeeping=True,
        moves_bytes=True,
    ),
    SnapshotEntry(
        event=SnapshotExpired,
        status=SnapshotStatus.EXPIRED,
        changes=_expired,
        row=_expired_row,
        housekeeping=True,
        moves_bytes=True,
    ),
    SnapshotEntry(
        event=SnapshotDeleted,
        status=SnapshotStatus.DELETED,
        changes=_deleted,
        row=_deleted_row,
        shown_by=_deletion_shown,
        housekeeping=True,
        moves_bytes=True,
    ),
    SnapshotEntry(event=SnapshotPinned, changes=_pinned, row=_pinned_row),
    SnapshotEntry(event=SnapshotUnpinned, changes=_unpinned, row=_unpinned_row),
    SnapshotEntry(event=SnapshotRetried, state=_retried, row=_retried_row),
)
