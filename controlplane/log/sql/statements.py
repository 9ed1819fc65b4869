"""Statements by the names of their tables, on whichever engine: the SQL of each is in a module of its own.

What an append runs is prepared once for a table and a database: it would take SQLAlchemy milliseconds to put one such statement
together, of which there are dozens.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import ClauseElement, Connection, Dialect, Table
from sqlalchemy.sql.compiler import Compiled, SQLCompiler

from controlplane.log.sql import postgresql, sqlite
from controlplane.log.sql.engine import takes_columns
from controlplane.log.sql.values import PREPARED, Statement, Values, Write, run


def insertion(dialect: Dialect, table: Table) -> Statement:
    """Insert rows, given as tuples in the order of the table's columns."""
    return postgresql.insertion(dialect, table) if takes_columns(dialect) else sqlite.insertion(dialect, table)


def write(connection: Connection, writes: Sequence[Write]) -> None:
    """Write rows of several tables, of which no two writes touch the same row."""
    if not writes:
        return
    if takes_columns(connection.dialect):
        postgresql.write(connection, writes)
    else:
        sqlite.write(connection, writes)


def find(connection: Connection, table: Table, by: tuple[str, ...], keys: Sequence[Values]) -> list[Values]:
    """Find whole rows by the values of the columns ``by``, which must be unique, in any order; as tuples of the table's columns."""
    if not keys:
        return []
    if takes_columns(connection.dialect):
        return postgresql.find(connection, table, by, keys)
    return sqlite.find(connection, table, by, keys)


class Plain:
    """Any other statement: values go in by name, rows come out as the driver gives them, unconverted."""

    def __init__(self, dialect: Dialect, statement: ClauseElement) -> None:
        compiled = _compiled(statement.compile(dialect=dialect))
        self._sql = compiled.string
        self._names = tuple(compiled.positiontup or ())
        self._fixed = compiled.params

    def run(self, connection: Connection, **values: Any) -> Sequence[Sequence[Any]]:
        """Run it; answer every row, none if it returns none."""
        return run(connection, self._sql, tuple([values.get(name, self._fixed.get(name)) for name in self._names]))


plain = lru_cache(PREPARED)(Plain)


def _compiled(compiled: Compiled) -> SQLCompiler:
    assert isinstance(compiled, SQLCompiler)
    return compiled
