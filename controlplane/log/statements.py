"""Statements prepared once for a table and a database, and run on plain tuples.

SQLAlchemy writes the SQL, with the database's own placeholders and types; what is left out is its work for every row and
every call, which costs more than SQLite itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from itertools import chain
from typing import Any

from sqlalchemy import (
    BindParameter,
    Boolean,
    ClauseElement,
    Column,
    Connection,
    Dialect,
    Table,
    and_,
    bindparam,
    insert,
    select,
    update,
    values,
)
from sqlalchemy import column as sql_column
from sqlalchemy.sql.compiler import Compiled, SQLCompiler

from controlplane.log.schema import UtcTime, utc_text

Values = tuple[Any, ...]
Convert = Callable[[Any], Any]

_PREPARED = 1024
_KEYS_A_QUERY = 256
"""How many keys one SELECT asks for at most; times the columns of a key, this must fit a statement's parameters."""
_KEYS_LEAST = 8


class Insertion:
    """Insert rows, given as tuples in the order of ``names``."""

    def __init__(self, dialect: Dialect, table: Table) -> None:
        compiled = _compiled(insert(table).compile(dialect=dialect))
        self._sql = compiled.string
        self.names = tuple(compiled.positiontup or ())
        self._writers = _writers(dialect, table, self.names)

    def run(self, connection: Connection, rows: Iterable[Values]) -> None:
        """Insert all of them."""
        converted = _converted(rows, self._writers)
        if converted:
            connection.exec_driver_sql(self._sql, converted)

    def run_stored(self, connection: Connection, rows: list[Values]) -> None:
        """Insert rows whose moments are already in the form in which the database stores them (:class:`~controlplane.log.schema.UtcTime`)."""
        if rows:
            connection.exec_driver_sql(self._sql, rows)


class Change:
    """Set columns of rows found by primary key; tuples are in the order of ``names``, where a key's column is a key."""

    def __init__(self, dialect: Dialect, table: Table, changed: Sequence[str]) -> None:
        keys = [column.name for column in table.primary_key]
        statement = (
            update(table)
            .where(*(table.c[name] == bindparam(f"the_{name}") for name in keys))
            .values({name: bindparam(f"the_{name}") for name in changed})
        )
        compiled = _compiled(statement.compile(dialect=dialect))
        self._sql = compiled.string
        self.names = tuple(name.removeprefix("the_") for name in compiled.positiontup or ())
        self._writers = _writers(dialect, table, self.names)

    def run(self, connection: Connection, rows: Iterable[Values]) -> None:
        """Change all of them."""
        converted = _converted(rows, self._writers)
        if converted:
            connection.exec_driver_sql(self._sql, converted)

    def ordered(self, row: Values, names: tuple[str, ...]) -> Values:
        """Bring the values of a row, named by ``names``, into the statement's order."""
        return tuple(row[names.index(name)] for name in self.names)


class Lookup:
    """Find whole rows by the values of one unique list of columns; rows come as tuples in the order of the table's columns.

    Several columns are joined with a table of the wanted values: for ``(a, b) IN (VALUES …)`` SQLite reads the whole table.
    """

    def __init__(self, dialect: Dialect, table: Table, by: Sequence[str], count: int) -> None:
        columns = [table.c[name] for name in by]
        if len(columns) == 1:
            wanted: BindParameter[Any] = bindparam("keys", value=[None] * count, expanding=True)
            statement = select(table).where(columns[0].in_(wanted))
        else:
            blank = [tuple(bindparam(None, type_=each.type) for each in columns) for _ in range(count)]
            keys = values(*(sql_column(f"the_{each.name}", each.type) for each in columns)).data(blank).cte("wanted")
            fits = and_(*(each == keys.c[f"the_{each.name}"] for each in columns))
            statement = select(table).join_from(keys, table, fits)
        self._sql = statement.compile(dialect=dialect, compile_kwargs={"render_postcompile": True}).string
        self._readers = readers(dialect, table)

    def run(self, connection: Connection, keys: Sequence[Values]) -> list[Values]:
        """Find the rows of up to as many keys as the statement was made for."""
        rows = connection.exec_driver_sql(self._sql, tuple(chain.from_iterable(keys))).all()
        return read_values(rows, self._readers)


insertion = lru_cache(_PREPARED)(Insertion)
change = lru_cache(_PREPARED)(Change)
_lookup = lru_cache(_PREPARED)(Lookup)


def find(connection: Connection, table: Table, by: tuple[str, ...], keys: Sequence[Values]) -> list[Values]:
    """Find whole rows by the values of the columns ``by``, which must be unique, in any order.

    Statements are made for 8, 16, 32 … keys, so that there are few of them; NULL, which equals nothing, fills one up.
    """
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
        result = connection.exec_driver_sql(
            self._sql, tuple(values.get(name, self._fixed.get(name)) for name in self._names)
        )
        return result.all() if result.returns_rows else []


plain = lru_cache(_PREPARED)(Plain)


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
    return list(rows) if not conversions else read_values(rows, conversions)
