"""Rows read by primary key, changed in memory and written back in bulk, in SQL that every database understands.

A batch of events touches few rows often. Reading them once, folding in Python and writing each once keeps a batch at a
handful of statements, each built once, and needs no dialect's own "insert or update": who was read is updated, who was not is inserted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

from sqlalchemy import Insert, Select, Table, Update, bindparam, insert, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

T = TypeVar("T")
RowKey = tuple[Any, ...]
"""Values of a table's primary key, in its columns' order."""
Fields = dict[str, Any]

_PART = 500


def in_parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Cut a list into parts that fit into one statement's parameters."""
    for start in range(0, len(items), _PART):
        yield items[start : start + _PART]


def empty(table: Table) -> Fields:
    """Make a row of nothing but NULLs."""
    return dict.fromkeys(table.columns.keys())


def key_of(table: Table, row: Mapping[str, Any]) -> RowKey:
    """Tell a row's primary key."""
    return tuple(row[column.name] for column in table.primary_key)


async def load(connection: AsyncConnection, table: Table, keys: Collection[RowKey]) -> dict[RowKey, Fields]:
    """Read the rows with these primary keys; the missing are missing in the answer."""
    single = len(table.primary_key.columns) == 1
    found: dict[RowKey, Fields] = {}
    for part in in_parts(sorted(keys)):
        wanted = {"keys": [key[0] for key in part] if single else list(part)}
        for row in (await connection.execute(_selection(table), wanted)).mappings():
            fields = {str(name): value for name, value in row.items()}
            found[key_of(table, fields)] = fields
    return found


async def save(
    connection: AsyncConnection, table: Table, known: Collection[RowKey], rows: Mapping[RowKey, Fields]
) -> None:
    """Write whole rows back: update those whose key is ``known`` to be in the table, insert the others."""
    new = [row for key, row in rows.items() if key not in known]
    if new:
        await connection.execute(_insertion(table), new)
    old = [{f"the_{name}": value for name, value in row.items()} for key, row in rows.items() if key in known]
    if old:
        await connection.execute(_replacement(table), old)


@cache
def _selection(table: Table) -> Select[Any]:
    columns = list(table.primary_key)
    key = columns[0] if len(columns) == 1 else tuple_(*columns)
    return select(table).where(key.in_(bindparam("keys", expanding=True)))


@cache
def _insertion(table: Table) -> Insert:
    return insert(table)


@cache
def _replacement(table: Table) -> Update:
    keys = [column.name for column in table.primary_key]
    return (
        update(table)
        .where(*(table.c[name] == bindparam(f"the_{name}") for name in keys))
        .values({column.name: bindparam(f"the_{column.name}") for column in table.columns if column.name not in keys})
    )
