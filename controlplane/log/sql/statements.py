"""Statements prepared once for a table and a database, and run on plain tuples.

What an append runs is written here, of the names and types that SQLAlchemy knows: it would take milliseconds to put one such
statement together, of which there are dozens, and its work for every row and every call costs more than SQLite itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from itertools import chain
from typing import Any

import msgspec
from sqlalchemy import (
    Boolean,
    ClauseElement,
    Column,
    Connection,
    Dialect,
    Table,
)
from sqlalchemy.sql.compiler import Compiled, SQLCompiler

from controlplane.log.schema import UtcTime, utc_text
from controlplane.log.sql.engine import bare_driver, takes_columns

Values = tuple[Any, ...]
Convert = Callable[[Any], Any]

_PREPARED = 1024
_KEYS_A_QUERY = 256
"""How many keys one SELECT asks for at most; times the columns of a key, this must fit a statement's parameters."""
_KEYS_LEAST = 8
_PARAMETER = re.compile(r"\$(\d+)")


class Write(msgspec.Struct, frozen=True):
    """Rows to be written by one statement; never none."""

    sql: str
    rows: list[Values]


class Insertion:
    """Insert rows, given as tuples in the order of the table's columns.

    ``replacing``, where rows travel as arrays: one that is there under the same primary key takes the given values instead.
    """

    def __init__(self, dialect: Dialect, table: Table, *, replacing: bool = False) -> None:
        self.names = tuple(table.columns.keys())
        self._writers = _writers(dialect, table, self.names)
        names = _quoted(dialect, self.names)
        if takes_columns(dialect):
            given = f"SELECT * FROM {_columns(dialect, table, self.names)}"  # noqa: S608 - our own names, here and below
        else:
            given = f"VALUES ({_marks(len(names))})"
        self._sql = f"INSERT INTO {table.name} ({', '.join(names)}) {given}"
        if replacing:
            keys = _quoted(dialect, table.primary_key.columns.keys())
            sets = ", ".join(f"{name} = excluded.{name}" for name in names if name not in keys)
            self._sql += f" ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {sets}"

    def of(self, rows: Iterable[Values]) -> Write:
        """Insert all of them."""
        return self.of_stored(_converted(rows, self._writers))

    def of_stored(self, rows: list[Values]) -> Write:
        """Insert rows whose moments are already in the form in which the database stores them (:class:`~controlplane.log.schema.UtcTime`)."""
        return Write(self._sql, rows)


class Change:
    """Set columns of rows found by primary key, row by row; tuples are in the order of ``names``, the key last."""

    def __init__(self, dialect: Dialect, table: Table, changed: Sequence[str]) -> None:
        keys = table.primary_key.columns.keys()
        self.names = (*changed, *keys)
        self._writers = _writers(dialect, table, self.names)
        sets = ", ".join(f"{name} = ?" for name in _quoted(dialect, changed))
        same = " AND ".join(f"{name} = ?" for name in _quoted(dialect, keys))
        self._sql = f"UPDATE {table.name} SET {sets} WHERE {same}"  # noqa: S608

    def of(self, rows: Iterable[Values]) -> Write:
        """Change all of them; no row may be named twice."""
        return Write(self._sql, _converted(rows, self._writers))


def write(connection: Connection, writes: Sequence[Write]) -> None:
    """Write rows of several tables, of which no two writes touch the same row.

    Where each statement is a journey to a server, all of them travel as one.
    """
    if not writes:
        return
    driver = bare_driver(connection)
    if driver is not None:
        for one in writes:
            driver.executemany(one.sql, one.rows)
    elif takes_columns(connection.dialect):
        columns = [tuple(zip(*one.rows, strict=True)) for one in writes]
        sql = _together(tuple([(one.sql, len(given)) for one, given in zip(writes, columns, strict=True)]))
        connection.exec_driver_sql(sql, tuple(chain.from_iterable(columns)))
    else:
        for one in writes:
            connection.exec_driver_sql(one.sql, one.rows)


class Lookup:
    """Find whole rows by the values of one unique list of columns; rows come as tuples in the order of the table's columns.

    Several columns are joined with a table of the wanted values: for ``(a, b) IN (VALUES …)`` SQLite reads the whole table.
    PostgreSQL, which knows little of a young table, reads it whole for any join: ``LATERAL … OFFSET 0`` leaves it the index only.
    """

    def __init__(self, dialect: Dialect, table: Table, by: Sequence[str], count: int) -> None:
        self._readers = readers(dialect, table)
        self._takes_columns = takes_columns(dialect)
        keys, found = _quoted(dialect, by), _quoted(dialect, table.columns.keys())
        if not self._takes_columns and len(keys) == 1:
            self._sql = f"SELECT {', '.join(found)} FROM {table.name} WHERE {keys[0]} IN ({_marks(count)})"  # noqa: S608
            return
        same = " AND ".join(f"{table.name}.{name} = wanted.{name}" for name in keys)
        if self._takes_columns:
            wanted = f"{_columns(dialect, table, by)} AS wanted ({', '.join(keys)})"
            one = f"SELECT * FROM {table.name} WHERE {same} OFFSET 0"  # noqa: S608
            columns = ", ".join(f"found.{name}" for name in found)
            self._sql = f"SELECT {columns} FROM {wanted} CROSS JOIN LATERAL ({one}) AS found"  # noqa: S608
            return
        rows = ", ".join([f"({_marks(len(keys))})"] * count)
        columns = ", ".join(f"{table.name}.{name}" for name in found)
        wanted = f"WITH wanted ({', '.join(keys)}) AS (VALUES {rows})"
        self._sql = f"{wanted} SELECT {columns} FROM wanted JOIN {table.name} ON {same}"  # noqa: S608

    def run(self, connection: Connection, keys: Sequence[Values]) -> list[Values]:
        """Find the rows of up to as many keys as the statement was made for; of any number where arrays are taken."""
        given = tuple(zip(*keys, strict=True)) if self._takes_columns else tuple(chain.from_iterable(keys))
        return read_values(_run(connection, self._sql, given), self._readers)


