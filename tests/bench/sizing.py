"""How much the log grows by what happens, and how much memory the parts have: the numbers of docs/reference/sizing.md.

The log: so many of each thing (2,000) are appended to a log in SQLite, each with the events that a control plane writes for it, and the file
is measured before and after, with the tables behind the views, indexes and hashes. The memory: ``woodfrog dev`` is started, and what its three
processes have resident is read once they are ready, and again after a container was started, captured and restored a few times.

``python tests/bench/sizing.py [--memory]``; without ``--memory`` nothing is started. Numbers go to build/bench/sizing.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

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


async def _grown(folder: Path, kind: Callable[[int], Iterator[Event]]) -> tuple[int, float, float]:
    """Return how many events one thing has, what it takes in the log's database, and what its events take as JSON."""
    file = folder / "log.db"
    file.unlink(missing_ok=True)
    url = f"sqlite:///{file}"
    await upgrade(url)
    before = _size(file)
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
    with sqlite3.connect(file) as connection:
        (data,) = connection.execute("SELECT sum(length(data) + length(metadata)) FROM events").fetchone()
    return len(events) // COUNT, (_size(file) - before) / COUNT, data / COUNT


def _size(file: Path) -> int:
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return file.stat().st_size


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
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="wf-", ignore_cleanup_errors=True) as path:
        for name, kind in KINDS.items():
            events, size, data = asyncio.run(_grown(Path(path), kind))
            found[name] = {"events": events, "database_bytes": round(size), "json_bytes": round(data)}
            print(f"{name}: {events} events, {size:,.0f} bytes in SQLite, of which {data:,.0f} are the events as JSON")
        if asked.memory:
            found["memory_mib"] = _memory(Path(path))
            for when, parts in found["memory_mib"].items():
                print(f"{when}: " + ", ".join(f"{part} {size:.0f} MiB" for part, size in parts.items()))
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    (DIRECTORY / "sizing.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
