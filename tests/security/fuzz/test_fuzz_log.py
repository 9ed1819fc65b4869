"""Reports that are believed go into a real log: whatever they say, the loop that takes them in goes on."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from uuid import UUID, uuid4

from support.fuzzing import corpus, fuzz, is_short, json_of

from controlplane.bus.report_consumer import RefusedReportError, read_report
from controlplane.core.input_queue import InputResult, UndecidableError
from controlplane.core.loop import DecisionLoop
from controlplane.domain.inputs import Policy, ReportReceived, ResolveAsked
from controlplane.log.admin.migrate import upgrade
from controlplane.log.eventlog import EventLog
from controlplane.log.records import LogUnavailableError, StaleEpochError
from woodfrog.protocol import subjects
from woodfrog.protocol.events import DumpStarted, NodeRegistered, Trigger
from woodfrog.protocol.facts import ContainerFacts, NodeFacts
from woodfrog.protocol.ids import CheckpointKey, ContainerId, IncarnationNumber, NodeName, SnapshotId, WorkerId
from woodfrog.protocol.reports import Report
from woodfrog.protocol.requests import ResolveRequest

NODE, WORKER, SNAPSHOT = NodeName("node-1"), WorkerId("worker-1"), SnapshotId("20261123T214501Z-5f3a9c1e")
KEY = CheckpointKey("lab", "default", "trainer")
REPORTS = corpus("reports")


def _now() -> datetime:
    return datetime.now(UTC)


class Plane:
    """The input loop on a SQLite log of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._runner = asyncio.Runner()
        self._runner.run(self._open())
        self._numbers = count(1)

    async def _open(self) -> None:
        url = f"sqlite+aiosqlite:///{self._folder}/log.db"
        await upgrade(url)
        self._log = await EventLog.open(url)
        epoch = await self._log.take_lead()
        self._loop = DecisionLoop(self._log, epoch=epoch, policy=Policy(), clock=_now, patience_seconds=1.0)
        await self._loop.load()
        self._task = asyncio.create_task(self._loop.run())

    def begin(self) -> None:
        """A node, a start and a dump under way, so that reports about them are believed."""
        self.take(
            Report(
                uuid4(),
                NODE,
                WORKER,
                _now(),
                NodeRegistered(node=NODE, worker_id=WORKER, boot_id="b", facts=NodeFacts()),
            )
        )
        request = ResolveRequest(KEY, ContainerId("c1"), NODE, WORKER, NodeFacts(), ContainerFacts(), 0)
        asked = ResolveAsked(request, f"resolve/{uuid4()}")
        answer = self._runner.run(self._give(asked)).answer
        started = DumpStarted(
            key=KEY, incarnation=answer.incarnation, snapshot_id=SNAPSHOT, node=NODE, trigger=Trigger.SCHEDULE, final=False
        )  # fmt: skip
        assert answer.incarnation == IncarnationNumber(1)
        self.take(Report(uuid4(), NODE, WORKER, _now(), started))

    def take(self, report: Report) -> InputResult | UndecidableError:
        try:
            return self._runner.run(self._give(ReportReceived(report)))
        except UndecidableError as problem:
            return problem

    async def _give(self, asked: ReportReceived | ResolveAsked) -> InputResult:
        assert not self._task.done()
        async with asyncio.timeout(20):
            return await (await self._loop.enqueue(asked, actor="test"))

    def close(self) -> None:
        async def end() -> None:
            self._task.cancel()
            with suppress(asyncio.CancelledError, LogUnavailableError, StaleEpochError):
                await self._task
            await self._log.close()

        self._runner.run(end())
        self._runner.close()
        shutil.rmtree(self._folder)


_open: list[Plane] = []


@contextmanager
def plane() -> Iterator[Plane]:
    """One for all examples: making one takes longer than hundreds of reports."""
    if not _open:
        made = Plane(Path(tempfile.mkdtemp(prefix="wf-")))
        made.begin()
        _open.append(made)
    yield _open[0]


def teardown_module() -> None:
    for one in _open:
        one.close()


@fuzz(data=json_of(REPORTS))
def test_every_report_is_recorded_or_put_aside_and_the_next_one_is_taken_in(data: bytes) -> None:
    try:
        report = read_report(subjects.reports(NODE), data)
    except RefusedReportError as problem:
        is_short(problem)
        return
    with plane() as taking:
        taking.take(Report(uuid4(), report.node, report.worker_id, report.at, report.event))
        plain = json.loads(REPORTS[0])
        plain["report_id"] = str(uuid4())
        again = read_report(subjects.reports(NODE), json.dumps(plain).encode())
        assert isinstance(taking.take(again), InputResult)
        assert isinstance(again.report_id, UUID)
