"""The event log's growth stops nothing: streams have shares of the broker's storage, and a full broker stops no start."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

import nats
import pytest
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, StreamConfig
from nats.js.errors import APIError
from support.servers import ControlPlaneProcess, NatsServer
from support.worker import KEY, Worker, eventually, query, snapshot_name

from controlplane.bus import stream_storage
from controlplane.bus.stream_storage import Use, keep_within
from controlplane.bus.streams import ensure_streams
from controlplane.http.health_pages import Health
from nodeworker.bus import Bus
from nodeworker.journal import Journal
from woodfrog.protocol import subjects, wire
from woodfrog.protocol.commands import Command
from woodfrog.protocol.events import ContainerEnded
from woodfrog.protocol.facts import ContainerFacts, NodeFacts
from woodfrog.protocol.ids import CheckpointKey, ContainerId, IncarnationNumber, NodeName, WorkerId
from woodfrog.protocol.reports import Heartbeat
from woodfrog.protocol.requests import ResolveRequest, StartCold
from woodfrog.service.nats import NO_ROOM, connect

pytestmark = [pytest.mark.nats, pytest.mark.timeout(180)]

NODE = NodeName("node-1")


@pytest.fixture
def small_broker(tmp_path: Path) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path / "small", max_file="4MB")
    server.start()
    try:
        yield server
    finally:
        server.close()


@asynccontextmanager
async def kept_within(jetstream: JetStreamContext, storage_bytes: int | None) -> AsyncIterator[list[Use]]:
    seen: list[Use] = []
    task = asyncio.create_task(keep_within(jetstream, storage_bytes, seen.append))
    try:
        yield seen
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def limits(jetstream: JetStreamContext) -> dict[str, int]:
    return {stream: (await jetstream.stream_info(stream)).config.max_bytes or 0 for stream in stream_storage._SHARES}


async def fill(jetstream: JetStreamContext, stream: str, subject: str) -> APIError:
    """Publish until the broker takes no more."""
    while True:
        try:
            await jetstream.publish(subject, b"x" * 60_000, stream=stream)
        except APIError as refused:
            return refused


async def test_an_installation_whose_broker_an_audit_without_limit_has_filled_goes_on(small_broker: NatsServer) -> None:
    async with await nats.connect(small_broker.url) as client:
        jetstream = client.jetstream(timeout=5)
        await ensure_streams(jetstream)
        refused = await fill(jetstream, subjects.AUDIT_STREAM, "woodfrog.v1.audit.node.node-lost.x")
        assert refused.err_code in NO_ROOM
        with pytest.raises(APIError):
            await jetstream.publish(subjects.reports(NODE), b"{}", stream=subjects.REPORTS_STREAM)

        async with kept_within(jetstream, 4 << 20) as seen:
            await eventually(lambda: _given(jetstream, 4 << 20), saying="every stream has its share")
            assert seen[0].scarce is not None
        await jetstream.publish(subjects.reports(NODE), b"{}", stream=subjects.REPORTS_STREAM)
        await jetstream.publish(subjects.commands(NODE), b"{}", stream=subjects.COMMANDS_STREAM)
        assert (await stream_storage.look(jetstream, 4 << 20)).scarce is None


async def _given(jetstream: JetStreamContext, total: int) -> bool:
    return await limits(jetstream) == {stream: int(total * share) for stream, share in stream_storage._SHARES.items()}


async def test_no_stream_can_take_what_is_another_ones(small_broker: NatsServer) -> None:
    async with await nats.connect(small_broker.url) as client:
        jetstream = client.jetstream(timeout=5)
        await ensure_streams(jetstream)
        async with kept_within(jetstream, 4 << 20):
            await eventually(lambda: _given(jetstream, 4 << 20), saying="every stream has its share")
        for stream, subject in (
            (subjects.AUDIT_STREAM, "woodfrog.v1.audit.node.node-lost.x"),
            (subjects.REPORTS_STREAM, subjects.reports(NODE)),
            (subjects.COMMANDS_STREAM, subjects.commands(NODE)),
            (subjects.PODS_STREAM, "woodfrog.v1.pods.default.x"),
        ):
            for _ in range(80):
                await jetstream.publish(subject, b"x" * 60_000, stream=stream)
        use = await stream_storage.look(jetstream, 4 << 20)
        assert use.scarce is None
        assert all(held <= limit for held, limit in use.streams.values())


async def test_a_broker_with_less_than_it_was_said_to_have_is_shared_all_the_same(small_broker: NatsServer) -> None:
    async with await nats.connect(small_broker.url) as client:
        jetstream = client.jetstream(timeout=5)
        await ensure_streams(jetstream)
        async with kept_within(jetstream, None):
            await eventually(lambda: _given(jetstream, 4 << 20), saying="every stream has its share of what there is")


async def test_what_an_operator_has_set_is_left_and_what_we_set_follows_the_setting(small_broker: NatsServer) -> None:
    async with await nats.connect(small_broker.url) as client:
        jetstream = client.jetstream(timeout=5)
        await ensure_streams(jetstream)
        pods = (await jetstream.stream_info(subjects.PODS_STREAM)).config
        await jetstream.update_stream(pods.evolve(max_bytes=77_777))
        for total in (2 << 20, 3 << 20):
            await stream_storage.limit_streams(jetstream, total)
            expected = {stream: int(total * share) for stream, share in stream_storage._SHARES.items()}
            assert await limits(jetstream) == expected | {subjects.PODS_STREAM: 77_777}


async def test_audit_at_its_limit_stops_no_start_no_dump_and_no_position(tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "nats", max_file="1MB")
    server.start()
    plane = ControlPlaneProcess(tmp_path, server.url, WOODFROG_STREAMS_BYTES="1MiB", WOODFROG_NODE_LOST_SECONDS="600")
    client = await connect(server.url, name="test")
    try:
        await asyncio.to_thread(plane.start)
        worker = Worker(client)
        await worker.register()
        await worker.run_container("c")

        async def audit() -> nats.js.api.StreamState:
            return (await client.jetstream().stream_info(subjects.AUDIT_STREAM)).state

        number = 0
        while (await audit()).first_seq <= 1:  # its oldest message is not given up yet
            for _ in range(20):
                number += 1
                await worker.say(*worker.snapshot(snapshot_name(number)))
        assert await worker.run_container("after") == 2
        last = snapshot_name(number + 1)
        await worker.say(*worker.snapshot(last, 2))
        await worker.taken_in()
        (latest,) = await query(client, "latest_snapshots")
        assert latest["snapshot_id"] == last

        async def level() -> bool:
            with closing(sqlite3.connect(plane.database)) as log:
                (head,) = log.execute("SELECT max(position) FROM events").fetchone()
            return (await audit()).last_seq == head

        await eventually(level, saying="AUDIT ends where the log does", seconds=60)
    finally:
        await client.close()
        plane.close()
        server.close()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal(tmp_path / "journal.sqlite3", node=NODE, worker_id=WorkerId("life-1"))
    yield opened
    opened.close()


async def test_a_worker_whose_reports_are_refused_asks_all_the_same_but_never_past_its_own_word_on_that_id(
    small_broker: NatsServer, journal: Journal
) -> None:
    other = CheckpointKey("local", "default", "other")
    asked: list[str] = []

    async def answer(message: Msg) -> None:
        asked.append(wire.decode(message.data, ResolveRequest).key.id)
        await message.respond(wire.encode(StartCold(incarnation=IncarnationNumber(1), reason="none")))

    def question(key: CheckpointKey) -> ResolveRequest:
        return ResolveRequest(key, ContainerId("c"), NODE, WorkerId("life-1"), NodeFacts(), ContainerFacts(), 0)

    async def nothing(_: Command) -> None:
        """Obey by doing nothing."""

    bus = Bus(
        small_broker.url, NODE, journal, heartbeat=lambda: Heartbeat(NODE, WorkerId("life-1"), "boot", NodeFacts())
    )
    async with await nats.connect(small_broker.url) as client:
        full = StreamConfig(
            name=subjects.REPORTS_STREAM, subjects=[subjects.REPORTS_ALL], max_bytes=10, discard=DiscardPolicy.NEW
        )
        await client.jetstream().add_stream(full)
        await client.subscribe(subjects.resolve(NODE), cb=answer)
        journal.report(
            ContainerEnded(key=KEY, incarnation=IncarnationNumber(1), node=NODE, container_id=ContainerId("before"))
        )
        running = asyncio.create_task(bus.run(nothing))
        concerned = asyncio.create_task(bus.resolve(lambda _: question(KEY)))
        try:
            assert isinstance(await asyncio.wait_for(bus.resolve(lambda _: question(other)), 60), StartCold)
            assert bus.reports_refused
            assert asked == ["other"]
            await client.jetstream().update_stream(full.evolve(max_bytes=1 << 20))
            assert isinstance(await asyncio.wait_for(concerned, 60), StartCold)
            assert not bus.reports_refused
        finally:
            for task in (concerned, running):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task


def test_a_leader_with_hardly_any_room_for_streams_is_not_ready_and_is_not_killed_for_it() -> None:
    class Connected:
        is_connected = True

    health = Health()
    health.answers(Connected())  # type: ignore[arg-type]
    health.streams_use(Use(95, 100))
    assert "NATS's storage" in str(health.unready())
    assert health.sick() is None
    health.streams_use(Use(94, 100))
    assert health.unready() is None
