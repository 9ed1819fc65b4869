"""The peer of the log's benchmark: aggregates of the ``eventsourcing`` library on the same kind of database, saved in batches.

Its SQLite recorder turns write-ahead logging on and leaves ``synchronous`` at SQLite's default, FULL, as ours sets it. Its
PostgreSQL recorder needs psycopg, which nothing else here does: install ``psycopg[binary,pool]`` by hand to compare there.
"""

from __future__ import annotations

import importlib.util
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from sqlalchemy import make_url


class Job(Aggregate):
    """The peer's checkpoint key."""

    def __init__(self) -> None:
        self.said = 0

    @event("Said")
    def say(self, node: str, container: str, snapshot: str, reason: str, image: str, digest: str) -> None:
        self.said += 1


def append_peer(application: Application[UUID], jobs: list[Job], size: int, count: int, callers: int) -> float:
    """Save as many batches of aggregates with one new event each; answer events a second."""

    def call(mine: list[Job]) -> None:
        rng = random.Random(2)
        for _ in range(count // callers):
            batch = rng.sample(mine, size)
            for job in batch:
                job.say("node-0001", "ab" * 32, "20261123T210000Z-00000000", "the newest", "train:1", "ab" * 32)
            application.save(*batch)

    shares = [jobs[caller::callers] for caller in range(callers)]
    begin = time.perf_counter()
    with ThreadPoolExecutor(callers) as threads:
        list(threads.map(call, shares))
    return (count // callers) * callers * size / (time.perf_counter() - begin)


def runs_on_postgresql() -> bool:
    """Whether the peer can be measured there."""
    return importlib.util.find_spec("psycopg") is not None


def environment_of(url: str | None, path: Path) -> dict[str, str]:
    """Tell the peer its database: a file beside ``path``, or that of a URL of PostgreSQL."""
    if url is None:
        return {"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": f"{path}-peer.db"}
    place = make_url(url)
    return {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": place.database or "",
        "POSTGRES_HOST": place.host or "",
        "POSTGRES_PORT": str(place.port or 5432),
        "POSTGRES_USER": place.username or "",
        "POSTGRES_PASSWORD": place.password or "none",
        "POSTGRES_SCHEMA": "peer",
    }


def run_peer(path: Path, size: int, count: int, callers: int, url: str | None = None) -> float:
    """Measure events a second; on PostgreSQL the schema ``peer`` must exist."""
    application: Application[UUID] = Application(env=environment_of(url, path))
    try:
        jobs = [Job() for _ in range(max(1000, size * callers * 2))]
        application.save(*jobs)
        return append_peer(application, jobs, size, count, callers)
    finally:
        application.close()