insertion = lru_cache(_PREPARED)(Insertion)
change = lru_cache(_PREPARED)(Change)
_lookup = lru_cache(_PREPARED)(Lookup)


def find(connection: Connection, table: Table, by: tuple[str, ...], keys: Sequence[Values]) -> list[Values]:
    """Find whole rows by the values of the columns ``by``, which must be unique, in any order.

    Statements are made for 8, 16, 32 … keys, so that there are few of them; NULL, which equals nothing, fills one up.
    """
    if not keys:
        return []
    if takes_columns(connection.dialect):
        return _lookup(connection.dialect, table, by, 0).run(connection, keys)
    found: list[Values] = []
    for start in range(0, len(keys), _KEYS_A_QUERY):
        part = list(keys[start : start + _KEYS_A_QUERY])
        count = max(_KEYS_LEAST, 1 << (len(part) - 1).bit_length())
        part += [(None,) * len(by)] * (count - len(part))
        found += _lookup(connection.dialect, table, by, count).run(connection, part)
    return found


@lru_cache(_PREPARED)
def readers(dialect: Dialect, table: Table) -> list[tuple[int, Convert]]:
    """Tell which of a table's columns have to be converted after reading, and how."""
    found = []
    for index, column in enumerate(table.columns):
        convert = _reader(dialect, column)
        if convert is not None:
            found.append((index, convert))
    return found


@lru_cache(_PREPARED)
def reader(dialect: Dialect, column: Column[Any]) -> Convert:
    """Tell how one column is converted after reading."""
    return _reader(dialect, column) or (lambda value: value)


def read_values(rows: Iterable[Sequence[Any]], conversions: Sequence[tuple[int, Convert]]) -> list[Values]:
    """Convert rows as the driver gave them; NULL stays NULL."""
    if not conversions:
        return [tuple(row) for row in rows]
    answer = []
    for row in rows:
        values = list(row)
        for index, convert in conversions:
            if values[index] is not None:
                values[index] = convert(values[index])
        answer.append(tuple(values))
    return answer


class Plain:
    """Any other statement: values go in by name, rows come out as the driver gives them, unconverted."""

    def __init__(self, dialect: Dialect, statement: ClauseElement) -> None:
        compiled = _compiled(statement.compile(dialect=dialect))
        self._sql = compiled.string
        self._names = tuple(compiled.positiontup or ())
        self._fixed = compiled.params

    def run(self, connection: Connection, **values: Any) -> Sequence[Sequence[Any]]:
        """Run it; answer every row, none if it returns none."""
        return _run(connection, self._sql, tuple([values.get(name, self._fixed.get(name)) for name in self._names]))


plain = lru_cache(_PREPARED)(Plain)


def _run(connection: Connection, sql: str, given: Values) -> Sequence[Sequence[Any]]:
    driver = bare_driver(connection)
    if driver is not None:
        return driver.execute(sql, given).fetchall()
    result = connection.exec_driver_sql(sql, given)
    return result.all() if result.returns_rows else []


@lru_cache(_PREPARED)
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


def _marks(count: int) -> str:
    return ", ".join(["?"] * count)


def _quoted(dialect: Dialect, names: Iterable[str]) -> list[str]:
    return [dialect.identifier_preparer.quote(name) for name in names]


def _columns(dialect: Dialect, table: Table, names: Iterable[str]) -> str:
    """Write ``unnest`` of one array for each column, as PostgreSQL takes many rows in one statement."""
    types = [table.c[name].type.compile(dialect=dialect) for name in names]
    return f"unnest({', '.join(f'${number}::{kind}[]' for number, kind in enumerate(types, start=1))})"


def _compiled(compiled: Compiled) -> SQLCompiler:
    assert isinstance(compiled, SQLCompiler)
    return compiled


def _reader(dialect: Dialect, column: Column[Any]) -> Convert | None:
    kind = column.type
    if isinstance(kind, UtcTime):
        return datetime.fromisoformat if kind.is_text(dialect) else _in_utc
    if isinstance(kind, Boolean) and not dialect.supports_native_boolean:
        return bool
    return None  # of all others the driver gives Python's own


def _in_utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)


def _writers(dialect: Dialect, table: Table, names: Sequence[str]) -> list[tuple[int, Convert]]:
    moments = [index for index, name in enumerate(names) if isinstance(table.c[name].type, UtcTime)]
    return [(index, utc_text) for index in moments if UtcTime.is_text(dialect)]


def _converted(rows: Iterable[Values], conversions: Sequence[tuple[int, Convert]]) -> list[Values]:
    """Convert column by column, which costs a third of going row by row."""
    if not conversions:
        return list(rows)
    columns: list[Iterable[Any]] = list(zip(*rows, strict=True))
    if not columns:
        return []
    for index, convert in conversions:
        columns[index] = [None if value is None else convert(value) for value in columns[index]]
    return list(zip(*columns, strict=True))
