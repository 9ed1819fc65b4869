"""The tables behind the views: a fold of the events into rows, written in the transaction that appends them.

The fold is a pure function over rows in memory; the same code serves an append and a rebuild from position 0, so the two
cannot differ. It says what the domain's fold says where both speak (statuses, choices, lost nodes) and forgets nothing,
while the domain forgets what no decision needs any more. It is total: whatever the order of events, it raises nothing, and
an event about something never begun makes a row of what it knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeGuard, get_args

from sqlalchemy import Connection, Table

from controlplane.log.records import Recorded
from controlplane.log.schema import PROJECTIONS, commands, failures, incarnations, nodes, snapshots
from controlplane.log.sql.rows import Fields, RowKey, empty, key_of, load, writes
from controlplane.log.sql.statements import Write
from controlplane.log.sql.write_cache import WriteCache
from woodfrog.protocol import wire
from woodfrog.protocol.events import (
    AnyEvent,
    ColdStartChosen,
    CommandFinished,
    CommandIssued,
    ContainerEnded,
    ContainerStarted,
    DumpFailed,
    DumpStarted,
    IncarnationOpened,
    NodeClockMeasured,
    NodeEnding,
    NodeEvent,
    NodeLost,
    NodeRegistered,
    NodeReturned,
    NodeSpared,
    RestoreChosen,
    RestoreFailed,
    SnapshotCaptured,
    SnapshotDeleted,
    SnapshotExpired,
    SnapshotImported,
    SnapshotInvalidated,
    SnapshotPinned,
    SnapshotRehearsed,
    SnapshotRetried,
    SnapshotStored,
    SnapshotStoreDelayed,
    SnapshotSuperseded,
    SnapshotUnpinned,
    StartDeferred,
    StartRefused,
    event_type,
)
from woodfrog.protocol.facts import NodeFacts
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import CheckpointKey

VERSION = 1
"""Raise it when the fold or its tables change: tables folded by another version are rebuilt (:mod:`generations`).

A log with archived events cannot be rebuilt. So where only columns are added whose values stand in an event that a row points
at, a migration fills them in, and the version stays.
"""

_DumpEvent = (
    DumpStarted
    | SnapshotCaptured
    | SnapshotRehearsed
    | SnapshotStoreDelayed
    | SnapshotStored
    | SnapshotImported
    | DumpFailed
)
_SnapshotEvent = (
    _DumpEvent
    | SnapshotSuperseded
    | SnapshotInvalidated
    | SnapshotExpired
    | SnapshotDeleted
    | SnapshotPinned
    | SnapshotUnpinned
    | SnapshotRetried
)
_StartEvent = (
    IncarnationOpened
    | StartDeferred
    | RestoreChosen
    | ColdStartChosen
    | RestoreFailed
    | ContainerStarted
    | ContainerEnded
)

_FORWARD = ("dumping", "captured", "valid", "superseded", "failed", "invalidated", "expired", "deleted")
"""A snapshot's status only moves on along this line: a late "captured" does not undo "valid"."""
_STATUS_AFTER: dict[type[_SnapshotEvent], str] = {
    DumpStarted: "dumping",
    SnapshotCaptured: "captured",
    SnapshotRehearsed: "captured",
    SnapshotStoreDelayed: "captured",
    SnapshotStored: "valid",
    SnapshotImported: "valid",
    SnapshotSuperseded: "superseded",
    DumpFailed: "failed",
    SnapshotInvalidated: "invalidated",
    SnapshotExpired: "expired",
    SnapshotDeleted: "deleted",
    SnapshotPinned: "dumping",
    SnapshotUnpinned: "dumping",
    SnapshotRetried: "dumping",
}


_SNAPSHOT_EVENTS = frozenset(get_args(_SnapshotEvent))
_START_EVENTS = frozenset(get_args(_StartEvent))
_NODE_EVENTS = frozenset(get_args(NodeEvent))
_OF_A_COMMAND = CommandIssued, CommandFinished
_ABOUT_A_COMMAND = CommandFinished, DumpStarted
_MAY_TELL_A_FAILURE = DumpFailed, RestoreFailed, CommandFinished, StartRefused
_RANK = {status: rank for rank, status in enumerate(_FORWARD)}


