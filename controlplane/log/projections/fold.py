"""The tables behind the views: a fold of the events into rows, written in the transaction that appends them.

Which columns an event changes stands in its entry in :mod:`controlplane.domain.catalogue`; here is which row that is. The fold is a
pure function over rows in memory; the same code serves an append and a rebuild from position 0, so the two cannot differ. It
says what the domain's fold says where both speak (statuses, choices, lost nodes) and forgets nothing, while the domain forgets
what no decision needs any more. It is total: whatever the order of events, it raises nothing, and
an event about something never begun makes a row of what it knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Table

from controlplane.domain.catalogue import ENTRIES
from controlplane.domain.catalogue.entry import KeyEntry, NodeEntry, SnapshotEntry, StartEntry
from controlplane.domain.state import SnapshotStatus, moves_on
from controlplane.log.records import Recorded
from controlplane.log.schema import PROJECTIONS, commands, failures, incarnations, nodes, snapshots
from controlplane.log.sql.rows import Fields, RowKey, empty, key_of, load, writes
from controlplane.log.sql.values import Write
from controlplane.log.sql.write_cache import WriteCache
from woodfrog.protocol.events import AnyEvent, command_of, event_type
from woodfrog.protocol.events.base import AboutKey

VERSION = 1
"""Raise it when the fold or its tables change: tables folded by another version are rebuilt (:mod:`generations`).

A log with archived events cannot be rebuilt. So where only columns are added whose values stand in an event that a row points
at, a migration fills them in, and the version stays.
"""


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
    entry: Any = ENTRIES.get(type(event))
    about: Any = event
    found: list[tuple[Table, RowKey]] = []
    if isinstance(entry, SnapshotEntry):
        found.append((snapshots, _snapshot_key(about)))
    elif isinstance(entry, StartEntry):
        found.append((incarnations, _start_key(about)))
    elif isinstance(entry, NodeEntry):
        return [(nodes, (about.node,))]
    if isinstance(entry, KeyEntry) and entry.command_row is not None and (command := command_of(event)) is not None:
        found.append((commands, (command,)))
    return found


def fold(rows: Rows, record: Recorded) -> None:
    """Take one event into the rows, as its entry says. One that a newer release wrote is folded when that comes to run."""
    entry: Any = ENTRIES.get(type(record.event))
    if isinstance(entry, SnapshotEntry):
        _fold_snapshot(rows, record, entry)
    elif isinstance(entry, StartEntry):
        _fold_start(rows, record, entry)
    elif isinstance(entry, NodeEntry):
        _fold_node(rows, record, entry)
        return
    if isinstance(entry, KeyEntry) and entry.command_row is not None:
        _fold_command(rows, record, entry)
    if entry is not None and entry.records_failure:
        _fold_failure(rows, record)


def _key_fields(event: AboutKey) -> dict[str, str]:
    return {"cluster": event.key.cluster, "namespace": event.key.namespace, "id": event.key.id}


def _snapshot_key(event: Any) -> RowKey:
    key = event.key
    return key.cluster, key.namespace, key.id, event.snapshot_id


def _start_key(event: Any) -> RowKey:
    key = event.key
    return key.cluster, key.namespace, key.id, event.incarnation


def _fold_snapshot(rows: Rows, record: Recorded, entry: SnapshotEntry[Any]) -> None:
    event: Any = record.event
    row = rows.get(snapshots, _snapshot_key(event)) or rows.put(
        snapshots,
        **_key_fields(event),
        snapshot_id=event.snapshot_id,
        position=record.position,
        incarnation=event.incarnation,
        status=SnapshotStatus.DUMPING.value,
        pinned=False,
    )
    if entry.status is not None and moves_on(row["status"], entry.status):
        row["status"] = entry.status.value
    row |= entry.row(row, event, record.occurred_at)


def _fold_start(rows: Rows, record: Recorded, entry: StartEntry[Any]) -> None:
    event: Any = record.event
    row = rows.get(incarnations, _start_key(event))
    if row is None:
        if not entry.begins:
            return
        row = rows.put(
            incarnations,
            **_key_fields(event),
            incarnation=event.incarnation,
            position=record.position,
            failed_restores=0,
        )
    row |= entry.row(row, event, record.occurred_at)


def _fold_node(rows: Rows, record: Recorded, entry: NodeEntry[Any]) -> None:
    event: Any = record.event
    row = rows.get(nodes, (event.node,))
    if entry.begins or row is None:
        row = rows.put(nodes, node=event.node, position=record.position, worker_id=event.worker_id, status="ready")
    if entry.row is not None and row["worker_id"] == event.worker_id:
        row |= entry.row(event, record.occurred_at)


def _fold_command(rows: Rows, record: Recorded, entry: KeyEntry[Any]) -> None:
    command_id = command_of(record.event)
    if command_id is None or entry.command_row is None:
        return
    row = rows.get(commands, (command_id,))
    changes = entry.command_row(row, record.event, record.occurred_at)
    if row is not None:
        row |= changes
    elif changes:
        rows.put(commands, command_id=command_id, position=record.position, **changes)


def _fold_failure(rows: Rows, record: Recorded) -> None:
    event: Any = record.event
    failure = event.failure
    if failure is None:
        return
    stage = getattr(event, "stage", None)
    rows.put(
        failures,
        **_key_fields(event),
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
