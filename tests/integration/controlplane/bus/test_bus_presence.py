"""Signs of life: a silent node is lost and nobody waits for it, and a control plane that cannot hear blames nobody."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from nats.aio.client import Client
from support.servers import ControlPlaneProcess, NatsServer
from support.worker import KEY, Worker, ask, audit_follows_the_log, checkpoint, eventually, query, snapshot_name

from woodfrog.protocol import subjects
from woodfrog.protocol.requests import CheckpointRequest, CommandAccepted, Refusal, RestoreFrom, WaitFor

pytestmark = pytest.mark.nats

LOST_SECONDS = 3


@pytest.fixture
def control_plane(make_control_plane: Callable[..., ControlPlaneProcess]) -> ControlPlaneProcess:
    process = make_control_plane(WOODFROG_NODE_LOST_SECONDS=str(LOST_SECONDS))
    process.start()
    return process


@asynccontextmanager
async def beating(*workers: Worker) -> AsyncIterator[None]:
    async def beat() -> None:
        while True:
            for worker in workers:
                await worker.heartbeat()
            await asyncio.sleep(0.2)

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()


async def node_events(client: Client) -> list[tuple[str, str]]:
    rows = await query(client, "events", limit=10_000)
    return [(row["type"], row["data"]["node"]) for row in rows if row["type"].startswith("node.")]


async def until_event(client: Client, event_type: str) -> None:
    async def there() -> Any:
        return any(kind == event_type for kind, _ in await node_events(client))

    await eventually(there, saying=f"{event_type} is recorded")


async def test_a_start_waits_for_a_dump_in_flight_until_its_node_is_lost(
    client: Client, control_plane: ControlPlaneProcess
) -> None:
    dying, other = Worker(client, "dying"), Worker(client, "other")
    async with beating(other):
        async with beating(dying):
            await dying.register()
            await other.register()
            await dying.run_container("c1")
            await dying.say(*dying.snapshot(snapshot_name(1)), dying.dump_started(snapshot_name(2), final=True))
            await dying.taken_in()
            assert isinstance(await other.resolve("c2"), WaitFor)
        await until_event(client, "node.lost")
        answer = await other.resolve("c2")
        assert isinstance(answer, RestoreFrom), answer
        assert answer.snapshot_id == snapshot_name(1)
        assert ("node.lost", "other") not in await node_events(client)
        await audit_follows_the_log(client)


async def test_a_lost_node_that_is_heard_of_again_returns(client: Client, control_plane: ControlPlaneProcess) -> None:
    worker = Worker(client)
    await worker.register()
    await until_event(client, "node.lost")
    async with beating(worker):
        await until_event(client, "node.returned")
        await worker.run_container("c1")
        await checkpoint(client)
    assert [kind for kind, _ in await node_events(client)][:3] == ["node.registered", "node.lost", "node.returned"]


async def test_a_worker_that_registered_with_a_log_that_was_lost_is_registered_by_its_signs_of_life(
    client: Client, control_plane: ControlPlaneProcess
) -> None:
    worker = Worker(client)
    async with beating(worker):
        await until_event(client, "node.registered")
        await worker.run_container("c1")
        await checkpoint(client)
    assert [kind for kind, _ in await node_events(client)] == ["node.registered"]


async def test_a_worker_that_fell_silent_while_the_control_plane_was_down_is_lost_after_its_return(
    client: Client, control_plane: ControlPlaneProcess
) -> None:
    worker = Worker(client)
    await worker.register()
    await worker.taken_in()
    control_plane.signal(signal.SIGKILL)
    control_plane.wait()
    control_plane.start()
    await until_event(client, "node.lost")


async def test_a_control_plane_cut_off_from_its_broker_declares_nobody_lost(
    client: Client, control_plane: ControlPlaneProcess, nats_server: NatsServer
) -> None:
    worker = Worker(client)
    await worker.register()
    async with beating(worker):
        await worker.taken_in()
        await asyncio.sleep(LOST_SECONDS / 2)
    nats_server.kill()
    await asyncio.sleep(LOST_SECONDS + 2)
    await asyncio.to_thread(nats_server.start)
    await asyncio.sleep(LOST_SECONDS / 2)  # the worker, too, takes its time to come back
    async with beating(worker):
        await asyncio.sleep(LOST_SECONDS / 2)
        assert await node_events(client) == [("node.registered", worker.node)]


async def test_a_control_plane_that_was_stopped_for_a_while_declares_nobody_lost(
    client: Client, control_plane: ControlPlaneProcess
) -> None:
    worker = Worker(client)
    await worker.register()
    async with beating(worker):
        await worker.taken_in()
        await asyncio.sleep(LOST_SECONDS / 2)
    control_plane.signal(signal.SIGSTOP)
    await asyncio.sleep(LOST_SECONDS + 2)
    control_plane.signal(signal.SIGCONT)
    await asyncio.sleep(LOST_SECONDS / 2)
    async with beating(worker):
        await asyncio.sleep(LOST_SECONDS / 2)
        assert await node_events(client) == [("node.registered", worker.node)]


async def test_a_heartbeat_that_is_nonsense_or_speaks_for_another_node_is_refused(
    client: Client, control_plane: ControlPlaneProcess
) -> None:
    worker = Worker(client)
    await worker.register()
    async with beating(worker):
        await client.publish(subjects.heartbeats(worker.node), b"nonsense")
        impostor = Worker(client, "impostor")
        impostor.node = worker.node
        await client.publish(f"{subjects.PREFIX}.heartbeats.impostor", b"{}")
        await eventually(
            lambda: asyncio.to_thread(lambda: len(control_plane.lines("heartbeat refused")) == 2),
            saying="both are refused",
        )
        assert [kind for kind, _ in await node_events(client)] == ["node.registered"]


async def test_a_command_past_its_deadline_expires(client: Client, control_plane: ControlPlaneProcess) -> None:
    worker = Worker(client)
    async with beating(worker):
        await worker.register()
        await worker.run_container("c1")
        accepted = await ask(
            client, subjects.CHECKPOINT, CheckpointRequest(key=KEY, timeout_seconds=1.0), CommandAccepted | Refusal
        )
        assert isinstance(accepted, CommandAccepted)

        async def expired() -> bool:
            (row,) = await query(client, "commands", command_id=accepted.command_id)
            return bool(row["status"] == "expired")

        await eventually(expired, saying="the command expires")
