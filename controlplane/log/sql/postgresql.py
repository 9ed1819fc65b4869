"""The SQL that appends run on PostgreSQL: rows travel as one array for each column, and all writes as one statement.

It runs a statement once for each row of an ``executemany``, statement triggers included, and each statement is a journey to a server.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain
from typing import Final

from sqlalchemy import Connection, Dialect, Table

from controlplane.log.sql.values import PREPARED, Statement, Values, Write, quoted, read_values, readers, run

_INSERT: Final = "INSERT INTO {table} ({columns}) SELECT * FROM unnest({arrays})"
_REPLACE: Final = _INSERT + " ON CONFLICT ({keys}) DO UPDATE SET {sets}"
_FIND: Final = (
    "SELECT {columns} FROM unnest({arrays}) AS wanted ({keys}) "
    "CROSS JOIN LATERAL (SELECT * FROM {table} WHERE {same} OFFSET 0) AS found"
)
"""It knows little of a young table and reads it whole for any join: ``LATERAL … OFFSET 0`` leaves it the index only."""
_PARAMETER = re.compile(r"\$(\d+)")


@lru_cache(PREPARED)
def insertion(dialect: Dialect, table: Table) -> Statement:
    """Insert rows."""
    names = table.columns.keys()
    columns = ", ".join(quoted(dialect, names))
    arrays = _arrays(dialect, table, names)
    return Statement(dialect, table, names, _INSERT.format(table=table.name, columns=columns, arrays=arrays))


@lru_cache(PREPARED)
def replacement(dialect: Dialect, table: Table) -> Statement:
    """Insert rows; one that is there under the same primary key takes the given values instead."""
    names = table.columns.keys()
    columns, keys = quoted(dialect, names), quoted(dialect, table.primary_key.columns.keys())
    sql = _REPLACE.format(
        table=table.name,
        columns=", ".join(columns),
        arrays=_arrays(dialect, table, names),
        keys=", ".join(keys),
        sets=", ".join(f"{name} = excluded.{name}" for name in columns if name not in keys),
    )
    return Statement(dialect, table, names, sql)


def write(connection: Connection, writes: Sequence[Write]) -> None:
    """Write, all at once."""
    columns = [tuple(zip(*one.rows, strict=True)) for one in writes]
    sql = _together(tuple([(one.sql, len(given)) for one, given in zip(writes, columns, strict=True)]))
    connection.exec_driver_sql(sql, tuple(chain.from_iterable(columns)))


def find(connection: Connection, table: Table, by: tuple[str, ...], keys: Sequence[Values]) -> list[Values]:
    """Find whole rows by the values of the columns ``by``."""
    rows = run(connection, lookup(connection.dialect, table, by), tuple(zip(*keys, strict=True)))
    return read_values(rows, readers(connection.dialect, table))


@lru_cache(PREPARED)
def lookup(dialect: Dialect, table: Table, by: tuple[str, ...]) -> str:
    """Return what finds the rows of any number of keys."""
    keys = quoted(dialect, by)
    return _FIND.format(
        columns=", ".join(f"found.{name}" for name in quoted(dialect, table.columns.keys())),
        arrays=_arrays(dialect, table, by),
        keys=", ".join(keys),
        table=table.name,
        same=" AND ".join(f"{table.name}.{name} = wanted.{name}" for name in keys),
    )


@lru_cache(PREPARED)
def _together(statements: tuple[tuple[str, int], ...]) -> str:
    """Make one statement of several, each with the number of its parameters, which are counted on."""
    before = 0
    counted = []
    for sql, count in statements:
        counted.append(_counted_on(sql, before))
        before += count
    *first, last = counted
    if not first:
        return last
    return f"WITH {', '.join(f'write_{number} AS ({sql})' for number, sql in enumerate(first))} {last}"


def _counted_on(sql: str, before: int) -> str:
    return _PARAMETER.sub(lambda found: f"${int(found[1]) + before}", sql)


def _arrays(dialect: Dialect, table: Table, names: Iterable[str]) -> str:
    types = [table.c[name].type.compile(dialect=dialect) for name in names]
    return ", ".join(f"${number}::{kind}[]" for number, kind in enumerate(types, start=1))
