"""A broker that is away for a minute, or turns its control plane away: nobody dies of it, and all goes on when it is back."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from nats.aio.client import Client
from support.isolated import IsolatedServer
from support.proxy import Proxy
from support.servers import ControlPlaneProcess, NatsServer
from support.tokens import NAMESPACE, SERVICE_ACCOUNT, TokenApi
from support.worker import FACTS, KEY, Worker, audit_follows_the_log, checkpoint, query, snapshot_name

from controlplane.kube.api import kubernetes
from controlplane.kube.authcallout import AuthCallout
from controlplane.kube.token_review import NodeWorkers
from nodeworker.bus import Bus
from nodeworker.journal import Journal
from woodfrog.isolation import CALLOUT
from woodfrog.protocol.commands import Command
from woodfrog.protocol.events import NodeRegistered
from woodfrog.protocol.ids import NodeName, WorkerId
from woodfrog.protocol.reports import Heartbeat
from woodfrog.protocol.requests import RestoreFrom
from woodfrog.service.nats import connect

pytestmark = [pytest.mark.nats, pytest.mark.timeout(180)]

AWAY_SECONDS = 60
"""As long as a node without power is away before its pods are somewhere else."""


@pytest.mark.long
@pytest.mark.parametrize("way", ["killed", "silent", "wiped"])
async def test_a_control_plane_outlives_a_broker_that_is_away_for_a_minute(
    client: Client, nats_server: NatsServer, control_plane: ControlPlaneProcess, way: str
) -> None:
    worker = Worker(client)
    await worker.register()
    await worker.run_container("c1")
    await worker.say(*worker.snapshot(snapshot_name(1)))
    await worker.taken_in()
    if way == "silent":
        nats_server.signal(signal.SIGSTOP)
    else:
        nats_server.kill()
    await asyncio.sleep(AWAY_SECONDS)
    if way == "silent":
        nats_server.signal(signal.SIGCONT)
    else:
        if way == "wiped":
            nats_server.wipe()
        await asyncio.to_thread(nats_server.start)
    await worker.say(*worker.snapshot(snapshot_name(2), final=True))
    answer = await worker.resolve("c2")
    assert isinstance(answer, RestoreFrom)
    assert answer.snapshot_id == snapshot_name(2)
    await worker.run_container("c3")
    await checkpoint(client)
    events = await query(client, "events", key=KEY, limit=1000)
    await audit_follows_the_log(client, len(events))
    assert control_plane.lines("leading") == control_plane.lines("leading")[:1], "the lead was never given up"
    assert control_plane.stop() == 0


async def test_a_connection_that_the_server_ends_for_a_reason_is_made_anew_with_its_subscriptions(
    client: Client, nats_url: str
) -> None:
    connection = await connect(nats_url, name="broken off")
    try:
        subscription = await connection.subscribe("news")
        waiting = asyncio.create_task(subscription.next_msg(30))
        await connection._send_command(b"NO SUCH WORD\r\n", priority=True)  # answered with -ERR, and the end
        await connection._flush_pending()
        await asyncio.sleep(2)
        while not waiting.done():
            await client.publish("news", b"all is well")
            await asyncio.sleep(0.2)
        assert (await waiting).data == b"all is well"
    finally:
        await connection.close()


@pytest.fixture
async def isolated(tmp_path: Path) -> AsyncIterator[IsolatedServer]:
    server = IsolatedServer(tmp_path, "node.a")
    yield server
    await server.close()


async def _shut_out(server: IsolatedServer, users: str) -> None:
    """Take users away for some seconds: what a server does to whoever is connected when its configuration changes."""
    file = server.isolation.directory / users
    before = file.read_text()
    file.write_text("users = []\n")
    await asyncio.to_thread(server.reload)
    await asyncio.sleep(3)
    file.write_text(before)
    await asyncio.to_thread(server.reload)


async def test_a_control_plane_that_its_broker_turned_away_for_a_while_goes_on_with_the_same_lead(
    isolated: IsolatedServer, tmp_path: Path
) -> None:
    plane = ControlPlaneProcess(tmp_path, isolated.url, WOODFROG_NATS_SEED_FILE=str(isolated.control_seed))
    try:
        await asyncio.to_thread(plane.start)
        await _shut_out(isolated, "control.conf")
        control = await isolated.as_control()
        worker = Worker(control)
        await worker.register()
        await worker.run_container("c1")
        await worker.say(*worker.snapshot(snapshot_name(1)))
        await worker.taken_in()
        events = await query(control, "events", limit=1000)
        await audit_follows_the_log(control, len(events))
        assert len(plane.lines("leading")) == 1
        assert plane.lines("nats reconnected")
        assert await asyncio.to_thread(plane.stop) == 0
    finally:
        plane.close()


async def test_a_worker_that_its_broker_turned_away_for_a_while_reports_again(
    isolated: IsolatedServer, tmp_path: Path
) -> None:
    node, worker_id = NodeName("node.a"), WorkerId("life-1")
    plane = ControlPlaneProcess(tmp_path, isolated.url, WOODFROG_NATS_SEED_FILE=str(isolated.control_seed))
    journal = Journal(tmp_path / "journal.sqlite3", node=node, worker_id=worker_id)
    bus = Bus(
        isolated.url, node, journal,
        heartbeat=lambda: Heartbeat(node, worker_id, "boot", FACTS), **isolated.credentials(node),
    )  # fmt: skip

    async def obey(_: Command) -> None:
        raise AssertionError("nobody commands it")

    running = asyncio.create_task(bus.run(obey))
    try:
        await asyncio.to_thread(plane.start)
        journal.report(NodeRegistered(node=node, worker_id=worker_id, boot_id="boot", facts=FACTS))
        assert await bus.flush(20)
        await _shut_out(isolated, "nodes.conf")
        journal.report(NodeRegistered(node=node, worker_id=worker_id, boot_id="boot", facts=FACTS))
        assert await bus.flush(20)
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        journal.close()
        plane.close()


async def test_who_lets_nodes_in_outlives_a_broker_that_greets_and_falls_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    greeted, gone = asyncio.Event(), asyncio.Event()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"INFO " + json.dumps({"max_payload": 1 << 20, "headers": True}).encode() + b"\r\n")
        while await reader.readline() != b"PING\r\n":
            pass
        writer.write(b"PONG\r\n")
        greeted.set()
        await gone.wait()
        writer.close()

    async with TokenApi(tmp_path) as api:
        monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig))
        server = IsolatedServer(tmp_path, "node.a", mode="tokens", kubernetes=api)
        half_dead = await asyncio.start_server(greet, "127.0.0.1", 0)
        port = half_dead.sockets[0].getsockname()[1]
        async with kubernetes() as connection:
            workers = NodeWorkers(connection, namespace=NAMESPACE, service_account=SERVICE_ACCOUNT)
            url = f"nats://127.0.0.1:{port}"
            callout = AuthCallout(url, server.isolation.seed_file(CALLOUT).parent, workers)
            running = asyncio.create_task(callout.run())
            try:
                await asyncio.wait_for(greeted.wait(), 20)
                await asyncio.wait_for(callout.listening.wait(), 30)
                whole = Proxy(int(server.url.rpartition(":")[2]))
                whole.port = port
                half_dead.close()
                gone.set()
                async with whole.listening():
                    client = await asyncio.wait_for(server.as_node("node.a"), 30)
                    assert client.is_connected
                assert not running.done()
            finally:
                running.cancel()
                with suppress(asyncio.CancelledError):
                    await running
                await server.close()