def _is_of_snapshot(event: AnyEvent) -> TypeGuard[_SnapshotEvent]:
    return type(event) in _SNAPSHOT_EVENTS  # isinstance asks a union's members one after the other


def _is_of_start(event: AnyEvent) -> TypeGuard[_StartEvent]:
    return type(event) in _START_EVENTS


def _is_of_node(event: AnyEvent) -> TypeGuard[NodeEvent]:
    return type(event) in _NODE_EVENTS


class Rows:
    """The rows that a batch of events touches, by table and primary key."""

    def __init__(self) -> None:
        self.tables: dict[Table, dict[RowKey, Fields]] = {table: {} for table in PROJECTIONS}

    def get(self, table: Table, key: RowKey) -> Fields | None:
        """Find a row."""
        return self.tables[table].get(key)

    def put(self, table: Table, **fields: Any) -> Fields:
        """Make a row, NULL where nothing is said."""
        row = empty(table) | fields
        self.tables[table][key_of(table, row)] = row
        return row


def touched(event: AnyEvent) -> list[tuple[Table, RowKey]]:
    """Tell which rows must be known before ``event`` is folded."""
    found: list[tuple[Table, RowKey]] = []
    if _is_of_snapshot(event):
        found.append((snapshots, (*_parts(event.key), event.snapshot_id)))
    elif _is_of_start(event):
        found.append((incarnations, (*_parts(event.key), event.incarnation)))
    elif _is_of_node(event):
        found.append((nodes, (event.node,)))
    elif isinstance(event, CommandIssued):
        found.append((commands, (event.command.command_id,)))
    if isinstance(event, _ABOUT_A_COMMAND) and event.command_id is not None:
        found.append((commands, (event.command_id,)))
    return found


def fold(rows: Rows, record: Recorded) -> None:
    """Take one event into the rows. One that a newer release wrote is folded when that comes to run."""
    event = record.event
    if _is_of_snapshot(event):
        _fold_snapshot(rows, record, event)
    elif _is_of_start(event):
        _fold_start(rows, record, event)
    elif _is_of_node(event):
        _fold_node(rows, record, event)
    elif isinstance(event, _OF_A_COMMAND):
        _fold_command(rows, record, event)
    if isinstance(event, DumpStarted) and event.command_id is not None:
        asked = rows.get(commands, (event.command_id,))
        if asked is not None:
            asked["snapshot_id"] = event.snapshot_id
    if isinstance(event, _MAY_TELL_A_FAILURE) and event.failure is not None:
        _fold_failure(rows, record, event, event.failure)


def _parts(key: CheckpointKey) -> tuple[str, str, str]:
    return key.cluster, key.namespace, key.id


def _key_fields(key: CheckpointKey) -> dict[str, str]:
    return {"cluster": key.cluster, "namespace": key.namespace, "id": key.id}


def _failure_fields(failure: Failure | None) -> dict[str, str | None]:
    if failure is None:
        return {"failure_code": None, "failure_cause": None, "failure_advice": None}
    return {"failure_code": failure.code, "failure_cause": failure.cause, "failure_advice": failure.advice}


def _fold_snapshot(rows: Rows, record: Recorded, event: _SnapshotEvent) -> None:
    row = rows.get(snapshots, (*_parts(event.key), event.snapshot_id)) or rows.put(
        snapshots,
        **_key_fields(event.key),
        snapshot_id=event.snapshot_id,
        position=record.position,
        incarnation=event.incarnation,
        status="dumping",
        pinned=False,
    )
    after = _STATUS_AFTER[type(event)]
    if _RANK[after] > _RANK[row["status"]]:
        row["status"] = after
    at = record.occurred_at
    if isinstance(event, _DumpEvent):
        _fold_dump(row, event, at)
        return
    match event:
        case SnapshotSuperseded():
            row["superseded_by"] = event.by
        case SnapshotInvalidated():
            row["invalidated_reason"] = event.reason
        case SnapshotExpired():
            sooner = row["delete_after"]
            row |= {"expired_at": row["expired_at"] or at, "expired_reason": event.reason}
            row["delete_after"] = event.delete_after if sooner is None else min(sooner, event.delete_after)
        case SnapshotDeleted():
            row["deleted_at"] = at
        case SnapshotPinned():
            row |= {"pinned": True, "pinned_reason": event.reason}
        case SnapshotUnpinned():
            row |= {"pinned": False, "pinned_reason": None}
        case SnapshotRetried() if row["status"] == "invalidated":
            row |= {"status": "valid", "invalidated_reason": None}


