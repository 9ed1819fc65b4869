"""Reading the log in order, and the views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy import ColumnElement, Connection, bindparam, func, select

from controlplane.domain.event_time import believed
from controlplane.log.projections.views import CONTRACT
from controlplane.log.records import ArchivedRangeError, Metadata, Recorded, ViewFilterError
from controlplane.log.schema import archived_heads, events, log_head, streams, utc_text
from controlplane.log.sql import statements, values
from controlplane.log.upcast import Upcasts
from woodfrog.protocol.events import AnyEvent
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import CheckpointKey, CommandId, Position
from woodfrog.protocol.requests import View, cursor_of

_decode_metadata = msgspec.json.Decoder(Metadata).decode
_READ_HEAD: Final = select(log_head.c.position)
_READ_PAGE: Final = (
    select(events).where(events.c.position > bindparam("after")).order_by(events.c.position).limit(bindparam("count"))
)
_COLUMNS: Final = tuple(events.columns.keys())
_TOLD: Final = (
    events.c.position,
    events.c.type,
    events.c.schema_version,
    events.c.data,
    events.c.occurred_at,
    events.c.recorded_at,
)
_TELL_PAGE: Final = (
    select(*_TOLD).where(events.c.position > bindparam("after")).order_by(events.c.position).limit(bindparam("count"))
)


def head(connection: Connection) -> Position:
    """Tell the position of the newest event, 0 if there is none."""
    return Position(statements.plain(connection.dialect, _READ_HEAD).run(connection)[0][0])


def read(connection: Connection, after: Position, limit: int, upcasts: Upcasts) -> list[Recorded]:
    """Read up to ``limit`` events behind position ``after``, in order.

    Raises:
        ArchivedRangeError: the event right behind ``after`` is no longer in the table.
    """
    rows = statements.plain(connection.dialect, _READ_PAGE).run(connection, after=after, count=limit)
    _check_first(rows, after)
    conversions = values.readers(connection.dialect, events)
    return [record_of(row, upcasts) for row in values.read_values(rows, conversions)]


def tell(
    connection: Connection, after: Position, limit: int, upcasts: Upcasts
) -> tuple[Position, list[tuple[AnyEvent, datetime]]]:
    """Read as :func:`read` does, but only what a fold asks: what happened, and when, as far as that is believed.

    The position is the last one's.
    """
    rows = statements.plain(connection.dialect, _TELL_PAGE).run(connection, after=after, count=limit)
    _check_first(rows, after)
    if not rows:
        return after, []
    understand = upcasts.read
    moment = values.reader(connection.dialect, events.c.occurred_at)
    told = [
        (understand(type_, version, data), believed(moment(at), moment(recorded_at)))
        for _, type_, version, data, at, recorded_at in rows
    ]
    return Position(rows[-1][0]), told


def _check_first(rows: Sequence[Sequence[Any]], after: Position) -> None:
    if rows and rows[0][0] != after + 1:
        raise archived(after + 1, rows[0][0] - 1)


def archived(first: int, last: int) -> ArchivedRangeError:
    """Say that events are to be read which are in files that are not at hand."""
    return ArchivedRangeError(
        Failure(
            code="log-archived",
            cause=f"the events from position {first} to {last} are no longer in the table",
            advice="Name the directory of the archive's files: WOODFROG_LOG_ARCHIVE, or --archive on the command line.",
        )
    )


def record_of(row: Sequence[Any], upcasts: Upcasts) -> Recorded:
    """Make a record of a row of ``events``, in the order of its columns.

    Raises:
        UnreadableEventError: if this code cannot read the event.
    """
    position, stream, version, event_id, type_, schema_version, data, metadata, _, occurred_at, recorded_at, link = row
    return Recorded(
        position,
        stream,
        version,
        UUID(event_id),
        upcasts.read(type_, schema_version, data, stream),
        _decode_metadata(metadata),
        occurred_at,
        recorded_at,
        link,
    )


def record_of_row(row: Mapping[str, Any], upcasts: Upcasts) -> Recorded:
    """Do as :func:`record_of`, with a row that has names."""
    return record_of([row[name] for name in _COLUMNS], upcasts)


def tell_rows(rows: Sequence[Mapping[str, Any]], upcasts: Upcasts) -> list[tuple[AnyEvent, datetime]]:
    """Make of rows what :func:`tell` makes of the table's."""
    return [
        (
            upcasts.read(row["type"], row["schema_version"], row["data"]),
            believed(row["occurred_at"], row["recorded_at"]),
        )
        for row in rows
    ]


def query(
    connection: Connection,
    view: View,
    *,
    key: CheckpointKey | None,
    command_id: CommandId | None,
    limit: int,
    before: int | None = None,
) -> list[dict[str, Any]]:
    """Read a view: the newest ``limit`` rows that fit, oldest first; with ``before``, of those below that position or number.

    Moments are text as :func:`controlplane.log.schema.utc_text` writes it; ``data`` and ``metadata`` of ``events`` are the
    JSON objects as they were written, not upcast: this is what auditors compare. ``gpus`` of ``nodes`` is JSON, too.

    Raises:
        ViewFilterError: if the view's rows have no key, or no command.
    """
    contract = CONTRACT[view]
    table = contract.table
    narrow = (key is not None and view != "events") or command_id is not None
    order = [newest_first(table.c[name], narrow=narrow) for name in ("position", "number") if name in table.c]
    statement = select(table).order_by(*order).limit(limit)
    if before is not None:
        statement = statement.where(table.c[cursor_of(view)] < before)
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
    rows = [plain(row) for row in connection.execute(statement).mappings()]
    rows.reverse()
    return rows


def newest_first(cursor: ColumnElement[Any], *, narrow: bool) -> ColumnElement[Any]:
    """Order rows by a cursor; ``narrow`` where they are those of one id or command, which have an index of their own.

    SQLite would walk through all rows of the log in the order of the cursor, to save the sorting of these few, until it has enough.
    An expression is not in an index, so they are found first and sorted then.
    """
    return (cursor + 0).desc() if narrow else cursor.desc()


def rows(connection: Connection, after: Position, limit: int) -> list[dict[str, Any]]:
    """Read the rows of ``events`` behind a position, in order, as :func:`query` gives them. Raises as :func:`read` does."""
    table = CONTRACT["events"].table
    found = connection.execute(select(table).where(table.c.position > after).order_by(table.c.position).limit(limit))
    rows = found.mappings().all()
    _check_first([(row["position"],) for row in rows[:1]], after)
    return [plain(row) for row in rows]


def plain(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Make a row fit for JSON, as :func:`query` says."""
    return {name: _plain(name, value) for name, value in row.items()}


def is_archived(connection: Connection, stream: str) -> bool:
    """Tell whether a stream has archived events."""
    return connection.scalar(select(archived_heads.c.version).where(archived_heads.c.stream == stream)) is not None


def count_streams(connection: Connection) -> int:
    """Tell how many streams have events."""
    return int(connection.execute(select(func.count()).select_from(streams)).scalar_one())


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, datetime):
        return utc_text(value)
    if name in {"data", "metadata", "gpus"} and value is not None:
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
