"""The promising peer on PostgreSQL: apart, because it needs psycopg, which nothing else here does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eventsourcing.persistence import StoredEvent
from eventsourcing.postgres import PostgresApplicationRecorder
from psycopg.sql import SQL

from tests.bench.peer_of_log import Promises


class _Promises(Promises):
    prefix = "peer."
    parameter = "%s"


class PromisingPostgresqlRecorder(PostgresApplicationRecorder):
    """A recorder that keeps our promises on PostgreSQL; what it writes travels with the library's own rows, in a pipeline."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._promises = _Promises()
        self._ends: dict[str, str] = {}
        self.sql_create_statements += [SQL(statement).format() for statement in self._promises.tables()]

    def _insert_events(self, curs: Any, stored_events: Sequence[StoredEvent], **named: Any) -> None:
        super()._insert_events(curs, stored_events, **named)
        self._promises.keep(curs, stored_events, self._ends)
