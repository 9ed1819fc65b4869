"""The relay killed a hundred times, and its broker every tenth: AUDIT holds every event once and in order."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client
from nats.js.api import ConsumerConfig, DeliverPolicy
from support.logstory import KEY, NODE_A, ONE, START, new
from support.servers import NatsServer

from controlplane.bus.relay import Relay
from controlplane.bus.streams import ensure_streams
from controlplane.core.watermark import Watermark
from controlplane.log import EventLog
from controlplane.log.admin.migrate import upgrade
from controlplane.log.records import NewEvent
from woodfrog.protocol import subjects
from woodfrog.protocol.commands import DumpCommand
from woodfrog.protocol.events import CommandIssued, StartDeferred
from woodfrog.protocol.ids import CommandId, ContainerId, Position
from woodfrog.service.nats import connect

pytestmark = [pytest.mark.nats, pytest.mark.long, pytest.mark.timeout(400)]

EVENTS = 50_000
KILLS = 100
COMMAND_EVERY = 100


def issued(number: int) -> CommandIssued:
    command = DumpCommand(
        command_id=CommandId(f"command-{number}"), node=NODE_A, key=KEY, incarnation=ONE,
        container_id=ContainerId("c1"), issued_at=START, deadline=START + timedelta(days=9),
    )  # fmt: skip
    return CommandIssued(key=KEY, incarnation=ONE, command=command)


def event(number: int) -> NewEvent:
    """Every hundredth event is a command."""
    if number % COMMAND_EVERY == 0:
        return new(issued(number))
    return new(StartDeferred(key=KEY, incarnation=ONE, waiting_for=f"event {number}", until=START))


async def until(what: Callable[[], Awaitable[bool]], seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while not await what():  # noqa: ASYNC110 -- another process is waited for
            await asyncio.sleep(0.01)


async def _relay(database: str, url: str) -> None:
    log = await EventLog.open(database)
    committed = Watermark()
    commands = {one.command.command_id: one.command for one in map(issued, range(0, EVENTS, COMMAND_EVERY))}
    await committed.set(Position(EVENTS))
    client = await connect(url, name="relay")
    await Relay(
        client.jetstream(timeout=5),
        log,
        committed=committed,
        open_commands=commands,
        nodes=dict,
        cluster="local",
        check_lease=lambda: None,
    ).run()


def relay(database: str, url: str) -> None:
    """One life of a relay."""
    asyncio.run(_relay(database, url))


async def held(client: Client) -> int:
    return int((await client.jetstream().stream_info(subjects.AUDIT_STREAM)).state.last_seq)


async def messages(client: Client, stream: str, count: int) -> Sequence[Any]:
    jetstream = client.jetstream()
    name = f"reader-{stream}"
    subscription = await jetstream.pull_subscribe(
        "", durable=name, stream=stream, config=ConsumerConfig(deliver_policy=DeliverPolicy.ALL, max_ack_pending=-1)
    )
    found: list[Any] = []
    while len(found) < count:
        found += await subscription.fetch(min(1000, count - len(found)), timeout=10)
    return found


def begun(lives: ForkServerContext, database: str, url: str) -> ForkServerProcess:
    process = lives.Process(target=relay, args=(database, url), daemon=True)  # pytest's end waits for no other
    process.start()
    return process


async def kill_again_and_again(client: Client, broker: NatsServer, lives: ForkServerContext, database: str) -> int:
    """Let a relay live until it came a little further, a hundred times; answer at how many places it was killed."""
    chance = random.Random(3)
    places = set[int]()
    for kill in range(1, KILLS + 1):
        process = begun(lives, database, broker.url)
        wanted = min(max(EVENTS * kill // (KILLS + 5), await held(client) + 1), EVENTS)

        async def further(wanted: int = wanted) -> bool:
            return await held(client) >= wanted

        await until(further, 30)
        await asyncio.sleep(chance.uniform(0.0, 0.02))
        if kill % 10 == 0:
            broker.kill()
        process.kill()
        await asyncio.to_thread(process.join, 10)
        if kill % 10 == 0:
            await asyncio.to_thread(broker.start)

        async def connected() -> bool:
            return client.is_connected

        await until(connected, 20)
        places.add(await held(client))
    process = begun(lives, database, broker.url)

    async def all_there() -> bool:
        return await held(client) >= EVENTS

    await until(all_there, 60)
    process.kill()
    await asyncio.to_thread(process.join, 10)
    return len(places)


@pytest.mark.parametrize("window_seconds", [0.1, 120.0])
async def test_a_relay_killed_a_hundred_times_leaves_no_gap_and_no_repetition(
    tmp_path: Path, window_seconds: float
) -> None:
    database = f"sqlite+aiosqlite:///{tmp_path}/log.db"
    await upgrade(database)
    log = await EventLog.open(database)
    epoch = await log.take_lead()
    expected: list[str] = []
    for first in range(0, EVENTS, 1000):
        batch = [event(number) for number in range(first, first + 1000)]
        expected += [str(one.event_id) for one in await log.append(batch, epoch=epoch)]
    await log.close()
    broker = NatsServer(tmp_path / "nats")
    broker.start()
    client = await connect(broker.url, name="test")
    lives = multiprocessing.get_context("forkserver")
    lives.set_forkserver_preload(["controlplane.bus.relay", "controlplane.log", "woodfrog.service.nats"])
    try:
        jetstream = client.jetstream(timeout=5)
        await ensure_streams(jetstream)
        for stream in (subjects.AUDIT_STREAM, subjects.COMMANDS_STREAM):
            configuration = (await jetstream.stream_info(stream)).config
            configuration.duplicate_window = window_seconds
            await jetstream.update_stream(configuration)
        places = await kill_again_and_again(client, broker, lives, database)
        audit = await messages(client, subjects.AUDIT_STREAM, EVENTS)
        assert [message.headers["Nats-Msg-Id"] for message in audit] == expected
        assert [int(message.headers[subjects.POSITION_HEADER]) for message in audit] == list(range(1, EVENTS + 1))
        count = EVENTS // COMMAND_EVERY
        assert (await jetstream.stream_info(subjects.COMMANDS_STREAM)).state.last_seq == count
        commands = await messages(client, subjects.COMMANDS_STREAM, count)
        assert [message.headers["Nats-Msg-Id"] for message in commands] == [
            f"command-{number}" for number in range(0, EVENTS, COMMAND_EVERY)
        ]
        state = (await jetstream.stream_info(subjects.AUDIT_STREAM)).state
        assert (state.first_seq, state.last_seq, state.messages) == (1, EVENTS, EVENTS)
        print(f"{EVENTS} events, {KILLS} kills at {places} places, window {window_seconds} s")
        assert places > KILLS // 2
    finally:
        await client.close()
        broker.close()
