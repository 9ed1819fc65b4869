"""The event log through its whole API: appending beside the ``eventsourcing`` library, replaying, deciding, starting again.

Ours hashes every event into its stream's chain, checks the leader's epoch and every event id, and writes the tables behind
the views in the same transaction. There are two peers (:mod:`tests.bench.peer_of_log`): the library as it comes, which saves
aggregates whose events are as large, with a position for each and nothing else; and the library with our promises kept in its
own transaction, by the means that it has for that. The first ratio tells what the promises cost, the second what is paid for them.
All write ahead and sync every commit (SQLite: WAL, ``synchronous=FULL``), one caller after the other or several at once, each
in its own order, in alternating turns. Making the events is within the peers' turn and outside of ours, encoding them within.
On SQLite the same is given by processor time, which other work on the machine hardly changes. On PostgreSQL each database is
analysed after its first events, as a server does by itself within a minute; what syncs take there is in every figure.
What a disk's sync takes is measured beside it: on another disk single appends differ most.

The large log (1,000,000 events of 50,000 ids) is made once, through the same API, and kept in ``build/bench/cache``. Run:
``python tests/bench/bench_log.py [--url postgresql://…] [--runs 5] [--events 1000000]``; the database at a URL of PostgreSQL
should be empty and is migrated; the peer takes part in a schema of its own, if psycopg is installed. As in a control plane's
process, Python's cyclic collector comes seldom.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from controlplane.core import state_cache
from controlplane.core.loop import DecisionLoop
from controlplane.domain.inputs import Policy, ResolveAsked
from controlplane.log import EventLog, Metadata, NewEvent
from controlplane.log.admin.migrate import upgrade
from controlplane.log.sql.engine import open_engine, writing
from tests.bench.report import DIRECTORY, Row, publish, row
from tests.bench.timer import Rates, Timer
from woodfrog.protocol.events import (
    ColdStartChosen,
    ContainerEnded,
    ContainerStarted,
    DumpStarted,
    Event,
    IncarnationOpened,
    NodeRegistered,
    RestoreChosen,
    SnapshotCaptured,
    SnapshotStored,
    Trigger,
)
from woodfrog.protocol.facts import ContainerFacts, NodeFacts
from woodfrog.protocol.ids import (
    CheckpointKey,
    ContainerId,
    IncarnationNumber,
    NodeName,
    Position,
    SnapshotId,
    WorkerId,
)
from woodfrog.protocol.requests import ResolveRequest
from woodfrog.service.gc_tuning import collect_seldom

START: Final = datetime(2026, 11, 23, 21, 0, tzinfo=UTC)
IDS: Final = 50_000
NODES: Final = 500
ACTIVE: Final = 1000
"""How many ids live at the same time; their events come in random order."""
FACTS: Final = NodeFacts(architecture="x86_64", kernel_release="6.18.0", page_size_bytes=4096, criu_version="4.1.1")
CONTAINER: Final = ContainerFacts(image="registry.example/train:1", image_digest="sha256:" + "ab" * 32)


def key_of(number: int) -> CheckpointKey:
    return CheckpointKey("bench", f"team-{number % 20}", f"job-{number:06d}")


def node_of(number: int) -> NodeName:
    return NodeName(f"node-{number % NODES:04d}")


def life(number: int, incarnation: int) -> Iterator[Event]:
    """One container from its start to the snapshot that it leaves: seven events."""
    who = {"key": key_of(number), "incarnation": IncarnationNumber(incarnation)}
    node = node_of(number + incarnation)
    container = ContainerId(f"{number:08x}{incarnation:08x}" * 4)
    snapshot = SnapshotId(f"20261123T21{incarnation:04d}Z-{number:08x}")
    before = SnapshotId(f"20261123T21{incarnation - 1:04d}Z-{number:08x}")
    yield IncarnationOpened(**who, node=node, container_id=container, container=CONTAINER)
    if incarnation == 1:
        yield ColdStartChosen(**who, reason="no snapshot yet")
    else:
        yield RestoreChosen(**who, snapshot_id=before, reason=f"snapshot {before}, the newest")
    yield ContainerStarted(**who, node=node, container_id=container, create_seconds=0.25)
    yield DumpStarted(**who, node=node, snapshot_id=snapshot, trigger=Trigger.STOP_SIGNAL, final=True)
    yield SnapshotCaptured(**who, node=node, snapshot_id=snapshot, freeze_seconds=0.5, raw_bytes=1 << 30)
    yield ContainerEnded(**who, node=node, container_id=container, exit_code=143)
    yield SnapshotStored(
        **who,
        node=node,
        snapshot_id=snapshot,
        manifest_digest="ab" * 32,
        raw_bytes=1 << 30,
        stored_bytes=1 << 28,
        store_seconds=4.5,
        taken_on=FACTS,
        taken_from=CONTAINER,
    )


def story(ids: int, seed: int = 1) -> Iterator[NewEvent]:
    """Lives of ``ids`` ids, :data:`ACTIVE` at a time, their events interleaved at random; then each lives again, for ever."""
    rng = random.Random(seed)
    for number in range(NODES):
        yield told(
            NodeRegistered(node=node_of(number), worker_id=WorkerId(f"w{number}"), boot_id="b", facts=FACTS), rng
        )
    incarnation = 0
    while True:
        incarnation += 1
        waiting = iter(range(ids))
        active = [life(number, incarnation) for number in (next(waiting) for _ in range(min(ACTIVE, ids)))]
        while active:
            place = rng.randrange(len(active))
            happened = next(active[place], None)
            if happened is not None:
                yield told(happened, rng)
                continue
            following = next(waiting, None)
            if following is None:
                active.pop(place)
            else:
                active[place] = life(following, incarnation)


def told(happened: Event, rng: random.Random) -> NewEvent:
    source = UUID(int=rng.getrandbits(128), version=4)
    return NewEvent(source, happened, Metadata(actor="worker/node-0001", causation=f"report/{source}"), START)


def batches(events: Iterator[NewEvent], size: int, count: int) -> list[list[NewEvent]]:
    return [[next(events) for _ in range(size)] for _ in range(count)]


async def append_ours(log: EventLog, epoch: int, work: list[list[NewEvent]], callers: int) -> None:
    """Append all batches by so many callers at once."""
    left = iter(work)

    async def call() -> None:
        for batch in left:
            await log.append(batch, epoch=epoch)

    await asyncio.gather(*(call() for _ in range(callers)))


def sync_milliseconds(where: Path) -> list[float]:
    """Measure what writing 4 KiB and syncing takes."""
    measured = []
    with tempfile.NamedTemporaryFile(dir=where) as file:
        for _ in range(200):
            begin = time.perf_counter()
            os.write(file.fileno(), bytes(4096))
            os.fdatasync(file.fileno())
            measured.append((time.perf_counter() - begin) * 1000)
    return measured


async def turn_of_ours(url: str | None, path: Path, size: int, count: int, callers: int, seed: int) -> Rates:
    """Append to a new log."""
    place = url or f"sqlite:///{path}.db"
    await upgrade(place)
    log = await EventLog.open(place)
    events = story(20_000, seed=seed)
    work = batches(events, size, count)
    await log.append([next(events) for _ in range(1000)], epoch=(epoch := await log.take_lead()))
    if url is not None:
        async with writing(log._engine) as connection:
            await connection.exec_driver_sql("ANALYZE")
    timer = Timer()
    await append_ours(log, epoch, work, callers)
    rates = timer.rates(size * count)
    await log.close()
    return rates


async def measure_appends(url: str | None, where: Path, runs: int) -> list[Row]:
    """Append to new logs beside new stores of both peers, in turns."""
    from tests.bench.peer_of_log import run_peer, runs_on_postgresql  # noqa: PLC0415 - a process that is timed from its start does without

    peers = {"eventsourcing, save()": False, "eventsourcing, our promises": True}
    if url is not None and not runs_on_postgresql():
        peers = {}
    rows: list[Row] = []
    for size, count, callers in ((1, 200, 1), (10, 100, 1), (100, 60, 1), (1, 1000, 32), (100, 160, 8)):
        ours: list[Rates] = []
        theirs: dict[str, list[Rates]] = {name: [] for name in peers}
        for run in range(runs):
            path = where / f"{size}-{callers}-{run}"
            ours.append(await turn_of_ours(url, path, size, count, callers, run * 1000 + size * 10 + callers))
            for name, promising in peers.items():
                if url is not None:
                    await new_peer_schema(url)
                theirs[name].append(
                    await asyncio.to_thread(run_peer, path, size, count, callers, url, promising=promising)
                )
        said = f"append, {size} a batch, {callers} caller{'s' * (callers > 1)}"
        for name, rates in theirs.items():
            clock = [[one.by_clock for one in each] for each in (ours, rates)]
            rows.append(row(said, "events/s", *clock, peer_name=name, goal=">= 2"))
            if url is None:
                used = [[one.by_processor for one in each] for each in (ours, rates)]
                rows.append(row(f"{said}, by processor time", "events/s", *used, peer_name=name, goal=">= 2"))
        if size == 100:
            rows.append(row(f"{said}: alone", "events/s", [one.by_clock for one in ours], goal=">= 15000"))
    return rows


async def new_peer_schema(url: str) -> None:
    """Make an empty schema for the peer on PostgreSQL."""
    engine = open_engine(url)
    async with writing(engine) as connection:
        await connection.exec_driver_sql("DROP SCHEMA IF EXISTS peer CASCADE")
        await connection.exec_driver_sql("CREATE SCHEMA peer")
    await engine.dispose()


async def large_log(url: str | None, events: int) -> str:
    """Make the large log, or find it made: its state copied at its end, as a control plane leaves it."""
    cache = DIRECTORY / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    place = url or f"sqlite:///{cache / f'log-{events}.db'}"
    await upgrade(place)
    log = await EventLog.open(place)
    try:
        await log.refreshed()
        head = await log.head()
        if head < events:
            if head:
                raise SystemExit(f"{place} holds another log: delete it")
            epoch = await log.take_lead()
            source = story(IDS)
            begin = time.perf_counter()
            for first in range(0, events, 1000):
                await log.append([next(source) for _ in range(min(1000, events - first))], epoch=epoch)
            print(f"made the log of {events} events in {time.perf_counter() - begin:.0f} s", flush=True)
        if (copied := await log.load_state(state_cache.fingerprint())) is None or copied[0] < await log.head() - 50_000:
            loop = new_loop(log, epoch := await log.take_lead())
            await loop.load()
            await loop._copy_state()
            assert epoch
    finally:
        await log.close()
    return place


def new_loop(log: EventLog, epoch: int) -> DecisionLoop:
    return DecisionLoop(log, epoch=epoch, policy=Policy(), clock=lambda: datetime.now(UTC))


def ask(number: int) -> ResolveAsked:
    """Ask how a new container of an id shall start."""
    request = ResolveRequest(
        key=key_of(number),
        container_id=ContainerId(uuid4().hex),
        node=node_of(number),
        worker_id=WorkerId(f"w{number % NODES}"),
        facts=FACTS,
        container=CONTAINER,
        reports_sequence=0,
    )
    return ResolveAsked(request, f"resolve/{uuid4()}")


async def resolve_all(place: str, count: int) -> list[float]:
    """Answer questions about ids drawn at random, one after the other; answer how long each took, in milliseconds."""
    log = await EventLog.open(place)
    loop = new_loop(log, await log.take_lead())
    await loop.load()
    running = asyncio.create_task(loop.run())
    rng = random.Random()
    took = []
    for _ in range(count):
        asked = ask(rng.randrange(IDS))
        begin = time.perf_counter()
        settled = await (await loop.enqueue(asked, actor="bench"))
        took.append((time.perf_counter() - begin) * 1000)
        assert settled.answer is not None
    running.cancel()
    await asyncio.wait({running})
    await log.close()
    return sorted(took)


async def replay(place: str) -> tuple[float, float, float]:
    """Read every event; then fold every event into the state, by the clock and by processor time. All in events a second."""
    log = await EventLog.open(place)
    head = await log.head()
    begin = time.perf_counter()
    position = Position(0)
    while True:
        position, found = await log.tell(position, 2000)
        if not found:
            break
    read = head / (time.perf_counter() - begin)
    loop = new_loop(log, await log.take_lead())
    known = state_cache.fingerprint
    state_cache.fingerprint = lambda: "none"  # type: ignore[assignment]
    try:
        begin, used = time.perf_counter(), time.process_time()
        await loop.load()
        return read, head / (time.perf_counter() - begin), head / (time.process_time() - used)
    finally:
        state_cache.fingerprint = known  # type: ignore[assignment]
        await log.close()


async def start(place: str) -> None:
    """Do as a control plane that starts: migrate, open, lead, load, answer one question."""
    await upgrade(place)
    log = await EventLog.open(place)
    loop = new_loop(log, await log.take_lead())
    await loop.load()
    running = asyncio.create_task(loop.run())
    await (await loop.enqueue(ask(7), actor="bench"))
    print("serving", flush=True)
    running.cancel()
    await asyncio.wait({running})
    await log.close()


def restart_seconds(place: str) -> float:
    """Start a process and wait until it has answered."""
    begin = time.perf_counter()
    with subprocess.Popen([sys.executable, __file__, "--serve", place], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "serving"
        return time.perf_counter() - begin


def main() -> None:
    """Measure and publish."""
    collect_seldom()
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--url")
    arguments.add_argument("--runs", type=int, default=5)
    arguments.add_argument("--events", type=int, default=1_000_000)
    arguments.add_argument("--only", choices=("append", "large"))
    arguments.add_argument("--serve")
    given = arguments.parse_args()
    if given.serve:
        asyncio.run(start(given.serve))
        return
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    rows = [row("write 4 KiB and sync, on this disk", "ms", sync_milliseconds(DIRECTORY), goal="<= 5")]
    if given.only != "large":
        with tempfile.TemporaryDirectory(dir=DIRECTORY) as name:
            rows += asyncio.run(measure_appends(given.url, Path(name), given.runs))
    if given.only != "append":
        place = asyncio.run(large_log(given.url, given.events))
        replays = [asyncio.run(replay(place)) for _ in range(3)]
        large = f"{given.events:,} events, {IDS:,} ids"
        whats = ("read and decode", "fold the state from zero", "the same, by processor time")
        for what, rates in zip(whats, zip(*replays, strict=True), strict=True):
            rows.append(row(f"replay: {what} ({large})", "events/s", rates, goal=">= 80000"))
        waits = [asyncio.run(resolve_all(place, 1000)) for _ in range(3)]
        rows.append(row(f"resolve, median ({large})", "ms", [took[len(took) // 2] for took in waits], goal="<= 10"))
        rows.append(row(f"resolve, p99 ({large})", "ms", [took[len(took) * 99 // 100] for took in waits], goal="<= 10"))
        starts = [restart_seconds(place) for _ in range(5)]
        rows.append(row(f"process start to first answer ({large})", "s", starts, goal="<= 2"))
    publish("log" if given.url is None else "log-postgresql", rows)


if __name__ == "__main__":
    main()
