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

from protocol import subjects

_STREAMS = (subjects.REPORTS_STREAM, subjects.PODS_STREAM, subjects.COMMANDS_STREAM, subjects.AUDIT_STREAM)

pytestmark = [pytest.mark.nats, pytest.mark.timeout(240)]


def free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        return [held.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(count)]


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """The servers by their URLs."""
    clients, routes = free_ports(3), free_ports(3)
    running = {}
    for place, (port, route) in enumerate(zip(clients, routes, strict=True)):
        config = tmp_path / f"{place}.conf"
        peers = ", ".join(f'"nats://127.0.0.1:{each}"' for each in routes)
        config.write_text(
            f'server_name: s{place}\nlisten: "127.0.0.1:{port}"\njetstream {{ store_dir: "{tmp_path / str(place)}" }}\n'
            f'cluster {{ name: c, listen: "127.0.0.1:{route}", routes: [{peers}] }}\n'
        )
        with (tmp_path / f"{place}.log").open("wb") as log:
            running[f"nats://127.0.0.1:{port}"] = subprocess.Popen([NATS_SERVER, "-c", config], stdout=log, stderr=log)
    try:
        yield running
    finally:
        for process in running.values():
            process.kill()
            process.wait(10)


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
    servers: dict[str, subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    first, second, third = servers
    plane = ControlPlaneProcess(tmp_path, second, WOODFROG_STREAM_REPLICAS="3", WOODFROG_NODE_LOST_SECONDS="600")
    try:
        await asyncio.to_thread(plane.start)
        async with await nats.connect(third) as client:
            worker = Worker(client)
            await worker.register()

            await eventually(lambda: copied(client, to=2), saying="every stream has its copies", seconds=60)
            await audit_follows_the_log(client, 1)
            servers[first].kill()
            await eventually(lambda: copied(client, to=1), saying="the others lead on", seconds=60)
            await worker.run_container("a")
            await audit_follows_the_log(client, 3)
    finally:
        plane.close()
