"""Values on their way to a driver and back, for statements that are prepared once and run on plain tuples.

SQLAlchemy's work for every row and every call costs more than SQLite itself; of it only names and types of columns are used here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

import msgspec
from sqlalchemy import Boolean, Column, Connection, Dialect, Table

from controlplane.log.schema import UtcTime, utc_text
from controlplane.log.sql.engine import bare_driver

Values = tuple[Any, ...]
Convert = Callable[[Any], Any]

PREPARED: Final = 1024
"""How many statements of a kind are kept."""


class Write(msgspec.Struct, frozen=True):
    """Rows to be written by one statement; never none."""

    sql: str
    rows: list[Values]


class Statement:
    """A statement that writes rows, given as tuples in the order of ``names``."""

    def __init__(self, dialect: Dialect, table: Table, names: Sequence[str], sql: str) -> None:
        self.names = tuple(names)
        self.sql = sql
        moments = [index for index, name in enumerate(names) if isinstance(table.c[name].type, UtcTime)]
        self._conversions = [(index, utc_text) for index in moments if UtcTime.is_text(dialect)]

    def of(self, rows: Iterable[Values]) -> Write:
        """Write all of them; no row may be named twice."""
        return self.of_stored(_converted(rows, self._conversions))

    def of_stored(self, rows: list[Values]) -> Write:
        """Write rows whose moments are already in the form in which the database stores them (:class:`~controlplane.log.schema.UtcTime`)."""
        return Write(self.sql, rows)


def run(connection: Connection, sql: str, given: Values) -> Sequence[Sequence[Any]]:
    """Run a statement; answer every row as the driver gives it, none if it returns none."""
    driver = bare_driver(connection)
    if driver is not None:
        return driver.execute(sql, given).fetchall()
    result = connection.exec_driver_sql(sql, given)
    return result.all() if result.returns_rows else []


def quoted(dialect: Dialect, names: Iterable[str]) -> list[str]:
    """Write names as the database wants them."""
    return [dialect.identifier_preparer.quote(name) for name in names]


@lru_cache(PREPARED)
def readers(dialect: Dialect, table: Table) -> list[tuple[int, Convert]]:
    """Tell which of a table's columns have to be converted after reading, and how."""
    found = []
    for index, column in enumerate(table.columns):
        convert = _reader(dialect, column)
        if convert is not None:
            found.append((index, convert))
    return found


@lru_cache(PREPARED)
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


def _reader(dialect: Dialect, column: Column[Any]) -> Convert | None:
    kind = column.type
    if isinstance(kind, UtcTime):
        return datetime.fromisoformat if kind.is_text(dialect) else _in_utc
    if isinstance(kind, Boolean) and not dialect.supports_native_boolean:
        return bool
    return None  # of all others the driver gives Python's own


def _in_utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)


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
