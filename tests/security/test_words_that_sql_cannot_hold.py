"""What a report says goes into the log, or it is refused: no word of a node brings down whoever reads them all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest
from support.databases import PostgresServer

from controlplane.bus.report_consumer import RefusedReportError, read_report
from controlplane.core.input_queue import InputResult, UndecidableError
from controlplane.core.loop import DecisionLoop
from controlplane.domain.inputs import Policy, ReportReceived, ResolveAsked
from controlplane.kube import pod_diff
from controlplane.log.admin.migrate import upgrade
from controlplane.log.eventlog import EventLog
from controlplane.log.records import LogUnavailableError, StaleEpochError
from woodfrog.protocol import subjects, wire
from woodfrog.protocol.events import (
    ContainerStarted,
    DumpFailed,
    DumpStage,
    DumpStarted,
    NodeRegistered,
    ReportedEvent,
    SnapshotCaptured,
    Trigger,
)
from woodfrog.protocol.facts import ContainerFacts, NodeFacts
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import (
    CheckpointKey,
    ContainerId,
    IncarnationNumber,
    NodeName,
    Position,
    SnapshotId,
    WorkerId,
)
from woodfrog.protocol.reports import Report
from woodfrog.protocol.requests import ResolveRequest, StartCold

pytestmark = pytest.mark.timeout(120)

NODE, WORKER = NodeName("node-1"), WorkerId("w")
KEY = CheckpointKey("local", "default", "i")
ONE = IncarnationNumber(1)


@pytest.fixture(params=["sqlite", "postgresql"])
async def log(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[EventLog]:
    server: PostgresServer | None = None
    if request.param == "sqlite":
        url = f"sqlite+aiosqlite:///{tmp_path}/log.db"
    else:
        server = request.getfixturevalue("postgres_server")
        url = server.url(server.new_database())
    await upgrade(url)
    log = await EventLog.open(url)
    try:
        yield log
    finally:
        await log.close()


@pytest.fixture
async def loop(log: EventLog) -> AsyncIterator[DecisionLoop]:
    loop = DecisionLoop(
        log, epoch=await log.take_lead(), policy=Policy(), clock=lambda: datetime.now(UTC), patience_seconds=1.0
    )
    await loop.load()
    task = asyncio.create_task(loop.run())
    yield loop
    task.cancel()
    with suppress(asyncio.CancelledError, LogUnavailableError, StaleEpochError):
        await task


def registered(**facts: object) -> NodeRegistered:
    return NodeRegistered(node=NODE, worker_id=WORKER, boot_id="boot", facts=NodeFacts(**facts))  # type: ignore[arg-type]


async def told(loop: DecisionLoop, event: ReportedEvent, **changes: object) -> InputResult | str:
    """What becomes of a report, from its bytes on: what it was refused for, or what the log made of it."""
    report = msgspec.structs.replace(Report(uuid4(), NODE, WORKER, datetime.now(UTC), event), **changes)
    try:
        read = read_report(subjects.reports(report.node), wire.encode(report))
    except RefusedReportError as problem:
        return str(problem)
    try:
        async with asyncio.timeout(20):
            return await (await loop.enqueue(ReportReceived(read), actor="test"))
    except UndecidableError as problem:
        return str(problem)


async def started(loop: DecisionLoop) -> None:
    request = ResolveRequest(
        key=KEY,
        container_id=ContainerId("c"),
        node=NODE,
        worker_id=WORKER,
        facts=NodeFacts(),
        container=ContainerFacts(),
        reports_sequence=0,
    )
    settled = await (await loop.enqueue(ResolveAsked(request, f"resolve/{uuid4()}"), actor="test"))
    assert isinstance(settled.answer, StartCold)


def dump_started() -> DumpStarted:
    return DumpStarted(
        key=KEY, incarnation=ONE, snapshot_id=SnapshotId("s"), node=NODE, trigger=Trigger.SCHEDULE, final=False
    )


HOSTILE = {
    "a NUL in a fact": registered(kernel_release="6.1\0"),
    "a NUL in a name": NodeRegistered(node=NODE, worker_id=WorkerId("w\0"), boot_id="b", facts=NodeFacts()),
    "a NUL in a cause": DumpFailed(
        key=KEY, incarnation=ONE, snapshot_id=SnapshotId("s"), node=NODE, stage=next(iter(DumpStage)),
        failure=Failure("criu-error", "c\0", "a"),
    ),
    "bytes beyond 64 bits": SnapshotCaptured(
        key=KEY, incarnation=ONE, snapshot_id=SnapshotId("s"), node=NODE, freeze_seconds=1.0, raw_bytes=1 << 80,
    ),
    "an incarnation beyond 64 bits": ContainerStarted(
        key=KEY, incarnation=IncarnationNumber(1 << 70), node=NODE, container_id=ContainerId("c")
    ),
}  # fmt: skip


@pytest.mark.parametrize("event", HOSTILE.values(), ids=HOSTILE.keys())
async def test_what_sql_cannot_hold_is_refused_and_the_next_report_is_taken_in(
    loop: DecisionLoop, event: ReportedEvent
) -> None:
    await told(loop, registered())
    await started(loop)
    await told(loop, dump_started())
    await told(loop, event)
    settled = await told(loop, registered(kernel_release="6.2"))
    assert isinstance(settled, InputResult)
    assert settled.rejected is None


async def test_reports_that_wait_with_one_that_sql_cannot_hold_are_recorded(loop: DecisionLoop, log: EventLog) -> None:
    await told(loop, registered())
    await started(loop)
    await told(loop, dump_started())
    captured = HOSTILE["bytes beyond 64 bits"]
    outcomes = await asyncio.gather(
        told(loop, registered()), told(loop, captured), told(loop, msgspec.structs.replace(captured, raw_bytes=7))
    )
    assert isinstance(outcomes[1], str)
    assert [type(outcome) for outcome in (outcomes[0], outcomes[2])] == [InputResult, InputResult]
    last = (await log.read(Position(0), 100))[-1].event
    assert isinstance(last, SnapshotCaptured)
    assert last.raw_bytes == 7


def test_a_termination_message_with_a_nul_is_read_without_it() -> None:
    assert pod_diff._text("killed\0by me") == "killed\ufffdby me"
