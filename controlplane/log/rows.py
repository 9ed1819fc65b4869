"""Rows read by primary key, changed in memory and written back in bulk, in SQL that every database understands.

A batch of events touches few rows often. Reading them once, folding in Python and writing what changed of each once keeps a
batch at a handful of statements, and needs no dialect's own "insert or update": who was read is updated, who was not is
inserted. The column ``generation`` is no part of a row in memory: a fold knows nothing of the rebuild that it serves.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Table

from controlplane.log import statements
from controlplane.log.schema import GENERATION

RowKey = tuple[Any, ...]
"""Values of a table's primary key, in its columns' order."""
Fields = dict[str, Any]


@lru_cache
def _names(table: Table) -> tuple[str, ...]:
    return tuple(name for name in table.columns.keys() if name != GENERATION)  # noqa: SIM118 - columns, not names


@lru_cache
def _key_names(table: Table) -> tuple[str, ...]:
    return tuple(column.name for column in table.primary_key if column.name != GENERATION)


@lru_cache
def _primary_key(table: Table) -> tuple[str, ...]:
    return tuple(column.name for column in table.primary_key)


def empty(table: Table) -> Fields:
    """Make a row of nothing but NULLs."""
    return dict.fromkeys(_names(table))


def key_of(table: Table, row: Mapping[str, Any]) -> RowKey:
    """Tell a row's primary key."""
    return tuple(row[name] for name in _key_names(table))


def load(
    connection: Connection, table: Table, keys: Collection[RowKey], generation: int | None = None
) -> dict[RowKey, Fields]:
    """Read the rows with these primary keys; the missing are missing in the answer."""
    if not keys:
        return {}
    wanted = [key if generation is None else (generation, *key) for key in sorted(keys)]
    found: dict[RowKey, Fields] = {}
    columns = table.columns.keys()
    for values in statements.find(connection, table, _primary_key(table), wanted):
        fields = dict(zip(columns, values, strict=True))
        fields.pop(GENERATION, None)
        found[key_of(table, fields)] = fields
    return found


def save(
    connection: Connection,
    table: Table,
    known: Mapping[RowKey, Fields],
    rows: Mapping[RowKey, Fields],
    generation: int | None = None,
) -> None:
    """Write rows: insert those that were not ``known``, update of the others what is not as it was known."""
    new: list[Fields] = []
    old: list[Fields] = []
    changed: set[str] = set()
    for key, row in rows.items():
        before = known.get(key)
        if before is None:
            new.append(row)
        elif before != row:
            changed.update(name for name, value in row.items() if before[name] != value)
            old.append(row)
    if new:
        insertion = statements.insertion(connection.dialect, table)
        insertion.run(connection, _tuples(insertion.names, new, generation))
    if old:
        change = statements.change(connection.dialect, table, tuple(sorted(changed)))
        change.run(connection, _tuples(change.names, old, generation))


def _tuples(names: tuple[str, ...], rows: Collection[Fields], generation: int | None) -> list[RowKey]:
    if generation is None:
        return [tuple([row[name] for name in names]) for row in rows]
    place = names.index(GENERATION)
    before, behind = names[:place], names[place + 1 :]
    return [(*[row[name] for name in before], generation, *[row[name] for name in behind]) for row in rows]
