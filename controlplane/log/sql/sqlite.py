"""The SQL that appends run on SQLite: a step for each row, which is the quickest way there is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import Final

from sqlalchemy import Connection, Dialect, Table

from controlplane.log.sql.engine import bare_driver
from controlplane.log.sql.values import PREPARED, Statement, Values, Write, quoted, read_values, readers, run

_INSERT: Final = "INSERT INTO {table} ({columns}) VALUES ({marks})"
_UPDATE: Final = "UPDATE {table} SET {sets} WHERE {same}"
_FIND: Final = "SELECT {columns} FROM {table} WHERE {key} IN ({marks})"
_FIND_BY_SEVERAL: Final = "WITH wanted ({keys}) AS (VALUES {rows}) SELECT {columns} FROM wanted JOIN {table} ON {same}"
"""Several columns are joined with a table of the wanted values: for ``(a, b) IN (VALUES …)`` SQLite reads the whole table."""

_KEYS_A_QUERY: Final = 256
"""How many keys one SELECT asks for at most; times the columns of a key, this must fit a statement's parameters."""
_KEYS_LEAST: Final = 8


@lru_cache(PREPARED)
def insertion(dialect: Dialect, table: Table) -> Statement:
    """Insert rows."""
    names = table.columns.keys()
    columns = ", ".join(quoted(dialect, names))
    return Statement(dialect, table, names, _INSERT.format(table=table.name, columns=columns, marks=_marks(len(names))))


@lru_cache(PREPARED)
def change(dialect: Dialect, table: Table, changed: tuple[str, ...]) -> Statement:
    """Set columns of rows found by primary key; tuples have the key last."""
    keys = table.primary_key.columns.keys()
    sets = ", ".join(f"{name} = ?" for name in quoted(dialect, changed))
    same = " AND ".join(f"{name} = ?" for name in quoted(dialect, keys))
    return Statement(dialect, table, (*changed, *keys), _UPDATE.format(table=table.name, sets=sets, same=same))


def write(connection: Connection, writes: Sequence[Write]) -> None:
    """Write, statement by statement."""
    driver = bare_driver(connection)
    for one in writes:
        if driver is not None:
            driver.executemany(one.sql, one.rows)
        else:
            connection.exec_driver_sql(one.sql, one.rows)


def find(connection: Connection, table: Table, by: tuple[str, ...], keys: Sequence[Values]) -> list[Values]:
    """Find whole rows by the values of the columns ``by``.

    Statements are made for 8, 16, 32 … keys, so that there are few of them; NULL, which equals nothing, fills one up.
    """
    found: list[Values] = []
    for start in range(0, len(keys), _KEYS_A_QUERY):
        part = list(keys[start : start + _KEYS_A_QUERY])
        count = max(_KEYS_LEAST, 1 << (len(part) - 1).bit_length())
        part += [(None,) * len(by)] * (count - len(part))
        rows = run(connection, lookup(connection.dialect, table, by, count), tuple(chain.from_iterable(part)))
        found += read_values(rows, readers(connection.dialect, table))
    return found


@lru_cache(PREPARED)
def lookup(dialect: Dialect, table: Table, by: tuple[str, ...], count: int) -> str:
    """Return what finds the rows of so many keys."""
    keys, columns = quoted(dialect, by), quoted(dialect, table.columns.keys())
    if len(keys) == 1:
        return _FIND.format(columns=", ".join(columns), table=table.name, key=keys[0], marks=_marks(count))
    return _FIND_BY_SEVERAL.format(
        keys=", ".join(keys),
        rows=", ".join([f"({_marks(len(keys))})"] * count),
        columns=", ".join(f"{table.name}.{name}" for name in columns),
        table=table.name,
        same=" AND ".join(f"{table.name}.{name} = wanted.{name}" for name in keys),
    )


def _marks(count: int) -> str:
    return ", ".join(["?"] * count)
