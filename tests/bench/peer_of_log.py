"""The peers of the log's benchmark: aggregates of the ``eventsourcing`` library on the same kind of database, saved in batches.

What each does in its turn, beside the library's own work of making the events:

- *as it comes*: a row for each event (336 bytes of JSON, a topic, an id and a version; ours: 271 and 86 bytes of JSON and seven
  columns more) under a unique (id, version), and a gapless position for each. On SQLite a table and one index.
- *with our promises*: in the same transaction, through the hook that its recorders have for that (``_insert_events``), it asks
  for the leader's epoch, keeps a unique id and a hash for each event, chained to that of the event before, the end of each
  chain, and for each event a row of a view, by an upsert that needs no reading. Hashes before are remembered, as ours are.
  It still lacks an index of events by type and one by command, upcasts, the answer that a repeated event gets, and rebuilding.

The SQLite recorder turns write-ahead logging on and leaves ``synchronous`` at SQLite's default, FULL, as ours sets it. The
PostgreSQL recorder needs psycopg, which nothing else here does: install ``psycopg[binary,pool]`` by hand to compare there.
"""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
from blake3 import blake3
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import StoredEvent
from eventsourcing.sqlite import SQLiteApplicationRecorder
from sqlalchemy import make_url

from tests.bench.timer import Rates, Timer

_EPOCH = 1
_SAID = ("node-0001", "ab" * 32, "20261123T210000Z-00000000", "the newest", "train:1", "ab" * 32)
_VIEW = "id, version, node, container, snapshot, reason, image, digest, source"
_encode = msgspec.json.Encoder().encode


class Job(Aggregate):
    """The peer's checkpoint key."""

    def __init__(self) -> None:
        self.said = 0

    @event("Said")
    def say(self, node: str, container: str, snapshot: str, reason: str, image: str, digest: str) -> None:
        self.said += 1


class Promises:
    """What ours does besides, for a recorder of either database; ``prefix`` names its schema."""

    prefix = ""
    parameter = "?"

    def tables(self) -> list[str]:
        """Give the statements that make the tables, with the leader's epoch in one of them."""
        of = self.prefix
        return [
            f"CREATE TABLE IF NOT EXISTS {of}leads (epoch BIGINT PRIMARY KEY)",
            f"INSERT INTO {of}leads VALUES ({_EPOCH}) ON CONFLICT DO NOTHING",
            f"CREATE TABLE IF NOT EXISTS {of}proofs (event_id TEXT PRIMARY KEY, id TEXT, version BIGINT, hash TEXT)",
            f"CREATE TABLE IF NOT EXISTS {of}ends (id TEXT PRIMARY KEY, version BIGINT, hash TEXT)",
            f"CREATE TABLE IF NOT EXISTS {of}jobs ({' TEXT, '.join(_VIEW.split(', '))} TEXT, PRIMARY KEY (id))",
        ]

    def keep(self, cursor: Any, stored: Sequence[StoredEvent], ends: dict[str, str]) -> None:
        """Write what follows from events, in their transaction."""
        cursor.execute(f"SELECT epoch FROM {self.prefix}leads")
        if cursor.fetchone()["epoch"] != _EPOCH:
            raise RuntimeError("another leads")
        proofs, heads, views = [], [], []
        for one in stored:
            job, version, source = str(one.originator_id), one.originator_version, str(uuid4())
            link = _encode((ends.get(job, ""), job, version, source, one.topic, one.state.decode()))
            ends[job] = link_hash = blake3(link).hexdigest()
            proofs.append((source, job, version, link_hash))
            heads.append((job, version, link_hash))
            views.append((job, version, *_SAID, source))
        self._insert(cursor, "proofs", "event_id, id, version, hash", proofs, key=None)
        self._insert(cursor, "ends", "id, version, hash", heads, key="id")
        self._insert(cursor, "jobs", _VIEW, views, key="id")

    def _insert(self, cursor: Any, table: str, columns: str, rows: list[tuple[Any, ...]], *, key: str | None) -> None:
        marks = ", ".join([self.parameter] * len(rows[0]))
        sets = ", ".join(f"{name} = excluded.{name}" for name in columns.split(", ") if name != key)
        otherwise = "" if key is None else f" ON CONFLICT ({key}) DO UPDATE SET {sets}"
        cursor.executemany(f"INSERT INTO {self.prefix}{table} ({columns}) VALUES ({marks}){otherwise}", rows)


class PromisingSqliteRecorder(SQLiteApplicationRecorder):
    """A recorder that keeps our promises on SQLite."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._promises = Promises()
        self._ends: dict[str, str] = {}
        self.create_table_statements += self._promises.tables()

    def _insert_events(self, c: Any, stored_events: Sequence[StoredEvent], **named: Any) -> Sequence[int] | None:
        positions = super()._insert_events(c, stored_events, **named)
        self._promises.keep(c, stored_events, self._ends)
        return positions


def append_peer(application: Application[UUID], jobs: list[Job], size: int, count: int, callers: int) -> Rates:
    """Save as many batches of aggregates with one new event each; answer how many events a second."""

    def call(mine: list[Job]) -> None:
        rng = random.Random(2)
        for _ in range(count // callers):
            batch = rng.sample(mine, size)
            for job in batch:
                job.say(*_SAID)
            application.save(*batch)

    shares = [jobs[caller::callers] for caller in range(callers)]
    timer = Timer()
    with ThreadPoolExecutor(callers) as threads:
        list(threads.map(call, shares))
    return timer.rates((count // callers) * callers * size)


def runs_on_postgresql() -> bool:
    """Whether the peer can be measured there."""
    return importlib.util.find_spec("psycopg") is not None


def environment_of(url: str | None, path: Path, *, promising: bool = False) -> dict[str, str]:
    """Tell the peer its database: a file beside ``path``, or that of a URL of PostgreSQL."""
    if url is None:
        place = {"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": f"{path}-peer-{promising:d}.db"}
        recorder = f"{__name__}:{PromisingSqliteRecorder.__name__}"
        return place | ({"APPLICATION_RECORDER_TOPIC": recorder} if promising else {})
    place = make_url(url)
    return {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": place.database or "",
        "POSTGRES_HOST": place.host or "",
        "POSTGRES_PORT": str(place.port or 5432),
        "POSTGRES_USER": place.username or "",
        "POSTGRES_PASSWORD": place.password or "none",
        "POSTGRES_SCHEMA": "peer",
        **(
            {"APPLICATION_RECORDER_TOPIC": "tests.bench.peer_on_postgresql:PromisingPostgresqlRecorder"}
            if promising
            else {}
        ),
    }


def _analyse(url: str) -> None:
    import psycopg  # noqa: PLC0415 - only there if somebody installed it

    with psycopg.connect(
        make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    ) as connection:
        connection.execute("ANALYZE")


def run_peer(
    path: Path, size: int, count: int, callers: int, url: str | None = None, *, promising: bool = False
) -> Rates:
    """Measure events a second; on PostgreSQL the schema ``peer`` must exist, and its planner is told about the tables first."""
    application: Application[UUID] = Application(env=environment_of(url, path, promising=promising))
    try:
        jobs = [Job() for _ in range(max(1000, size * callers * 2))]
        application.save(*jobs)
        if url is not None:
            _analyse(url)
        return append_peer(application, jobs, size, count, callers)
    finally:
        application.close()
