"""How much the log grows by what happens, and how much memory the parts have: the numbers of docs/reference/sizing.md.

The log: so many of each thing (2,000) are appended to a log in SQLite and to one in PostgreSQL, each with the events that a control plane writes
for it, and the database is measured before and after, with the tables behind the views, indexes and hashes. The memory: ``woodfrog dev`` is started, and what its three
processes have resident is read once they are ready, and again after a container was started, captured and restored a few times.

``python tests/bench/sizing.py [--memory]``; without ``--memory`` nothing is started. Numbers go to build/bench/sizing.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.databases import Database, PostgresDatabase, PostgresServer, SqliteFile
from support.stack import running

from controlplane.log import EventLog, Metadata, NewEvent
from controlplane.log.admin.migrate import upgrade
from tests.bench.bench_log import CONTAINER, FACTS, key_of, life, node_of
from tests.bench.report import DIRECTORY
from woodfrog.protocol.events import (
    DumpStarted,
    Event,
    PodGone,
    PodScheduled,
    PodTerminating,
    SnapshotCaptured,
    SnapshotStored,
    Trigger,
)
from woodfrog.protocol.ids import IncarnationNumber, SnapshotId

COUNT: Final = 2000
TURNS: Final = 3


def dump(number: int) -> Iterator[Event]:
    """A snapshot of a running container."""
    of: dict[str, Any] = {"key": key_of(number), "incarnation": IncarnationNumber(1)}
    at: dict[str, Any] = {"snapshot_id": SnapshotId(f"20261123T210000Z-{number:08x}"), "node": node_of(number)}
    yield DumpStarted(**of, **at, trigger=Trigger.SCHEDULE, final=False)
    yield SnapshotCaptured(**of, **at, freeze_seconds=0.5, raw_bytes=1 << 28)
    yield SnapshotStored(
        **of, **at, manifest_digest="ab" * 32, raw_bytes=1 << 28, stored_bytes=1 << 26, store_seconds=2.0,
        taken_on=FACTS, taken_from=CONTAINER,
    )  # fmt: skip


def start(number: int) -> Iterator[Event]:
    """A container from its start to its end with a last snapshot."""
    yield from life(number, 2)


def pod(number: int) -> Iterator[Event]:
    """What Kubernetes says of a pod: scheduled, on its way out, gone."""
    of: dict[str, Any] = {"key": key_of(number), "incarnation": IncarnationNumber(1)}
    of |= {"pod": f"job-{number:06d}-abcde", "uid": f"{number:08x}-0000-4000-8000-000000000000"}
    yield PodScheduled(**of, node=node_of(number), owner=f"Job/job-{number:06d}")
    yield PodTerminating(**of, node=node_of(number), why="evicted", by="the eviction API")
    yield PodGone(**of)


KINDS: Final[dict[str, Callable[[int], Iterator[Event]]]] = {
    "a snapshot of a running container": dump,
    "a container: start, last snapshot, end": start,
    "a pod's scheduling, ending and removal": pod,
}


async def _fill(url: str, kind: Callable[[int], Iterator[Event]]) -> int:
    """Append :data:`COUNT` of a thing to a log; return how many events one has."""
    log = await EventLog.open(url)
    epoch = await log.take_lead()
    events = [event for number in range(COUNT) for event in kind(number)]
    now = datetime.now(UTC)
    for begin in range(0, len(events), 1000):
        told = [
            NewEvent(uuid4(), each, Metadata(actor="bench", causation="fill"), now)
            for each in events[begin : begin + 1000]
        ]
        await log.append(told, epoch=epoch, recorded_at=now)
    await log.close()
    return len(events) // COUNT


def _grown(database: Database, kind: Callable[[int], Iterator[Event]]) -> tuple[int, float]:
    """Return how many events one thing has, and what it takes in a database that is empty now."""
    asyncio.run(upgrade(database.url))
    before = _size(database)
    events = asyncio.run(_fill(database.url, kind))
    return events, (_size(database) - before) / COUNT


def _size(database: Database) -> int:
    if isinstance(database, SqliteFile):
        database.sql("PRAGMA wal_checkpoint(TRUNCATE)")
        return database.path.stat().st_size
    return int(database.sql("SELECT pg_database_size(current_database())")[0][0])


def _measure(server: PostgresServer, folder: Path) -> dict[str, Any]:
    found = {}
    for number, (name, kind) in enumerate(KINDS.items()):
        events, sqlite_bytes = _grown(SqliteFile(folder / f"{number}.db"), kind)
        _, postgresql_bytes = _grown(PostgresDatabase(server, server.new_database()), kind)
        found[name] = {
            "events": events,
            "sqlite_bytes": round(sqlite_bytes),
            "postgresql_bytes": round(postgresql_bytes),
        }
        print(f"{name}: {events} events, {sqlite_bytes:,.0f} bytes in SQLite, {postgresql_bytes:,.0f} in PostgreSQL")
    return found


def _resident_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def _memory(folder: Path) -> dict[str, dict[str, float]]:
    with running(folder / "s") as stack:

        def now() -> dict[str, float]:
            pids = json.loads((stack.state / "dev.json").read_text())["pids"]
            return {part: round(_resident_mib(pid), 1) for part, pid in pids.items()}

        idle = now()
        for _ in range(TURNS):
            run = stack.run("sized", "sh", "-c", "i=0; while :; do i=$((i+1)); echo $i >>/count; sleep 0.1; done")
            run.until_lines("/count", 5)
            run.stop()
        return {"idle": idle, f"after {TURNS} starts and captures": now()}


def main() -> None:
    """Measure, print and write down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memory", action="store_true", help="start `woodfrog dev` and read its memory, as root")
    asked = parser.parse_args()
    server = PostgresServer()
    with tempfile.TemporaryDirectory(prefix="wf-", ignore_cleanup_errors=True) as path:
        server.start()
        try:
            found = _measure(server, Path(path))
        finally:
            server.close()
        if asked.memory:
            found["memory_mib"] = _memory(Path(path))
            for when, parts in found["memory_mib"].items():
                print(f"{when}: " + ", ".join(f"{part} {size:.0f} MiB" for part, size in parts.items()))
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    (DIRECTORY / "sizing.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