def _fold_dump(row: Fields, event: _DumpEvent, at: datetime) -> None:
    match event:
        case DumpStarted():
            row |= {"node": event.node, "trigger": event.trigger.value, "final": event.final}
            row |= {"command_id": event.command_id, "dump_started_at": at}
        case SnapshotCaptured():
            row |= {"node": event.node, "captured_at": at}
            row |= {"freeze_seconds": event.freeze_seconds, "raw_bytes": event.raw_bytes}
        case SnapshotRehearsed():
            row |= {"node": event.node, "rehearsal": event.outcome.value, "rehearsal_seconds": event.seconds}
            row["rehearsal_reason"] = None if event.failure is None else event.failure.cause
        case SnapshotStoreDelayed():
            row["node"] = event.node
        case SnapshotStored():
            row |= {"node": event.node, "stored_at": at, "raw_bytes": event.raw_bytes}
            row |= {"stored_bytes": event.stored_bytes, "store_seconds": event.store_seconds}
            row["manifest_digest"] = event.manifest_digest
        case SnapshotImported():
            row |= {"trigger": "import", "captured_at": event.taken_at, "stored_at": at}
            row |= {"raw_bytes": event.raw_bytes, "stored_bytes": event.stored_bytes}
            row["manifest_digest"] = event.manifest_digest
        case DumpFailed():
            row |= {"node": event.node, "failure_stage": event.stage.value, **_failure_fields(event.failure)}


def _fold_start(rows: Rows, record: Recorded, event: _StartEvent) -> None:
    row = rows.get(incarnations, (*_parts(event.key), event.incarnation)) or rows.put(
        incarnations,
        **_key_fields(event.key),
        incarnation=event.incarnation,
        position=record.position,
        failed_restores=0,
    )
    at = record.occurred_at
    match event:
        case IncarnationOpened():
            row |= {"node": event.node, "container_id": event.container_id, "opened_at": at}
        case StartDeferred():
            row |= {"waited_for": event.waiting_for, "deferred_at": row["deferred_at"] or at}
            row["deferred_until"] = row["deferred_until"] or event.until
        case RestoreChosen():
            row |= {"choice": "restored", "snapshot_id": event.snapshot_id, "reason": event.reason, "chosen_at": at}
        case ColdStartChosen():
            row |= {"choice": "cold", "snapshot_id": None, "reason": event.reason, "chosen_at": at}
        case RestoreFailed():
            row["failed_restores"] += 1
            row |= {"choice": None, "snapshot_id": None, "reason": None, "chosen_at": None}
        case ContainerStarted():
            row |= {"node": event.node, "container_id": event.container_id, "started_at": at}
            row |= {"restored_from": event.restored_from, "create_seconds": event.create_seconds}
        case ContainerEnded():
            row |= {"node": event.node, "container_id": event.container_id, "ended_at": at}
            row["exit_code"] = event.exit_code


def _fold_command(rows: Rows, record: Recorded, event: CommandIssued | CommandFinished) -> None:
    if isinstance(event, CommandIssued):
        command = event.command
        if rows.get(commands, (command.command_id,)) is None:
            rows.put(
                commands,
                **_key_fields(command.key),
                command_id=command.command_id,
                position=record.position,
                kind=str(command.__struct_config__.tag),
                incarnation=command.incarnation,
                node=command.node,
                container_id=getattr(command, "container_id", None),
                snapshot_id=getattr(command, "snapshot_id", None),
                issued_at=command.issued_at,
                deadline_at=command.deadline,
                status="open",
            )
        return
    row = rows.get(commands, (event.command_id,))
    if row is not None and row["status"] == "open":
        row |= {"status": event.outcome.value, "finished_at": record.occurred_at, **_failure_fields(event.failure)}


