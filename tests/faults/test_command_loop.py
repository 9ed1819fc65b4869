"""Commands from end to end while everything is killed, cut off, wiped and lied to: one end each, and no dump twice."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import pytest
from nats.aio.client import Client
from support.fake_worker import FakeWorkerProcess, key_of
from support.proxy import Proxy
from support.servers import ControlPlaneProcess, NatsServer
from support.worker import ask, audit_follows_the_log, eventually, query, stored_messages

from woodfrog.protocol import subjects, wire
from woodfrog.protocol.requests import CheckpointRequest, CommandAccepted, Refusal

pytestmark = [pytest.mark.nats, pytest.mark.timeout(120)]

MakeWorker = Callable[..., FakeWorkerProcess]
LOOP_SECONDS = 120.0
COMMANDS = 500
CONTAINERS = 10
LEAST_KILLS = 5


async def asked(client: Client, node: str, number: int, timeout_seconds: float = 45.0) -> str:
    """Ask for a dump until it is accepted; a container whose node is away for a moment is asked for again."""
    async with asyncio.timeout(60):
        while True:
            request = CheckpointRequest(key=key_of(node, number), timeout_seconds=timeout_seconds)
            answer: Any = await ask(client, subjects.CHECKPOINT, request, CommandAccepted | Refusal)
            if isinstance(answer, CommandAccepted):
                return answer.command_id
            assert answer.failure.code not in {"malformed-request", "internal-error"}, answer
            await asyncio.sleep(0.1)


async def ended(client: Client, command_id: str, seconds: float = 30.0) -> str:
    async def status() -> str:
        (row,) = await query(client, "commands", command_id=command_id)  # type: ignore[arg-type]
        return "" if row["status"] == "open" else str(row["status"])

    return str(await eventually(status, saying=f"{command_id} has its end", seconds=seconds))


async def node_status(client: Client, node: str) -> str:
    return next((str(row["status"]) for row in await query(client, "nodes") if row["node"] == node), "")


@pytest.mark.long
@pytest.mark.timeout(400)
async def test_every_command_ends_once_and_is_carried_out_once_while_everything_is_killed(
    asker: Client, broker: NatsServer, plane: ControlPlaneProcess, make_worker: MakeWorker
) -> None:
    """Killed at random for two minutes: the control plane and both workers. 500 commands, one end each, no effect twice."""
    chance = random.Random(4)
    workers = [make_worker(node, broker.url, CONTAINERS) for node in ("node-1", "node-2")]
    kills: Counter[str] = Counter()
    ids: list[str] = []
    pace = LOOP_SECONDS * 2 * CONTAINERS / COMMANDS

    async def order(node: str, number: int) -> None:
        for _ in range(COMMANDS // (2 * CONTAINERS)):
            command = await asked(asker, node, number)
            ids.append(command)
            await asyncio.sleep(chance.uniform(0.3, 1.0) * pace)
            await ended(asker, command, 60)

    async def kill(until: float) -> None:
        while asyncio.get_running_loop().time() < until:
            await asyncio.sleep(chance.uniform(0.5, 3.0))
            victim = chance.choice((plane, *workers))
            if isinstance(victim, FakeWorkerProcess):
                victim.kill()
                await asyncio.sleep(chance.uniform(0.0, 1.0))
                victim.start()
                kills[victim.node] += 1
            else:
                victim.close()
                await asyncio.to_thread(victim.start)
                kills["control plane"] += 1

    async with asyncio.TaskGroup() as group:
        group.create_task(kill(asyncio.get_running_loop().time() + LOOP_SECONDS))
        for node in ("node-1", "node-2"):
            for number in range(CONTAINERS):
                group.create_task(order(node, number))
    with closing(sqlite3.connect(f"file:{plane.database}?mode=ro", uri=True)) as log:
        rows = log.execute("SELECT position, event_id, type, data FROM events ORDER BY position").fetchall()

    async def level() -> bool:
        return (await asker.jetstream().stream_info(subjects.AUDIT_STREAM)).state.last_seq >= len(rows)

    await eventually(level, saying="AUDIT holds the log")
    audit = await stored_messages(asker, subjects.AUDIT_STREAM)
    assert [(message.seq, (message.headers or {})["ce-id"]) for message in audit] == [
        (position, str(UUID(event))) for position, event, _, _ in rows
    ]
    finished = [json.loads(data) for _, _, kind, data in rows if kind == "command.finished"]
    ends = Counter(one["command_id"] for one in finished)
    outcomes = {one["command_id"]: one["outcome"] for one in finished}
    # Somebody whose answer was lost asks again, so more commands than answers may have been issued.
    issued = [json.loads(data)["command"]["command_id"] for _, _, kind, data in rows if kind == "command.issued"]
    effects = {command: workers[0].effect(command) for command in issued}
    print(f"{len(issued)} commands, kills {dict(kills)}, outcomes {Counter(outcomes.values())}, {len(rows)} events")
    assert len(set(ids)) == COMMANDS
    assert set(ids) <= set(issued)
    assert ends == dict.fromkeys(issued, 1)
    assert max(effects.values()) == 1
    assert [command for command in issued if outcomes[command] == "succeeded" and effects[command] != 1] == []
    assert Counter(outcomes.values())["succeeded"] > COMMANDS * 0.8
    assert min(kills[name] for name in ("control plane", "node-1", "node-2")) >= LEAST_KILLS


async def test_workers_go_on_within_half_a_minute_after_the_broker_was_wiped_under_them(
    asker: Client, broker: NatsServer, plane: ControlPlaneProcess, make_worker: MakeWorker
) -> None:
    worker = make_worker("node-1", broker.url, 2)
    ids = [await asked(asker, "node-1", 0)]
    assert await ended(asker, ids[0]) == "succeeded"
    for _ in range(2):
        ids.append(await asked(asker, "node-1", 1, 60.0))
        broker.kill()
        broker.wipe()
        await asyncio.to_thread(broker.start)
        ids.append(await asked(asker, "node-1", 0))
        assert await ended(asker, ids[-1], 30.0) == "succeeded"
        assert await ended(asker, ids[-2], 70.0) in {"succeeded", "expired"}  # its last word may have been wiped
        await audit_follows_the_log(asker)
    assert [worker.effect(command) for command in ids] == [1] * len(ids)


Harm = Callable[[Proxy], None]
CUTS: dict[str, Harm] = {
    "both ways": lambda proxy: proxy.cut(),
    "what the worker says": lambda proxy: proxy.cut(back=False),
}


@pytest.mark.long
@pytest.mark.parametrize("cut", CUTS)
async def test_a_worker_that_is_cut_off_is_told_lost_in_20_s_heals_in_10_s_and_dumps_nothing_twice(
    asker: Client, broker: NatsServer, plane: ControlPlaneProcess, make_worker: MakeWorker, cut: str
) -> None:
    proxy = Proxy(urlsplit(broker.url).port or 0)
    async with proxy.listening() as url:
        worker = make_worker("node-1", url, 2)
        ids = [await asked(asker, "node-1", 0)]
        assert await ended(asker, ids[0]) == "succeeded"
        CUTS[cut](proxy)
        ids.append(await asked(asker, "node-1", 1, 120.0))
        await _becomes(asker, "lost", 20.0)
        proxy.heal()
        await _becomes(asker, "ready", 10.0)
        assert await ended(asker, ids[1], 40.0) == "succeeded"
        ids.append(await asked(asker, "node-1", 0))
        assert await ended(asker, ids[2], 10.0) == "succeeded"
        assert [worker.effect(command) for command in ids] == [1, 1, 1]
        await audit_follows_the_log(asker)


async def test_a_worker_that_cannot_hear_still_tells_and_dumps_nothing_twice(
    asker: Client, broker: NatsServer, plane: ControlPlaneProcess, make_worker: MakeWorker
) -> None:
    proxy = Proxy(urlsplit(broker.url).port or 0)
    async with proxy.listening() as url:
        worker = make_worker("node-1", url, 1)
        assert await ended(asker, await asked(asker, "node-1", 0)) == "succeeded"
        proxy.cut(there=False)
        waiting = await asked(asker, "node-1", 0, 100.0)
        await asyncio.sleep(8)
        assert worker.effect(waiting) == 0
        assert await node_status(asker, "node-1") != "lost"
        proxy.heal()
        assert await ended(asker, waiting, 40.0) == "succeeded"
        assert worker.effect(waiting) == 1
        await audit_follows_the_log(asker)


SLOW: dict[str, Harm] = {
    "half a second late": lambda proxy: setattr(proxy, "delay_seconds", 0.5),
    "two kilobytes a second": lambda proxy: setattr(proxy, "bytes_per_second", 2048),
}


@pytest.mark.parametrize("slow", SLOW)
async def test_a_slow_wire_loses_no_node_and_dumps_nothing_twice(
    asker: Client, broker: NatsServer, plane: ControlPlaneProcess, make_worker: MakeWorker, slow: str
) -> None:
    proxy = Proxy(urlsplit(broker.url).port or 0)
    async with proxy.listening() as url:
        worker = make_worker("node-1", url, 1)
        assert await ended(asker, await asked(asker, "node-1", 0)) == "succeeded"
        SLOW[slow](proxy)
        for _ in range(3):
            command = await asked(asker, "node-1", 0)
            assert await ended(asker, command, 30.0) == "succeeded"
            assert worker.effect(command) == 1
        assert "node.lost" not in {row["type"] for row in await query(asker, "events")}


async def test_poisoned_commands_run_nothing_and_keep_no_other_from_running(
    asker: Client, broker: NatsServer, plane: ControlPlaneProcess, make_worker: MakeWorker, tmp_path: Path
) -> None:
    worker = make_worker("node-1", broker.url, 1)
    first = await asked(asker, "node-1", 0)
    assert await ended(asker, first) == "succeeded"
    issued = next(row for row in await query(asker, "events") if row["type"] == "command.issued")
    genuine = issued["data"]["command"]
    jetstream = asker.jetstream()
    plane.close()  # the relay alone writes COMMANDS: it would notice that somebody else does
    poison: list[bytes] = [
        b"\xff\x00 not json",
        b"{}",
        b'{"stream":"COMMANDS","seq":1}',  # what the broker answers a publish with
        wire.encode({**genuine, "command_id": "newer", "kind": "dump-of-version-9"}),
        wire.encode({**genuine, "command_id": "stranger", "priority": "high"}),
        wire.encode({**genuine, "command_id": "huge", "container_id": "c" * 600_000}),
        wire.encode({**genuine, "command_id": "foreign", "container_id": "of-nobody"}),
    ]
    for data in poison:
        await jetstream.publish(subjects.commands("node-1"), data, stream=subjects.COMMANDS_STREAM)  # type: ignore[arg-type]

    async def taken() -> bool:
        return not (await jetstream.stream_info(subjects.COMMANDS_STREAM)).state.messages

    await eventually(taken, saying="all poison is put aside", seconds=30)
    assert sorted(path.name for path in worker.effects.iterdir()) == [first]
    await asyncio.to_thread(plane.start)
    second = await asked(asker, "node-1", 0)
    assert await ended(asker, second) == "succeeded"
    assert sorted(path.name for path in worker.effects.iterdir()) == sorted([first, second])


async def _becomes(client: Client, status: str, seconds: float) -> None:
    async def seen() -> bool:
        return await node_status(client, "node-1") == status

    _: Awaitable[Any] = await eventually(seen, saying=f"the node is {status}", seconds=seconds)
