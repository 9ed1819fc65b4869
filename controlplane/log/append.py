"""The one transaction in which events become facts: positions, versions, hashes, events and projections, all or nothing.

Positions are gapless because they are counted in a single row that the transaction holds: SQLite admits one writer at a
time, PostgreSQL locks the row until the end (``FOR UPDATE``), and a rollback gives the numbers back. Reading on from a
position therefore never misses an event that commits late. The same row holds the epoch, so that whoever lost the lead
is fenced off by the database, however late it notices itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import bindparam, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from controlplane.log import chain, projections
from controlplane.log.read import from_row
from controlplane.log.records import EventConflictError, ExpectedVersionError, NewEvent, Recorded, StaleEpochError
from controlplane.log.rows import in_parts, load, save
from controlplane.log.schema import events, log_head, streams
from controlplane.log.upcast import Upcasts
from process import faultpoints
from protocol import wire
from protocol.events import SCHEMA_VERSION, event_type, stream_of
from protocol.ids import Epoch, Position, Version

_LOCK_HEAD = select(log_head.c.position, log_head.c.epoch).with_for_update()
_MOVE_HEAD = update(log_head).where(log_head.c.epoch == bindparam("leading")).values(position=bindparam("new_position"))
_KNOWN_EVENTS = select(events).where(events.c.event_id.in_(bindparam("event_ids", expanding=True)))
_INSERT_EVENTS = insert(events)


async def append(
    connection: AsyncConnection,
    batch: Sequence[NewEvent],
    *,
    epoch: Epoch,
    expected: Mapping[str, Version],
    recorded_at: datetime,
    upcasts: Upcasts,
) -> list[Recorded]:
    """Append ``batch`` in the writing transaction that ``connection`` is in; answer one record for each, in order.

    An event whose id is recorded already with the same stream and payload is answered with that record and written no
    second time; its metadata and times are not compared, because a repeated decision has later ones. The expected versions
    are those before the batch; they are not asked for if nothing of the batch is new.

    Raises:
        StaleEpochError, EventConflictError, ExpectedVersionError: nothing of the batch may be committed.
    """
    position = await _lock_head(connection, epoch)
    answers = await recorded_before(connection, [new.event_id for new in batch], upcasts)
    new_ones: dict[UUID, NewEvent] = {}
    for new in batch:
        before = answers.get(new.event_id)
        if before is not None:
            if before.event != new.event:
                raise EventConflictError(new.event_id, before.position)
        elif new_ones.setdefault(new.event_id, new).event != new.event:
            raise EventConflictError(new.event_id, None)
    fresh = list(new_ones.values())
    if fresh:
        rows = await _rows(connection, fresh, position, expected, recorded_at)
        recorded = [_record(new, row) for new, row in zip(fresh, rows, strict=True)]
        await connection.execute(insert(events), rows)
        await connection.execute(
            update(log_head)
            .where(log_head.c.one == 1, log_head.c.epoch == epoch)
            .values(position=recorded[-1].position)
        )
        await projections.project(connection, recorded)
        answers |= {record.event_id: record for record in recorded}
    faultpoints.reach("log.append.before-commit")
    return [answers[new.event_id] for new in batch]


async def take_lead(connection: AsyncConnection) -> Epoch:
    """Raise the epoch by one, in the writing transaction that ``connection`` is in."""
    epoch = Epoch((await connection.execute(_LOCK_HEAD)).one().epoch + 1)
    await connection.execute(update(log_head).values(epoch=epoch))
    return epoch


async def check_lead(connection: AsyncConnection, epoch: Epoch) -> None:
    """Raise :class:`StaleEpochError` unless ``epoch`` leads."""
    current = (await connection.execute(select(log_head.c.epoch))).scalar_one()
    if current != epoch:
        raise StaleEpochError(epoch, Epoch(current))


async def _lock_head(connection: AsyncConnection, epoch: Epoch) -> Position:
    row = (await connection.execute(_LOCK_HEAD)).one()
    if row.epoch != epoch:
        raise StaleEpochError(epoch, Epoch(row.epoch))
    return Position(row.position)


async def recorded_before(
    connection: AsyncConnection, event_ids: Sequence[UUID], upcasts: Upcasts
) -> dict[UUID, Recorded]:
    """Find those of the events that are in the log, by their ids."""
    found: dict[UUID, Recorded] = {}
    for part in in_parts(sorted({str(event_id) for event_id in event_ids})):
        for row in await connection.execute(_KNOWN_EVENTS, {"event_ids": part}):
            record = from_row(row, upcasts)
            found[record.event_id] = record
    return found


async def _rows(
    connection: AsyncConnection,
    fresh: Sequence[NewEvent],
    position: Position,
    expected: Mapping[str, Version],
    recorded_at: datetime,
) -> list[dict[str, Any]]:
    touched = {stream_of(new.event) for new in fresh}
    kept = await load(connection, streams, {(name,) for name in touched | expected.keys()})
    for name, version in expected.items():
        actual = kept[name,]["version"] if (name,) in kept else 0
        if actual != version:
            raise ExpectedVersionError(name, version, Version(actual))
    ends = {(name,): kept.get((name,), {"stream": name, "version": 0, "hash": chain.FIRST}) for name in touched}
    rows = []
    for offset, new in enumerate(fresh, start=1):
        end = ends[stream_of(new.event),]
        row: dict[str, Any] = {
            "position": position + offset,
            "stream": end["stream"],
            "version": end["version"] + 1,
            "event_id": str(new.event_id),
            "type": event_type(new.event),
            "schema_version": SCHEMA_VERSION,
            "data": wire.encode(new.event).decode(),
            "metadata": wire.encode(new.metadata).decode(),
            "command_id": chain.command_of(new.event),
            "occurred_at": new.occurred_at,
            "recorded_at": recorded_at,
        }
        row["hash"] = chain.link(end["hash"], row)
        ends[end["stream"],] = {"stream": end["stream"], "version": row["version"], "hash": row["hash"]}
        rows.append(row)
    await save(connection, streams, kept.keys(), ends)
    return rows


def _record(new: NewEvent, row: Mapping[str, Any]) -> Recorded:
    return Recorded(
        position=Position(row["position"]),
        stream=row["stream"],
        version=Version(row["version"]),
        event_id=new.event_id,
        event=new.event,
        metadata=new.metadata,
        occurred_at=new.occurred_at,
        recorded_at=row["recorded_at"],
        hash=row["hash"],
    )
