"""The worker's bus against a real nats-server: nothing said is lost, nothing commanded is done twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import nats
import pytest
from nats.aio.msg import Msg
from nats.js.api import RetentionPolicy, StreamConfig
from support.worker import eventually

from nodeworker.bus import Bus
from nodeworker.journal import Journal
from woodfrog.protocol import subjects, wire
from woodfrog.protocol.commands import Command, DumpCommand
from woodfrog.protocol.events import ContainerEnded
from woodfrog.protocol.facts import ContainerFacts, NodeFacts
from woodfrog.protocol.ids import CheckpointKey, CommandId, ContainerId, IncarnationNumber, NodeName, WorkerId
from woodfrog.protocol.reports import Heartbeat, Report
from woodfrog.protocol.requests import ResolveRequest, StartCold

pytestmark = [pytest.mark.nats, pytest.mark.timeout(40)]

KEY = CheckpointKey("local", "default", "job")
NODE = NodeName("node.with.dots")
HEARTBEAT = Heartbeat(NODE, WorkerId("life-1"), "boot", NodeFacts())


def ended(number: int) -> ContainerEnded:
    return ContainerEnded(
        key=KEY, incarnation=IncarnationNumber(number), node=NODE, container_id=ContainerId(f"c{number}")
    )


def command(name: str) -> DumpCommand:
    now = datetime.now(UTC)
    return DumpCommand(
        command_id=CommandId(name),
        node=NODE,
        key=KEY,
        incarnation=IncarnationNumber(1),
        container_id=ContainerId("c1"),
        issued_at=now,
        deadline=now + timedelta(minutes=1),
    )


async def nothing(_: Command) -> None:
    """Obey by doing nothing."""


async def make_streams(url: str) -> None:
    async with await nats.connect(url) as client:
        js = client.jetstream()
        await js.add_stream(StreamConfig(name=subjects.REPORTS_STREAM, subjects=[subjects.REPORTS_ALL]))
        await js.add_stream(
            StreamConfig(
                name=subjects.COMMANDS_STREAM,
                subjects=[subjects.COMMANDS_ALL],
                retention=RetentionPolicy.WORK_QUEUE,
            )
        )


async def reports_in_stream(url: str, count: int) -> list[Report]:
    async with await nats.connect(url) as client:
        subscription = await client.jetstream().subscribe(subjects.REPORTS_ALL, ordered_consumer=True)
        return [wire.decode((await subscription.next_msg(timeout=20)).data, Report) for _ in range(count)]


@asynccontextmanager
async def running(bus: Bus, obey: Callable[[Command], Awaitable[None]] = nothing) -> AsyncIterator[Bus]:
    task = asyncio.create_task(bus.run(obey))
    try:
        yield bus
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal(tmp_path / "journal.sqlite3", node=NODE, worker_id=WorkerId("life-1"))
    yield opened
    opened.close()


@pytest.fixture
async def bus(nats_url: str, journal: Journal) -> Bus:
    return Bus(nats_url, NODE, journal, heartbeat=lambda: HEARTBEAT)


async def test_reports_arrive_in_the_order_in_which_they_were_written(
    bus: Bus, journal: Journal, nats_url: str
) -> None:
    await make_streams(nats_url)
    journal.report(*(ended(number) for number in range(1, 6)))
    async with running(bus):
        journal.report(*(ended(number) for number in range(6, 11)))
        assert await bus.flush(20)
    told = [report.event for report in await reports_in_stream(nats_url, 10)]
    assert told == [ended(number) for number in range(1, 11)]
    assert journal.outbox() == []
    assert journal.reports_sequence() == 10


async def test_a_report_sent_but_not_confirmed_before_a_crash_lies_in_the_stream_once(
    bus: Bus, journal: Journal, nats_url: str, tmp_path: Path
) -> None:
    await make_streams(nats_url)
    journal.report(ended(1), ended(2))
    (_, report), _ = journal.outbox()
    async with await nats.connect(nats_url) as client:
        headers = {"Nats-Msg-Id": str(report.report_id)}
        await client.jetstream().publish(subjects.reports(NODE), wire.encode(report), headers=headers)
    async with running(bus):
        assert await bus.flush(20)
    told = [told.event for told in await reports_in_stream(nats_url, 2)]
    assert told == [ended(1), ended(2)]


async def test_reports_wait_for_a_stream_that_is_made_late(bus: Bus, journal: Journal, nats_url: str) -> None:
    async with running(bus):
        journal.report(ended(1))
        assert not await bus.flush(1.0)
        await make_streams(nats_url)
        assert await bus.flush(20)
    assert [report.event for report in await reports_in_stream(nats_url, 1)] == [ended(1)]


async def test_a_command_published_before_the_worker_came_is_obeyed_and_then_gone(bus: Bus, nats_url: str) -> None:
    await make_streams(nats_url)
    obeyed: asyncio.Queue[Command] = asyncio.Queue()
    async with await nats.connect(nats_url) as client:
        js = client.jetstream()
        await js.publish(subjects.commands(NODE), wire.encode(command("one")))
        async with running(bus, obeyed.put):
            assert (await asyncio.wait_for(obeyed.get(), 20)).command_id == "one"

            async def all_acknowledged() -> bool:
                return not (await js.stream_info(subjects.COMMANDS_STREAM)).state.messages

            await eventually(all_acknowledged, saying="the command is acknowledged")


async def test_a_command_whose_worker_stopped_half_way_is_delivered_to_its_next_life(
    bus: Bus, journal: Journal, nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nodeworker.bus._ACK_WAIT_SECONDS", 1.0)
    await make_streams(nats_url)
    begun: asyncio.Queue[Command] = asyncio.Queue()

    async def never_end(taken: Command) -> None:
        await begun.put(taken)
        await asyncio.Event().wait()

    async with await nats.connect(nats_url) as client:
        await client.jetstream().publish(subjects.commands(NODE), wire.encode(command("one")))
    async with running(bus, never_end):
        await asyncio.wait_for(begun.get(), 20)
    again: asyncio.Queue[Command] = asyncio.Queue()
    async with running(Bus(nats_url, NODE, journal, heartbeat=lambda: HEARTBEAT), again.put):
        assert (await asyncio.wait_for(again.get(), 20)).command_id == "one"


async def test_a_command_that_cannot_be_read_does_not_stop_the_next_one(bus: Bus, nats_url: str) -> None:
    await make_streams(nats_url)
    obeyed: asyncio.Queue[Command] = asyncio.Queue()
    async with await nats.connect(nats_url) as client:
        js = client.jetstream()
        await js.publish(subjects.commands(NODE), b'{"kind":"dump","unheard_of":1}')
        await js.publish(subjects.commands(NODE), wire.encode(command("two")))
        async with running(bus, obeyed.put):
            assert (await asyncio.wait_for(obeyed.get(), 20)).command_id == "two"


async def test_commands_are_taken_after_their_stream_was_wiped_and_made_again(bus: Bus, nats_url: str) -> None:
    await make_streams(nats_url)
    obeyed: asyncio.Queue[Command] = asyncio.Queue()
    async with await nats.connect(nats_url) as client, running(bus, obeyed.put):
        js = client.jetstream()
        await js.publish(subjects.commands(NODE), wire.encode(command("one")))
        await asyncio.wait_for(obeyed.get(), 20)
        for name in (subjects.COMMANDS_STREAM, subjects.REPORTS_STREAM):
            await js.delete_stream(name)
        await make_streams(nats_url)
        await js.publish(subjects.commands(NODE), wire.encode(command("two")))
        assert (await asyncio.wait_for(obeyed.get(), 20)).command_id == "two"


def question(sequence: int) -> ResolveRequest:
    return ResolveRequest(
        KEY, ContainerId("c1"), NODE, WorkerId("life-1"), NodeFacts(), ContainerFacts(), reports_sequence=sequence
    )


async def test_a_question_is_asked_until_somebody_answers_and_names_the_last_report(
    bus: Bus, journal: Journal, nats_url: str
) -> None:
    await make_streams(nats_url)
    journal.report(ended(1), ended(2))
    cold = StartCold(incarnation=IncarnationNumber(1), reason="nothing is stored")
    asked: list[ResolveRequest] = []

    async def answer(message: Msg) -> None:
        asked.append(wire.decode(message.data, ResolveRequest))
        await message.respond(wire.encode(cold))

    async with running(bus), await nats.connect(nats_url) as client:
        pending = asyncio.create_task(bus.resolve(question))
        await asyncio.sleep(1.0)
        assert not pending.done()
        await client.subscribe(subjects.resolve(NODE), cb=answer)
        assert await asyncio.wait_for(pending, 30) == cold
    assert [request.reports_sequence for request in asked] == [2]


async def test_a_question_may_have_been_heard_once_somebody_listens_who_does_not_answer(
    journal: Journal, bus: Bus, nats_url: str
) -> None:
    await make_streams(nats_url)
    may_be_heard = asyncio.Event()

    async def silent(_message: Msg) -> None:
        pass

    async with running(bus), await nats.connect(nats_url) as client:
        pending = asyncio.create_task(bus.resolve(question, may_be_heard))
        await asyncio.sleep(2.0)
        assert not may_be_heard.is_set(), "nobody listens"
        await client.subscribe(subjects.resolve(NODE), cb=silent)
        await asyncio.wait_for(may_be_heard.wait(), 20)
        pending.cancel()


async def test_signs_of_life_are_given_while_connected(bus: Bus, nats_url: str) -> None:
    async with await nats.connect(nats_url) as client:
        subscription = await client.subscribe(subjects.HEARTBEATS_ALL)
        async with running(bus):
            message = await subscription.next_msg(timeout=20)
    assert wire.decode(message.data, Heartbeat) == HEARTBEAT
