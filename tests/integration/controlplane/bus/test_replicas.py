"""Three real servers: every stream gets its copies, and goes on when a server dies."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client
from support.servers import NATS_SERVER, ControlPlaneProcess
from support.worker import Worker, audit_follows_the_log, eventually

from woodfrog.protocol import subjects
from woodfrog.service.nats import connect

_STREAMS = (subjects.REPORTS_STREAM, subjects.PODS_STREAM, subjects.COMMANDS_STREAM, subjects.AUDIT_STREAM)

pytestmark = [pytest.mark.nats, pytest.mark.timeout(240)]


def free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        return [held.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(count)]


class Servers:
    """Three servers of one cluster, or the first of them alone, each with files of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.more = ""
        """More configuration, for each of them."""
        self._routes = free_ports(3)
        self._ports = free_ports(3)
        self.urls = [f"nats://127.0.0.1:{port}" for port in self._ports]
        self._running: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, place: int, *, alone: bool = False) -> None:
        """Start one of them."""
        config = self._folder / f"{place}.conf"
        store = f'jetstream {{ store_dir: "{self._folder / str(place)}" }}'
        text = f'server_name: s{place}\nlisten: "127.0.0.1:{self._ports[place]}"\n{store}\n{self.more}\n'
        if not alone:
            peers = ", ".join(f'"nats://127.0.0.1:{each}"' for each in self._routes)
            text += f'cluster {{ name: c, listen: "127.0.0.1:{self._routes[place]}", routes: [{peers}] }}\n'
        config.write_text(text)
        with (self._folder / f"{place}.log").open("ab") as log:
            self._running[place] = subprocess.Popen([NATS_SERVER, "-c", config], stdout=log, stderr=log)

    def kill(self, place: int) -> None:
        """Kill one of them."""
        process = self._running.pop(place)
        process.kill()
        process.wait(10)

    def close(self) -> None:
        """Kill all that run."""
        for place in list(self._running):
            self.kill(place)


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    found = Servers(tmp_path)
    yield found
    found.close()


async def copied(client: Client, to: int) -> bool:
    """Whether every stream and consumer is led by somebody, and ``to`` other servers hold all that the leader holds."""
    jetstream = client.jetstream()
    found = [
        one
        for stream in _STREAMS
        for one in [await jetstream.stream_info(stream), *await jetstream.consumers_info(stream)]
    ]
    groups = [one.cluster for one in found if one.cluster is not None]
    followers = [[peer for peer in group.replicas or [] if peer.current and not peer.offline] for group in groups]
    return all(group.leader for group in groups) and {len(each) for each in followers} == {to}


async def test_streams_get_three_copies_and_outlive_a_server_with_all_that_they_held(
    servers: Servers, tmp_path: Path
) -> None:
    for place in range(3):
        servers.start(place)
    _, second, third = servers.urls
    plane = ControlPlaneProcess(tmp_path, second, WOODFROG_STREAM_REPLICAS="3", WOODFROG_NODE_LOST_SECONDS="600")
    try:
        await asyncio.to_thread(plane.start)
        async with await nats.connect(third) as client:
            worker = Worker(client)
            await worker.register()

            await eventually(lambda: copied(client, to=2), saying="every stream has its copies", seconds=60)
            await audit_follows_the_log(client, 1)
            servers.kill(0)
            await eventually(lambda: copied(client, to=1), saying="the others lead on", seconds=60)
            await worker.run_container("a")
            await audit_follows_the_log(client, 3)
    finally:
        plane.close()


async def test_a_server_that_gets_two_beside_it_keeps_its_disk_and_the_log_fills_all_three(
    servers: Servers, tmp_path: Path
) -> None:
    servers.start(0, alone=True)
    first, second, _ = servers.urls
    plane = ControlPlaneProcess(tmp_path, first, WOODFROG_NODE_LOST_SECONDS="600")
    try:
        await asyncio.to_thread(plane.start)
        async with await nats.connect(first) as client:
            worker = Worker(client)
            await worker.register()
            await worker.run_container("a")
            await audit_follows_the_log(client, 4)
    finally:
        plane.close()
    servers.kill(0)
    for place in range(3):
        servers.start(place)
    plane = ControlPlaneProcess(tmp_path, second, WOODFROG_STREAM_REPLICAS="3", WOODFROG_NODE_LOST_SECONDS="600")
    try:
        await asyncio.to_thread(plane.start)
        async with await nats.connect(first) as client:
            await eventually(lambda: copied(client, to=2), saying="every stream has its copies", seconds=60)
            await audit_follows_the_log(client, 4)
    finally:
        plane.close()


async def test_whoever_has_a_password_is_let_in_by_servers_that_it_only_heard_of(servers: Servers) -> None:
    servers.more = "authorization { user: control, password: secret }"
    for place in range(3):
        servers.start(place)
    client = await connect(servers.urls[0].replace("//", "//control:secret@"), name="test")
    try:

        async def knows_the_others() -> bool:
            return len(client.discovered_servers) >= 2  # its own is among them, without the password

        async def is_with_another() -> bool:
            return client.is_connected and client.connected_url is not None and client.connected_url.netloc != first

        await eventually(knows_the_others, saying="it has heard of the other servers", seconds=30)
        assert client.connected_url is not None
        first = client.connected_url.netloc
        servers.kill(0)
        await eventually(is_with_another, saying="another server lets it in", seconds=15)
    finally:
        await client.close()
