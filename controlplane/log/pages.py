"""Pages of the views and of the log, newest row first, for people who look through them.

A page begins behind a cursor and not at an offset, so that it costs the same wherever it is, and rows that come in meanwhile move
nothing. Of the log itself a page looks at a bounded range of positions: it may hold fewer rows than were asked for, none even,
and still be followed by another. What was archived (docs/how-to/keep-the-log-small.md) is not shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, get_args

import msgspec
from sqlalchemy import ColumnElement, Connection, Table, func, or_, select

from controlplane.log.projections.views import CONTRACT
from controlplane.log.read import newest_first, plain
from woodfrog.protocol.events import NodeEvent, NodeRegistered
from woodfrog.protocol.ids import Position
from woodfrog.protocol.requests import View, cursor_of

_SCANNED: Final = 20_000
"""How many positions of the log one page looks at."""
_EVENTS: Final = CONTRACT["events"].table
_REGISTERED: Final = str(NodeRegistered.__struct_config__.tag)
_OF_NODES: Final = tuple({str(kind.__struct_config__.tag) for kind in get_args(NodeEvent)} - {_REGISTERED})


class Scope(msgspec.Struct, frozen=True):
    """What whoever asks may see."""

    cluster: str
    namespaces: frozenset[str] | None = None
    """``None``: all of them, and what belongs to no namespace."""

    def rows(self, table: Table) -> list[ColumnElement[bool]]:
        """Say which rows of a view it is."""
        if "namespace" not in table.c:
            return []
        clauses: list[ColumnElement[bool]] = [table.c.cluster == self.cluster]
        if self.namespaces is not None:
            clauses.append(table.c.namespace.in_(sorted(self.namespaces)))
        return clauses

    def streams(self) -> list[ColumnElement[bool]]:
        """Say which events it is."""
        if self.namespaces is None:
            return []
        begun = [f"checkpoint/{self.cluster}/{namespace}/" for namespace in sorted(self.namespaces)]
        return [or_(*(_beginning(begin) for begin in begun)) if begun else _EVENTS.c.position < 0]


class Page(msgspec.Struct, frozen=True):
    """Rows fit for JSON, and where the next page begins; ``None`` if there is none."""

    rows: list[dict[str, Any]]
    next: int | None


def _beginning(text: str) -> ColumnElement[bool]:
    """Find streams by how they begin. Not by their order: the locale of a database may pass over punctuation."""
    return func.substr(_EVENTS.c.stream, 1, len(text)) == text


def rows(
    connection: Connection, view: View, scope: Scope, equal: dict[str, Any], before: int | None, limit: int
) -> Page:
    """Read a page of a view other than ``events``; ``equal`` names what columns have to hold."""
    table = CONTRACT[view].table
    cursor = table.c[cursor_of(view)]
    statement = select(table).where(*scope.rows(table), *(table.c[name] == value for name, value in equal.items()))
    if before is not None:
        statement = statement.where(cursor < before)
    order = newest_first(cursor, narrow=not {"id", "snapshot_id"}.isdisjoint(equal))
    found = connection.execute(statement.order_by(order).limit(limit)).mappings().all()
    return Page([plain(row) for row in found], found[-1][cursor.name] if len(found) == limit else None)


def events(
    connection: Connection,
    scope: Scope,
    streams: Sequence[str],
    types: Sequence[str],
    before: int | None,
    limit: int,
    *,
    since: datetime | None = None,
) -> Page:
    """Read a page of the log: of some ``streams`` and ``types`` if any are named, and of what was recorded later than ``since``."""
    ends = _ends(connection)
    if ends is None:
        return Page([], None)
    first, last = ends
    if since is not None:
        first = max(first, position_at(connection, since) + 1)
    end = min(last + 1, before) if before is not None else last + 1
    statement = select(_EVENTS).where(
        *_wanted(scope, streams, types), _EVENTS.c.position < end, _EVENTS.c.position >= first
    )
    begin = first
    if not streams:  # a stream has an index of its own; whatever else is asked for is looked for in a range
        begin = max(first, end - _SCANNED)
        statement = statement.where(_EVENTS.c.position >= begin)
    found = connection.execute(statement.order_by(_EVENTS.c.position.desc()).limit(limit)).mappings().all()
    if len(found) == limit:
        return Page([plain(row) for row in found], found[-1]["position"])
    return Page([plain(row) for row in found], begin if begin > first else None)


def events_after(
    connection: Connection, scope: Scope, streams: Sequence[str], types: Sequence[str], after: int, limit: int
) -> tuple[Position, list[dict[str, Any]]]:
    """Read what follows on a position, oldest first, and up to which position that is all there is."""
    last = connection.scalar(select(func.max(_EVENTS.c.position))) or 0
    through = min(last, after + _SCANNED)
    statement = (
        select(_EVENTS)
        .where(*_wanted(scope, streams, types), _EVENTS.c.position > after, _EVENTS.c.position <= through)
        .order_by(_EVENTS.c.position)
        .limit(limit)
    )
    found = [plain(row) for row in connection.execute(statement).mappings()]
    return Position(found[-1]["position"] if len(found) == limit else max(through, after)), found


def _ends(connection: Connection) -> tuple[int, int] | None:
    """Find the first and the last position. Each alone is one step into an index; SQLite looks at every row for both at once."""
    first, last = (select(of(_EVENTS.c.position)).scalar_subquery() for of in (func.min, func.max))
    found = connection.execute(select(first, last)).one()
    return None if found[0] is None else (found[0], found[1])


def _wanted(scope: Scope, streams: Sequence[str], types: Sequence[str]) -> list[ColumnElement[bool]]:
    wanted = scope.streams()
    if streams:
        wanted.append(_EVENTS.c.stream.in_(streams))
    if types:
        wanted.append(_EVENTS.c.type.in_(types))
    return wanted


def of_stream(connection: Connection, stream: str, until: int, limit: int) -> Sequence[Any]:
    """Read up to ``limit`` of a stream's events up to a position, oldest first."""
    return _newest(connection, _EVENTS.c.stream == stream, until, limit)