def _fold_failure(
    rows: Rows,
    record: Recorded,
    event: DumpFailed | RestoreFailed | CommandFinished | StartRefused,
    failure: Failure,
) -> None:
    stage = getattr(event, "stage", None)
    rows.put(
        failures,
        **_key_fields(event.key),
        position=record.position,
        type=event_type(event),
        incarnation=event.incarnation,
        node=getattr(event, "node", None),
        snapshot_id=getattr(event, "snapshot_id", None),
        command_id=getattr(event, "command_id", None),
        stage=None if stage is None else stage.value,
        code=failure.code,
        cause=failure.cause,
        advice=failure.advice,
        detail=failure.detail,
        failed_at=record.occurred_at,
    )


def _fold_node(rows: Rows, record: Recorded, event: NodeEvent) -> None:
    row = rows.get(nodes, (event.node,))
    at = record.occurred_at
    if isinstance(event, NodeRegistered) or row is None:
        row = rows.put(nodes, node=event.node, position=record.position, worker_id=event.worker_id, status="ready")
    if row["worker_id"] != event.worker_id:
        return  # an earlier life's loss says nothing of this one
    match event:
        case NodeRegistered():
            facts = event.facts
            row |= {"boot_id": event.boot_id, "registered_at": at, "architecture": facts.architecture}
            row |= {"kernel_release": facts.kernel_release, "page_size_bytes": facts.page_size_bytes}
            row |= {"cgroup_version": facts.cgroup_version, "cpu_model": facts.cpu_model}
            row |= {"criu_version": facts.criu_version, "runc_version": facts.runc_version, **_gpu_fields(facts)}
            row["store"] = facts.store
        case NodeLost():
            row |= {"status": "lost", "lost_at": at, "silent_seconds": event.silent_seconds}
        case NodeReturned():
            row |= {"status": "ready", "returned_at": at}
        case NodeClockMeasured():
            row["clock_offset_seconds"] = event.offset_seconds
        case NodeEnding() | NodeSpared():
            pass  # it goes on being as ready, or as lost, as it was


def _gpu_fields(facts: NodeFacts) -> Fields:
    models = dict.fromkeys(gpu.model for gpu in facts.gpus if gpu.model)
    memory_bytes = [gpu.memory_bytes for gpu in facts.gpus if gpu.memory_bytes is not None]
    return {
        "gpu_driver": facts.gpu_driver,
        "gpu_count": len(facts.gpus),
        "gpu_models": ", ".join(models) or None,
        "gpu_memory_bytes": sum(memory_bytes) if memory_bytes else None,
        "gpus": wire.encode(facts.gpus).decode() if facts.gpus else None,
    }


def project(
    connection: Connection, records: Sequence[Recorded], generation: int, recall: WriteCache | None = None
) -> list[Write]:
    """Take events into one generation of the tables: read what must be known and tell what is to be written."""
    needed: dict[Table, dict[RowKey, None]] = {table: {} for table in PROJECTIONS}
    for record in records:
        for table, key in touched(record.event):
            needed[table][key] = None
    rows = Rows()
    known: dict[Table, dict[RowKey, Fields]] = {}
    for table, keys in needed.items():
        recalled = {} if recall is None else recall.rows(table, generation)
        found = {key: recalled[key] for key in keys if key in recalled}
        found.update(load(connection, table, keys.keys() - found.keys(), generation))
        known[table] = found
        rows.tables[table] = {key: row.copy() for key, row in found.items()}
    for record in records:
        fold(rows, record)
    found_writes: list[Write] = []
    for table, written in rows.tables.items():
        found_writes += writes(connection.dialect, table, known[table], written, generation)
        if recall is not None and needed[table]:
            recalled = recall.rows(table, generation)
            for key, row in written.items():
                recalled.pop(key, None)
                recalled[key] = row
    return found_writes
