"""What follows from commands: which are open, and what of an id waits for one."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from msgspec.structs import replace

from controlplane.domain.catalogue.entry import KeyEntry, Row, failure_columns
from controlplane.domain.draft import Draft
from controlplane.domain.state import Snapshot, SnapshotStatus
from woodfrog.protocol.commands import Command, DeleteCommand, DumpCommand
from woodfrog.protocol.events import AnyEvent
from woodfrog.protocol.events.commands import CommandFinished, CommandIssued, Outcome
from woodfrog.protocol.ids import CommandId, IncarnationNumber

_FIRST_DELETE_PAUSE_SECONDS: Final = 10.0
_LONGEST_DELETE_PAUSE_SECONDS: Final = 3600.0


def follow(open_commands: dict[CommandId, Command], event: AnyEvent) -> None:
    """Keep ``open_commands``, which are issued and not finished, in the order of the log."""
    if isinstance(event, CommandIssued):
        open_commands[event.command.command_id] = event.command
    elif isinstance(event, CommandFinished):
        open_commands.pop(event.command_id, None)


def _issued(draft: Draft, event: CommandIssued, _at: datetime) -> None:
    command = event.command
    if isinstance(command, DumpCommand):
        newest = max(draft.incarnations, default=IncarnationNumber(0))
        asked = {"dump_asked_at": command.issued_at, "dump_asked_for": newest}
        draft.start(event.incarnation, dump_command=command.command_id, **asked)
    elif isinstance(command, DeleteCommand) and command.snapshot_id in draft.snapshots:
        known = draft.snapshots[command.snapshot_id]
        draft.snapshots[command.snapshot_id] = replace(known, deleting=command.command_id)


def _issued_row(row: Row | None, event: CommandIssued, _at: datetime) -> Row:
    if row is not None:
        return {}
    command = event.command
    return {
        "cluster": command.key.cluster,
        "namespace": command.key.namespace,
        "id": command.key.id,
        "kind": str(command.__struct_config__.tag),
        "incarnation": command.incarnation,
        "node": command.node,
        "container_id": getattr(command, "container_id", None),
        "snapshot_id": getattr(command, "snapshot_id", None),
        "issued_at": command.issued_at,
        "deadline_at": command.deadline,
        "status": "open",
    }


def _finished(draft: Draft, event: CommandFinished, at: datetime) -> None:
    known = draft.incarnations.get(event.incarnation)
    if known is not None and known.dump_command == event.command_id:
        failed = 0 if event.outcome is Outcome.SUCCEEDED else known.dumps_failed + 1
        draft.start(event.incarnation, dump_command=None, dumps_failed=failed)
    for name, snapshot in draft.snapshots.items():
        if snapshot.deleting == event.command_id:
            draft.snapshots[name] = _after_delete(snapshot, at)


def _after_delete(snapshot: Snapshot, at: datetime) -> Snapshot:
    """Have a deletion that came to nothing tried again, later each time."""
    if snapshot.status is SnapshotStatus.DELETED:
        return replace(snapshot, deleting=None)
    pause_seconds = min(
        _FIRST_DELETE_PAUSE_SECONDS * 2.0 ** min(snapshot.deletes_failed, 12), _LONGEST_DELETE_PAUSE_SECONDS
    )
    return replace(
        snapshot,
        deleting=None,
        deletes_failed=snapshot.deletes_failed + 1,
        delete_again_at=at + timedelta(seconds=pause_seconds),
    )


def _finished_row(row: Row | None, event: CommandFinished, at: datetime) -> Row:
    if row is None or row["status"] != "open":
        return {}
    return {"status": event.outcome.value, "finished_at": at, **failure_columns(event.failure)}


ENTRIES: Final[tuple[KeyEntry[Any], ...]] = (
    KeyEntry(event=CommandIssued, state=_issued, command_row=_issued_row, housekeeping=True),
    KeyEntry(
        event=CommandFinished, state=_finished, command_row=_finished_row, housekeeping=True, records_failure=True
    ),
)
