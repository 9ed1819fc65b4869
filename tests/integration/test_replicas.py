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
from support.servers import NATS_SERVER, ControlPlaneProcess
from support.worker import eventually

from protocol import subjects

pytestmark = [pytest.mark.nats, pytest.mark.timeout(120)]


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


async def test_streams_have_three_copies_and_outlive_a_server(
    servers: dict[str, subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    first, second, third = servers
    plane = ControlPlaneProcess(tmp_path, second, WOODFROG_STREAM_REPLICAS="3", WOODFROG_NODE_LOST_SECONDS="600")
    try:
        await asyncio.to_thread(plane.start)
        async with await nats.connect(third) as client:
            streams = client.jetstream()
            for stream in (subjects.REPORTS_STREAM, subjects.COMMANDS_STREAM, subjects.AUDIT_STREAM):

                async def whole(stream: str = stream) -> bool:
                    return (await streams.stream_info(stream)).config.num_replicas == 3

                await eventually(whole, saying=f"{stream} has three copies")

            async def taken() -> bool:
                return bool(await streams.publish(f"{subjects.PREFIX}.reports.n", b"{}", timeout=2))

            await eventually(taken, saying="reports are taken")
            servers[first].kill()
            await eventually(taken, saying="they are taken without one server")
    finally:
        plane.close()