def registrations(connection: Connection, until: int) -> dict[str, int]:
    """Find the nodes that were known at a position, each with the position of its newest registration."""
    of_type, position, stream = _EVENTS.c.type, _EVENTS.c.position, _EVENTS.c.stream
    newest = select(stream, func.max(position)).where(of_type == _REGISTERED, position <= until).group_by(stream)
    return {name.removeprefix("node/"): at for name, at in connection.execute(newest)}


def of_nodes(connection: Connection, registered: Mapping[str, int], until: int, limit: int) -> list[Any]:
    """Read what is known of some nodes at a position, oldest first: their newest registrations, and up to ``limit`` of their other events.

    A registration is kilobytes, and each worker that is started makes one; so they are read for those nodes only that matter.
    """
    of_type, position = _EVENTS.c.type, _EVENTS.c.position
    known = connection.execute(select(_EVENTS).where(position.in_(sorted(registered.values())))).mappings().all()
    others = _newest(connection, of_type.in_(_OF_NODES), until, limit)
    found = [*known, *(row for row in others if row["stream"].removeprefix("node/") in registered)]
    return sorted(found, key=lambda row: int(row["position"]))


def _newest(connection: Connection, which: ColumnElement[bool], until: int, limit: int) -> Sequence[Any]:
    newest = select(_EVENTS).where(which, _EVENTS.c.position <= until).order_by(_EVENTS.c.position.desc()).limit(limit)
    return connection.execute(newest).mappings().all()[::-1]


def position_at(connection: Connection, moment: datetime) -> Position:
    """Find the newest event that had been recorded at a moment, by halving; the one before the table's first if none had."""
    ends = _ends(connection)
    if ends is None:
        return Position(0)
    low, high = ends
    low -= 1
    while low < high:
        middle = (low + high + 1) // 2
        recorded = recorded_at(connection, middle)
        if recorded is not None and recorded <= moment:
            low = middle
        else:
            high = middle - 1
    return Position(low)


def recorded_at(connection: Connection, position: int) -> datetime | None:
    """Find when an event was recorded; ``None`` if the table does not have it."""
    return connection.scalar(select(_EVENTS.c.recorded_at).where(_EVENTS.c.position == position))
