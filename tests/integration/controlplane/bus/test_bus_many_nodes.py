"""More nodes than a broker allows by itself."""

from __future__ import annotations

import asyncio
from pathlib import Path

import nats
import pytest
from support.servers import NatsServer

from controlplane.bus.streams import command_queue, ensure_streams
from woodfrog.protocol import subjects
from woodfrog.protocol.ids import NodeName

pytestmark = [pytest.mark.nats, pytest.mark.timeout(120)]


async def test_more_than_a_thousand_nodes_have_command_queues(tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "nats")
    await asyncio.to_thread(server.start)
    client = await nats.connect(server.url)
    try:
        jetstream = client.jetstream(timeout=30)
        await ensure_streams(jetstream)
        for number in range(1100):
            await jetstream.add_consumer(subjects.COMMANDS_STREAM, command_queue(NodeName(f"node-{number}")))
        held = await jetstream.stream_info(subjects.COMMANDS_STREAM)
        assert held.state.consumer_count == 1100
    finally:
        await client.close()
        await asyncio.to_thread(server.kill)
