"""Rows read by primary key, changed in memory and written back in bulk.

A batch of events touches few rows often. Reading them once, folding in Python and writing what changed of each once keeps a
batch at a handful of statements, and on SQLite needs no "insert or update": who was read is updated, who was not is
inserted. A row in memory has its table's columns in their order, all but ``generation``: a fold knows nothing of the rebuild
that it serves.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import cache
from itertools import compress
from operator import is_not, itemgetter
from typing import Any

from sqlalchemy import Connection, Dialect, Table

from controlplane.log.schema import GENERATION
from controlplane.log.sql import postgresql, sqlite, statements
from controlplane.log.sql.engine import takes_columns
from controlplane.log.sql.values import Statement, Write

RowKey = tuple[Any, ...]
"""Values of a table's primary key, in its columns' order."""
Fields = dict[str, Any]


@cache
def _blank(table: Table) -> Fields:
    return {name: None for name in table.columns.keys() if name != GENERATION}  # noqa: SIM118 - columns, not names


@cache
def _taker(names: tuple[str, ...]) -> Callable[[Fields], RowKey]:
    if len(names) == 1:
        return lambda row: (row[names[0]],)
    return itemgetter(*names)


@cache
def _primary_key(table: Table) -> tuple[str, ...]:
    return tuple(column.name for column in table.primary_key)


@cache
def _taker_of_key(table: Table) -> Callable[[Fields], RowKey]:
    return _taker(tuple(name for name in _primary_key(table) if name != GENERATION))


def empty(table: Table) -> Fields:
    """Make a row of nothing but NULLs."""
    return _blank(table).copy()


def key_of(table: Table, row: Fields) -> RowKey:
    """Tell a row's primary key."""
    return _taker_of_key(table)(row)


def load(connection: Connection, table: Table, keys: Collection[RowKey], generation: int) -> dict[RowKey, Fields]:
    """Read the rows with these primary keys; the missing are missing in the answer."""
    wanted = [(generation, *key) for key in sorted(keys)]
    found: dict[RowKey, Fields] = {}
    columns = table.columns.keys()
    for values in statements.find(connection, table, _primary_key(table), wanted):
        fields = dict(zip(columns, values, strict=True))
        del fields[GENERATION]
        found[key_of(table, fields)] = fields
    return found


def writes(
    dialect: Dialect,
    table: Table,
    known: Mapping[RowKey, Fields],
    rows: Mapping[RowKey, Fields],
    generation: int,
) -> list[Write]:
    """Tell what is to be written: rows that were not ``known``, and of the others what is not as it was known."""
    new: list[Fields] = []
    old: list[Fields] = []
    changed: set[str] = set()
    for key, row in rows.items():
        before = known.get(key)
        if before is None:
            new.append(row)
        elif before != row:
            changed.update(compress(row, map(is_not, row.values(), before.values())))
            old.append(row)
    found = []
    if takes_columns(dialect):  # one statement more costs more there than unchanged columns
        if new or old:
            found.append(_write(postgresql.replacement(dialect, table), [*new, *old], generation))
        return found
    if new:
        found.append(_write(sqlite.insertion(dialect, table), new, generation))
    if old:
        found.append(_write(sqlite.change(dialect, table, tuple(sorted(changed))), old, generation))
    return found


def _write(statement: Statement, rows: Collection[Fields], generation: int) -> Write:
    take = _taker(statement.names)
    return statement.of([take({**row, GENERATION: generation}) for row in rows])
