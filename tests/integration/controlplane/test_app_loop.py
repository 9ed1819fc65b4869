"""The input loop on a real SQLite log: batches, refusals of the log, and inputs that bring a decision down."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

import controlplane.core.loop
from controlplane.core import state_cache
from controlplane.core.input_queue import InputResult, UndecidableError
from controlplane.core.loop import DecisionLoop
from controlplane.domain import decide
from controlplane.domain.evolve import evolve
from controlplane.domain.inputs import Decision, Input, Policy, ReportReceived, ResolveAsked
from controlplane.domain.state import State
from controlplane.log.admin.migrate import upgrade
from controlplane.log.eventlog import EventLog
from controlplane.log.records import EventConflictError, LogUnavailableError, NewEvent, Recorded, StaleEpochError
from woodfrog.protocol.events import AnyEvent, NodeRegistered
from woodfrog.protocol.facts import ContainerFacts, NodeFacts
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import CheckpointKey, ContainerId, Epoch, NodeName, Position, Version, WorkerId
from woodfrog.protocol.reports import Report
from woodfrog.protocol.requests import ResolveRequest, StartCold

NODE, WORKER = NodeName("node-1"), WorkerId("w")
AWAY = LogUnavailableError(Failure(code="log-unavailable", cause="the disk is away", advice="Bring it back."))


class FlakyLog(EventLog):
    """A log whose next appends fail: before anything is written, or after everything is."""

    failures: list[str]
    batches: list[int]
    away = False

    async def append(
        self,
        batch: Sequence[NewEvent],
        *,
        epoch: Epoch,
        expected: Mapping[str, Version] | None = None,
        recorded_at: datetime | None = None,
    ) -> list[Recorded]:
        failure = self.failures.pop(0) if self.failures else ""
        if failure == "before":
            raise AWAY
        if failure == "conflict":
            raise EventConflictError(batch[0].event_id, None)
        recorded = await super().append(batch, epoch=epoch, expected=expected, recorded_at=recorded_at)
        self.batches.append(len(batch))
        if failure == "after":
            raise AWAY
        return recorded

    async def read(self, after: Position, limit: int) -> list[Recorded]:
        if self.away:
            raise AWAY
        return await super().read(after, limit)

    async def tell(self, after: Position, limit: int) -> tuple[Position, list[tuple[AnyEvent, datetime]]]:
        if self.away:
            raise AWAY
        return await super().tell(after, limit)


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[FlakyLog]:
    url = f"sqlite+aiosqlite:///{tmp_path}/log.db"
    await upgrade(url)
    log = await FlakyLog.open(url)
    log.failures, log.batches = [], []
    try:
        yield log
    finally:
        await log.close()


@pytest.fixture
async def loop(log: FlakyLog) -> AsyncIterator[DecisionLoop]:
    loop = DecisionLoop(
        log,
        epoch=await log.take_lead(),
        policy=Policy(),
        clock=lambda: datetime.now(UTC),
        patience_seconds=1.0,
    )
    await loop.load()
    task = asyncio.create_task(loop.run())
    await tell(loop, registered())
    log.batches.clear()
    yield loop
    task.cancel()
    with suppress(asyncio.CancelledError, LogUnavailableError, StaleEpochError):
        await task


def registered(worker_id: WorkerId = WORKER) -> ReportReceived:
    event = NodeRegistered(node=NODE, worker_id=worker_id, boot_id="boot", facts=NodeFacts())
    return ReportReceived(Report(uuid4(), NODE, worker_id, datetime.now(UTC), event))


def start_of(name: str) -> ResolveAsked:
    request = ResolveRequest(
        key=CheckpointKey("local", "default", name),
        container_id=ContainerId("c1"),
        node=NODE,
        worker_id=WORKER,
        facts=NodeFacts(),
        container=ContainerFacts(),
        reports_sequence=0,
    )
    return ResolveAsked(request, f"resolve/{uuid4()}")


async def tell(loop: DecisionLoop, asked: Input) -> InputResult:
    return await (await loop.enqueue(asked, actor="test"))


async def test_inputs_that_wait_together_are_committed_together(loop: DecisionLoop, log: FlakyLog) -> None:
    futures = [await loop.enqueue(start_of(f"id-{number}"), actor="test") for number in range(50)]
    settled = await asyncio.gather(*futures)
    assert all(isinstance(one.answer, StartCold) for one in settled)
    assert len(log.batches) < 10
    opened = [record.event.key.id for record in await log.read(Position(1), 200) if hasattr(record.event, "container")]
    assert opened == [f"id-{number}" for number in range(50)]


async def test_an_input_of_a_batch_sees_what_the_inputs_before_it_led_to(loop: DecisionLoop) -> None:
    futures = [await loop.enqueue(start_of("same"), actor="test") for _ in range(5)]
    answers = [(await future).answer for future in futures]
    assert answers == [answers[0]] * 5


async def test_nothing_is_decided_by_a_batch_that_the_log_refused(loop: DecisionLoop, log: FlakyLog) -> None:
    log.failures = ["before"]
    head = await log.head()
    with pytest.raises(LogUnavailableError):
        await tell(loop, start_of("job"))
    assert await log.head() == head
    answer = (await tell(loop, start_of("job"))).answer
    assert isinstance(answer, StartCold)
    assert answer.incarnation == 1


async def test_a_batch_that_was_kept_although_the_log_failed_is_not_decided_again(
    loop: DecisionLoop, log: FlakyLog
) -> None:
    log.failures = ["after"]
    with pytest.raises(LogUnavailableError):
        await tell(loop, start_of("job"))
    head = await log.head()
    answer = (await tell(loop, start_of("job"))).answer
    assert isinstance(answer, StartCold)
    assert answer.incarnation == 1
    assert await log.head() == head


async def test_a_report_whose_append_failed_is_recorded_once_when_it_is_told_again(
    loop: DecisionLoop, log: FlakyLog
) -> None:
    for failure in ("before", "after"):
        log.failures = [failure]
        report = registered(WorkerId(f"next after {failure}"))
        head = await log.head()
        with pytest.raises(LogUnavailableError):
            await tell(loop, report)
        await tell(loop, report)
        assert (await tell(loop, report)).repeated
        assert await log.head() == head + 1


async def test_an_input_that_brings_the_decision_down_fails_alone(
    loop: DecisionLoop, log: FlakyLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def brittle(state: State, asked: Input, now: datetime, policy: Policy) -> Decision:
        if isinstance(asked, ResolveAsked) and asked.request.key.id == "poison":
            raise ZeroDivisionError
        return decide(state, asked, now, policy)

    monkeypatch.setattr(controlplane.core.loop, "decide", brittle)
    futures = [await loop.enqueue(start_of(name), actor="test") for name in ("a", "poison", "b")]
    before, poisoned, behind = await asyncio.gather(*futures, return_exceptions=True)
    assert isinstance(before, InputResult)
    assert isinstance(behind, InputResult)
    assert isinstance(poisoned, UndecidableError)


async def test_an_id_already_recorded_with_another_payload_fails_alone(loop: DecisionLoop) -> None:
    first = start_of("first")
    await tell(loop, first)
    forged = ResolveAsked(start_of("second").request, first.source)
    futures = [await loop.enqueue(asked, actor="test") for asked in (start_of("a"), forged, start_of("b"))]
    before, conflicting, behind = await asyncio.gather(*futures, return_exceptions=True)
    assert isinstance(before, InputResult)
    assert isinstance(behind, InputResult)
    assert isinstance(conflicting, UndecidableError)


async def test_a_log_that_stays_away_ends_the_loop(log: FlakyLog) -> None:
    loop = DecisionLoop(
        log,
        epoch=await log.take_lead(),
        policy=Policy(),
        clock=lambda: datetime.now(UTC),
        patience_seconds=0.5,
    )
    task = asyncio.create_task(loop.run())
    log.failures, log.away = ["before"], True
    future = await loop.enqueue(start_of("job"), actor="test")
    with pytest.raises(LogUnavailableError):
        await asyncio.wait_for(task, 20)
    assert isinstance(future.exception(), LogUnavailableError)


async def test_who_lost_the_lead_answers_no_question_even_if_it_would_record_nothing(
    log: FlakyLog,
) -> None:
    loop = DecisionLoop(log, epoch=await log.take_lead(), policy=Policy(), clock=lambda: datetime.now(UTC))
    task = asyncio.create_task(loop.run())
    await tell(loop, registered())
    await tell(loop, start_of("job"))
    await log.take_lead()
    future = await loop.enqueue(start_of("job"), actor="test")
    with pytest.raises(StaleEpochError):
        await asyncio.wait_for(task, 20)
    assert not future.done()


async def test_a_loop_folded_from_the_log_goes_on_where_the_one_before_stopped(
    loop: DecisionLoop, log: FlakyLog
) -> None:
    first = (await tell(loop, start_of("job"))).answer
    again = DecisionLoop(log, epoch=await log.take_lead(), policy=Policy(), clock=lambda: datetime.now(UTC))
    await again.load()
    assert again.committed.value == await log.head()
    task = asyncio.create_task(again.run())
    assert (await tell(again, start_of("job"))).answer == first
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_no_report_overtakes_those_that_the_log_refused(loop: DecisionLoop, log: FlakyLog) -> None:
    log.failures = ["before"]
    told = [registered(WorkerId(f"life-{number}")) for number in range(300)]  # more than one batch holds
    questions = [await loop.enqueue(start_of("job"), actor="test")]
    futures = [await loop.enqueue(one, actor="test") for one in told]
    questions.append(await loop.enqueue(start_of("job"), actor="test"))
    assert {type(outcome) for outcome in await asyncio.gather(*futures, return_exceptions=True)} == {
        LogUnavailableError
    }
    assert isinstance((await questions[1]).answer, StartCold), (
        "a question is not told again by anybody, and is answered"
    )
    with pytest.raises(LogUnavailableError):
        await questions[0]
    await asyncio.gather(*[await loop.enqueue(one, actor="test") for one in told])
    recorded = [record.event for record in await log.read(Position(1), 1000)]
    lives = [event.worker_id for event in recorded if isinstance(event, NodeRegistered)]
    assert lives == [one.report.worker_id for one in told]


async def test_no_report_that_waited_before_a_full_queue_overtakes_one_that_the_log_refused(
    log: FlakyLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controlplane.core.loop, "_LONGEST_QUEUE", 1)
    loop = new_loop(log, await log.take_lead())
    first = await loop.enqueue(registered(WorkerId("first")), actor="test")
    async with asyncio.TaskGroup() as group:
        question = group.create_task(loop.enqueue(start_of("job"), actor="test"))
        await asyncio.sleep(0)
        second = group.create_task(loop.enqueue(registered(WorkerId("second")), actor="test"))
        await asyncio.sleep(0)
        log.failures = ["before"]
        running = asyncio.create_task(loop.run())
    assert (await (await question)).answer is not None
    for refused in (first, await second):
        with pytest.raises(LogUnavailableError):
            await refused
    recorded = [record.event for record in await log.read(Position(0), 1000)]
    assert not [event for event in recorded if isinstance(event, NodeRegistered)]
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def test_no_report_of_a_batch_that_is_taken_apart_overtakes_one_that_the_log_refused(
    log: FlakyLog,
) -> None:
    loop = new_loop(log, await log.take_lead())
    log.failures = ["conflict", "before"]
    told = [await loop.enqueue(registered(WorkerId(f"life-{number}")), actor="test") for number in range(3)]
    running = asyncio.create_task(loop.run())
    outcomes = await asyncio.gather(*told, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {LogUnavailableError}
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def test_a_restart_goes_on_from_a_copy_of_the_state_and_the_events_since(
    log: FlakyLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controlplane.core.loop, "_COPY_AT_STOP_EVENTS", 1)
    first = new_loop(log, await log.take_lead())
    await first.load()
    task = asyncio.create_task(first.run())
    await tell(first, registered())
    for number in range(30):
        await tell(first, start_of(f"id-{number}"))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    copied = await log.load_state(state_cache.fingerprint())
    assert copied is not None
    assert copied[0] == await log.head()

    first = new_loop(log, await log.take_lead())
    await first.load()
    monkeypatch.setattr(controlplane.core.loop, "_COPY_AT_STOP_EVENTS", 1000)
    task = asyncio.create_task(first.run())
    await tell(first, start_of("after"))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    read_from: list[Position] = []
    tell_all = log.tell

    async def watch(after: Position, limit: int) -> tuple[Position, list[tuple[AnyEvent, datetime]]]:
        read_from.append(after)
        return await tell_all(after, limit)

    monkeypatch.setattr(log, "tell", watch)
    again = new_loop(log, await log.take_lead())
    await again.load()
    assert read_from[0] == copied[0]
    monkeypatch.setattr(state_cache, "fingerprint", lambda: "another")
    from_zero = new_loop(log, await log.take_lead())
    await from_zero.load()
    assert Position(0) in read_from
    assert again._state == from_zero._state
    assert again._state == first._state
    assert len(again._state.keys) == 31


async def test_a_copy_of_the_state_is_taken_while_decisions_go_on(
    log: FlakyLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controlplane.core.loop, "_COPY_EVENTS", 20)
    loop = new_loop(log, await log.take_lead())
    await loop.load()
    task = asyncio.create_task(loop.run())
    await tell(loop, registered())
    for number in range(60):
        await tell(loop, start_of(f"id-{number}"))
    assert loop._copying is not None
    await asyncio.wait({loop._copying})
    copied = await log.load_state(state_cache.fingerprint())
    assert copied is not None
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    state = State()
    position, told = await log.tell(Position(0), int(copied[0]))
    for event, at in told:
        evolve(state, event, at)
    assert (position, state) == (copied[0], state_cache.decode(copied[1]))


async def test_whoever_lost_the_lead_leaves_no_copy_of_its_state(log: FlakyLog) -> None:
    loop = new_loop(log, await log.take_lead())
    await loop.load()
    task = asyncio.create_task(loop.run())
    await tell(loop, registered())
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await log.take_lead()
    await loop._copy_state()
    assert await log.load_state(state_cache.fingerprint()) is None


def new_loop(log: EventLog, epoch: Epoch) -> DecisionLoop:
    return DecisionLoop(log, epoch=epoch, policy=Policy(), clock=lambda: datetime.now(UTC), patience_seconds=1.0)
