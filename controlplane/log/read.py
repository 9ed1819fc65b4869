"""Reading the log in order, and the views."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncConnection

from controlplane.log.records import Metadata, Recorded, ViewFilterError
from controlplane.log.schema import events, log_head, utc_text
from controlplane.log.upcast import Upcasts
from controlplane.log.views import CONTRACT
from protocol import wire
from protocol.failures import Failure
from protocol.ids import CheckpointKey, CommandId, Position, Version
from protocol.requests import View


async def head(connection: AsyncConnection) -> Position:
    """Tell the position of the newest event, 0 if there is none."""
    return Position((await connection.execute(select(log_head.c.position))).scalar_one())


async def read(connection: AsyncConnection, after: Position, limit: int, upcasts: Upcasts) -> list[Recorded]:
    """Read up to ``limit`` events behind position ``after``, in order."""
    rows = await connection.execute(
        select(events).where(events.c.position > after).order_by(events.c.position).limit(limit)
    )
    return [from_row(row, upcasts) for row in rows]


def from_row(row: Row[*tuple[Any, ...]], upcasts: Upcasts) -> Recorded:
    """Make a record of a row of ``events``.

    Raises:
        UnreadableEventError: if this code cannot read the event.
    """
    return Recorded(
        position=Position(row.position),
        stream=row.stream,
        version=Version(row.version),
        event_id=UUID(row.event_id),
        event=upcasts.read(row.type, row.schema_version, row.data),
        metadata=wire.decode(row.metadata, Metadata),
        occurred_at=row.occurred_at,
        recorded_at=row.recorded_at,
        hash=row.hash,
    )


async def query(
    connection: AsyncConnection, view: View, *, key: CheckpointKey | None, command_id: CommandId | None, limit: int
) -> list[dict[str, Any]]:
    """Read a view: the newest ``limit`` rows that fit, oldest first.

    Moments are text as :func:`controlplane.log.schema.utc_text` writes it; ``data`` and ``metadata`` of ``events`` are the
    JSON objects as they were written, not upcast: this is what auditors compare.

    Raises:
        ViewFilterError: if the view's rows have no key, or no command.
    """
    contract = CONTRACT[view]
    table = contract.table
    statement = select(table).order_by(table.c.position.desc()).limit(limit)
    if key is not None:
        if view == "events":
            statement = statement.where(table.c.stream == f"checkpoint/{key}")
        elif "namespace" in table.c:
            statement = statement.where(
                table.c.cluster == key.cluster, table.c.namespace == key.namespace, table.c.id == key.id
            )
        else:
            raise _no_such_filter(view, "checkpoint key")
    if command_id is not None:
        if "command_id" not in table.c:
            raise _no_such_filter(view, "command")
        statement = statement.where(table.c.command_id == command_id)
    rows = [
        {name: _plain(name, value) for name, value in row.items()}
        for row in (await connection.execute(statement)).mappings()
    ]
    rows.reverse()
    return rows


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, datetime):
        return utc_text(value)
    if name in {"data", "metadata"}:
        return msgspec.json.decode(value)
    return value


def _no_such_filter(view: View, what: str) -> ViewFilterError:
    able = sorted(
        name for name, other in CONTRACT.items() if ("namespace" if "key" in what else "command_id") in other.table.c
    )
    return ViewFilterError(
        Failure(
            code="no-such-filter",
            cause=f"rows of the view {view} belong to no {what}",
            advice=f"Ask without it, or ask one of {', '.join(able)}.",
        )
    )
