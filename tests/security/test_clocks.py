"""A node's clock decides nothing: neither when a snapshot expires, nor whether a command is obeyed, nor when it is tried again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest
from support.world import ANY_CONTAINER, ANY_NODE, KEY, World, stored_event

from controlplane.bus.clock_offsets import ClockOffsets
from controlplane.core.history import state_at
from controlplane.core.loop import DecisionLoop
from controlplane.domain import Keep, NodeHeard, Policy, ReportReceived, ResolveAsked, Retention, SnapshotStatus, evolve
from controlplane.domain.event_time import LONGEST_DELAY, believed
from controlplane.log.admin.migrate import upgrade
from controlplane.log.eventlog import EventLog
from nodeworker.agent.command_executor import CommandExecutor
from nodeworker.bus import Bus
from nodeworker.disk.snapshot_cache import SnapshotCache
from nodeworker.dump.dump import Dumper
from nodeworker.dump.uploader import SnapshotUploader
from nodeworker.journal import Journal
from nodeworker.store import SnapshotStore
from woodfrog.cli import controlplane_doctor
from woodfrog.protocol import wire
from woodfrog.protocol.commands import Command, DeleteCommand
from woodfrog.protocol.events import (
    CommandFinished,
    CommandIssued,
    ContainerStarted,
    DumpStarted,
    NodeClockMeasured,
    NodeRegistered,
    Outcome,
    ReportedEvent,
    SnapshotDeleted,
    SnapshotExpired,
    Trigger,
)
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import CommandId, ContainerId, IncarnationNumber, NodeName, SnapshotId, WorkerId
from woodfrog.protocol.reports import Heartbeat, Report, Vouched
from woodfrog.protocol.requests import Resolution, ResolveRequest

pytestmark = pytest.mark.timeout(30)

NODE, WORKER = NodeName("a"), WorkerId("worker-a")
WEEK = Policy(retention=Retention(default=Keep(seconds=7 * 86400)))
MONTH = timedelta(days=30)


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[EventLog]:
    url = f"sqlite+aiosqlite:///{tmp_path}/log.db"
    await upgrade(url)
    opened = await EventLog.open(url)
    yield opened
    await opened.close()


class Led:
    """A decision loop on a real log, and a worker whose clock is off by ``skew``."""

    def __init__(self, log: EventLog, skew: timedelta) -> None:
        self.log = log
        self.skew = skew
        self.loop = cast("DecisionLoop", None)

    async def begin(self) -> None:
        self.loop = DecisionLoop(self.log, epoch=await self.log.take_lead(), policy=WEEK, clock=now)
        await self.loop.load()
        self.task = asyncio.create_task(self.loop.run())

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def report(self, event: ReportedEvent) -> None:
        report = Report(uuid4(), NODE, WORKER, now() + self.skew, event)
        settled = await (await self.loop.enqueue(ReportReceived(report), actor="worker/a"))
        assert settled.rejected is None

    async def start(self) -> IncarnationNumber:
        await self.report(NodeRegistered(node=NODE, worker_id=WORKER, boot_id="boot", facts=ANY_NODE))
        request = ResolveRequest(KEY, ContainerId("c"), NODE, WORKER, ANY_NODE, ANY_CONTAINER, 0)
        settled = await (await self.loop.enqueue(ResolveAsked(request, str(uuid4())), actor="worker/a"))
        number = cast("Resolution", settled.answer).incarnation  # type: ignore[union-attr]
        await self.report(ContainerStarted(key=KEY, incarnation=number, node=NODE, container_id=ContainerId("c")))
        return number

    async def snapshot(self, number: IncarnationNumber, name: str) -> None:
        about: dict[str, Any] = {"key": KEY, "incarnation": number, "snapshot_id": SnapshotId(name), "node": NODE}
        await self.report(DumpStarted(**about, trigger=Trigger.COMMAND, final=False))
        await self.report(stored_event(**about))


@pytest.mark.parametrize("skew", [-MONTH, MONTH, timedelta(0)], ids=str)
async def test_a_snapshot_of_a_node_whose_clock_is_a_month_off_is_as_old_as_the_log_knows(
    log: EventLog, skew: timedelta
) -> None:
    """poc/clock.py: it expired the moment after it was stored."""
    led = Led(log, skew)
    await led.begin()
    number = await led.start()
    for name in ("s1", "s2"):
        await led.snapshot(number, name)
    key = led.loop.key(KEY)
    assert key is not None
    assert {snapshot.status for snapshot in key.snapshots.values()} == {SnapshotStatus.VALID}
    since = key.snapshots[SnapshotId("s1")].since
    assert since is not None
    assert now() - LONGEST_DELAY - timedelta(minutes=1) < since <= now()
    assert await state_at(log, now()) == led.loop._state, "the log folded from its start says the same"
    await led.end()
    await led.begin()
    assert led.loop.key(KEY) == key, "so does a control plane that is restarted"
    recorded = await log.read(cast("Any", 0), 100)
    stored = next(each for each in recorded if type(each.event).__name__ == "SnapshotStored")
    assert abs(stored.occurred_at - stored.recorded_at - skew) < timedelta(minutes=1), (
        "the log keeps what the node said"
    )
    await led.end()


def test_a_moment_is_believed_if_it_is_possible() -> None:
    noon = datetime(2026, 11, 23, 12, tzinfo=UTC)
    assert believed(noon - timedelta(minutes=3), noon) == noon - timedelta(minutes=3)
    assert believed(noon + timedelta(days=1), noon) == noon
    assert believed(noon - MONTH, noon) == noon - LONGEST_DELAY


async def test_a_deletion_that_failed_is_tried_again_although_the_nodes_clock_is_a_month_ahead(log: EventLog) -> None:
    led = Led(log, MONTH)
    await led.begin()
    number = await led.start()
    await led.snapshot(number, "s1")
    at = now()
    state = led.loop._state
    expired = SnapshotExpired(key=KEY, incarnation=number, snapshot_id=SnapshotId("s1"), reason="", delete_after=at)
    command = DeleteCommand(CommandId("d"), NODE, KEY, number, SnapshotId("s1"), at, at + timedelta(minutes=5))
    for event in (expired, CommandIssued(key=KEY, incarnation=number, command=command)):
        evolve(state, event, at)
    failure = Failure("store-refused", "it did not", "Again.")
    await led.report(
        CommandFinished(key=KEY, incarnation=number, command_id=CommandId("d"), outcome=Outcome.FAILED, failure=failure)
    )
    again = state.keys[KEY].snapshots[SnapshotId("s1")].delete_again_at
    assert again is not None
    assert again < now() + timedelta(minutes=1)
    await led.end()


# Commands


class Broker:
    """What the bus of a worker asks for the time."""

    is_connected = True

    def __init__(self, skew: timedelta) -> None:
        self.skew = skew
        self.asked = 0

    async def request(self, _subject: str, _data: bytes, timeout: float) -> Any:  # noqa: ASYNC109 -- NATS's
        self.asked += 1
        return SimpleNamespace(data=wire.encode(Vouched((), (), now() + self.skew)))


@pytest.fixture
def journal(tmp_path: Path) -> Any:
    opened = Journal(tmp_path / "journal", node=NODE, worker_id=WORKER)
    yield opened
    opened.close()


def bus_of(journal: Journal, skew: timedelta) -> Bus:
    """The bus of a node whose clock is off: there, ``skew`` earlier is now."""
    bus = Bus("nats://nowhere", NODE, journal, heartbeat=lambda: Heartbeat(NODE, WORKER, "b", ANY_NODE))
    bus._client = cast("Any", Broker(skew))
    return bus


def deletion(issued_at: datetime, *, seconds: float = 300) -> DeleteCommand:
    one = IncarnationNumber(1)
    deadline = issued_at + timedelta(seconds=seconds)
    return DeleteCommand(CommandId("d"), NODE, KEY, one, SnapshotId("20261123T120000Z-00000001"), issued_at, deadline)


@pytest.mark.parametrize("skew", [timedelta(minutes=-10), MONTH, -MONTH], ids=str)
@pytest.mark.parametrize("knows_the_time", [True, False])
async def test_a_command_has_the_time_that_it_was_given_whatever_the_nodes_clock_says(
    journal: Journal, tmp_path: Path, skew: timedelta, knows_the_time: bool
) -> None:
    bus = bus_of(journal, skew)
    if knows_the_time:
        await bus._ask_for_vouchers(for_time=True)
    command = await bus._by_our_clock(deletion(now() + skew))
    assert abs((command.deadline - now()).total_seconds() - 300) < 5
    none = SnapshotCache(Path("/nowhere"), limit_bytes=0, limit_seconds=1)
    store = SnapshotStore(f"file://{tmp_path}/store")
    executor = CommandExecutor(journal, cast("Dumper", None), cast("SnapshotUploader", None), store, none)
    await executor.obey(command)
    ((_, report),) = journal.outbox()
    assert isinstance(report.event, SnapshotDeleted)


async def test_a_command_that_lay_in_the_stream_beyond_its_deadline_is_void(journal: Journal) -> None:
    skew = timedelta(minutes=10)
    bus = bus_of(journal, skew)
    await bus._ask_for_vouchers(for_time=True)
    command = await bus._by_our_clock(deletion(now() + skew - timedelta(minutes=6)))
    assert command.deadline < now()


async def test_the_time_is_asked_for_again_before_a_command_is_void_because_another_may_lead(journal: Journal) -> None:
    bus = bus_of(journal, timedelta(0))
    broker = cast("Any", bus._client)
    bus._plane_clock.hear(now() + timedelta(hours=1), time.monotonic() - 60)
    command = await bus._by_our_clock(deletion(now()))
    assert broker.asked == 1
    assert command.deadline > now()


async def test_a_command_gains_no_time_by_being_delivered_again(journal: Journal, tmp_path: Path) -> None:
    first: Command = deletion(now() - timedelta(minutes=10))
    journal.take_command(first)  # by a life that ended then
    none = SnapshotCache(Path("/nowhere"), limit_bytes=0, limit_seconds=1)
    store = SnapshotStore(f"file://{tmp_path}/store")
    await CommandExecutor(journal, cast("Dumper", None), cast("SnapshotUploader", None), store, none).obey(
        deletion(now())
    )
    ((_, report),) = journal.outbox()
    assert isinstance(report.event, CommandFinished)
    assert report.event.failure is not None
    assert report.event.failure.code == "command-expired"


# How far a clock is off


def heard(world: World, seconds: float | None) -> list[Any]:
    heartbeat = Heartbeat(NODE, WORKER, "boot", ANY_NODE)
    return list(world.give(NodeHeard(heartbeat, world.source(), seconds)).events)


def test_a_clock_that_is_off_is_recorded_when_that_changes() -> None:
    world = World("a")
    assert heard(world, None) == []
    assert heard(world, 4.9) == []
    (event,) = heard(world, -620.04)
    assert event == NodeClockMeasured(node=NODE, worker_id=WORKER, offset_seconds=-620.0)
    assert heard(world, -621.0) == []
    (event,) = heard(world, 0.2)
    assert event.offset_seconds == 0.2
    assert heard(world, 0.3) == []


def test_a_heartbeat_that_was_held_up_makes_no_clock_slow() -> None:
    offsets, at = ClockOffsets(), now()
    measured = [offsets.measured("a", at, at + timedelta(seconds=late)) for late in (0.1, 90, 60, 30, 0.2, 45)]
    assert measured[:4] == [None] * 4
    assert measured[4:] == [pytest.approx(-0.1), pytest.approx(-0.2)]
    assert offsets.measured("a", None, at) is None
    assert offsets.measured("b", at.replace(tzinfo=None), at) is None


def test_the_doctor_names_the_nodes_whose_clock_is_off() -> None:
    rows = [
        {"node": "a", "status": "ready", "clock_offset_seconds": None},
        {"node": "b", "status": "ready", "clock_offset_seconds": 620.0},
        {"node": "c", "status": "lost", "clock_offset_seconds": 620.0},
        {"node": "d", "status": "ready", "clock_offset_seconds": 0.3},
    ]
    finding = controlplane_doctor.clocks(rows)
    assert (finding.state, "b by +620 s" in finding.found) == ("warning", True)
    assert "c by" not in finding.found
    assert controlplane_doctor.clocks(rows[:1]).state == "ok"
