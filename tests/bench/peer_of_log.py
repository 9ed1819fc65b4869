"""The peer of the log's benchmark: aggregates of the ``eventsourcing`` library on SQLite, saved in batches.

Its SQLite recorder turns write-ahead logging on and leaves ``synchronous`` at SQLite's default, FULL, as ours sets it.
"""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event


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


def run_peer(path: Path, size: int, count: int, callers: int) -> float:
    application: Application[UUID] = Application(
        env={"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": f"{path}-peer.db"}
    )
    try:
        jobs = [Job() for _ in range(max(1000, size * callers * 2))]
        application.save(*jobs)
        return append_peer(application, jobs, size, count, callers)
    finally:
        application.close()
