"""What a node worker says, without a worker: reports, heartbeats and questions over a real broker."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.js.api import RawStreamMsg

from support.time_scale import scaled
from woodfrog.protocol import subjects, wire
from woodfrog.protocol.events import (
    ContainerStarted,
    DumpStarted,
    NodeRegistered,
    ReportedEvent,
    SnapshotCaptured,
    SnapshotStored,
    Trigger,
)
from woodfrog.protocol.facts import ContainerFacts, NodeFacts
from woodfrog.protocol.ids import (
    CheckpointKey,
    CommandId,
    ContainerId,
    IncarnationNumber,
    NodeName,
    SnapshotId,
    WorkerId,
)
from woodfrog.protocol.node_status import NodeStatus
from woodfrog.protocol.reports import Heartbeat, Report
from woodfrog.protocol.requests import (
    CheckpointRequest,
    CommandAccepted,
    QueryRequest,
    Refusal,
    Resolution,
    ResolveRequest,
    Rows,
    View,
)

FACTS = NodeFacts(architecture="x86_64", page_size_bytes=4096)
CONTAINER = ContainerFacts(image="docker.io/library/job:1")
KEY = CheckpointKey("local", "default", "job")
REQUEST_SECONDS = 20.0


async def eventually(what: Callable[[], Awaitable[Any]], *, saying: str, seconds: float = 20.0) -> Any:
    """Await ``what()`` again and again until it is true, and return it."""
    try:
        async with asyncio.timeout(scaled(seconds)):
            while True:
                try:
                    value = await what()
                except (nats.errors.Error, nats.js.errors.Error):
                    value = None
                if value:
                    return value
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(saying) from None


async def ask(
    client: Client, subject: str, question: Any, answer_type: Any, *, attempt_seconds: float = REQUEST_SECONDS / 2
) -> Any:
    """Ask the control plane, again and again while nobody listens."""
    data = question if isinstance(question, bytes) else wire.encode(question)
    async with asyncio.timeout(REQUEST_SECONDS):
        while True:
            try:
                reply = await client.request(subject, data, timeout=attempt_seconds)
            except (nats.errors.NoRespondersError, TimeoutError):
                await asyncio.sleep(0.05)
            else:
                return wire.decode(reply.data, answer_type)


async def query(client: Client, view: View, **restriction: Any) -> list[dict[str, Any]]:
    """Read a view over NATS."""
    answer: Rows | Refusal = await ask(
        client,
        subjects.QUERY,
        QueryRequest(view=view, **restriction),
        Rows | Refusal,
        attempt_seconds=2.0,  # of several control planes, one that hangs may have been asked
    )
    assert isinstance(answer, Rows), answer
    return answer.rows


async def checkpoint(client: Client, key: CheckpointKey = KEY) -> CommandId:
    """Ask for a dump, once the log has heard that the container runs."""

    async def answered() -> CommandAccepted | Refusal | None:
        said: CommandAccepted | Refusal = await ask(
            client, subjects.CHECKPOINT, CheckpointRequest(key=key), CommandAccepted | Refusal
        )
        return None if isinstance(said, Refusal) and said.failure.code == "not-running" else said

    answer = await eventually(answered, saying="the container runs")
    assert isinstance(answer, CommandAccepted), answer
    return answer.command_id


async def stored_messages(client: Client, stream: str) -> list[RawStreamMsg]:
    """Read everything that a stream holds."""
    jetstream = client.jetstream()
    state = (await jetstream.stream_info(stream)).state
    found = []
    for sequence in range(max(state.first_seq, 1), state.last_seq + 1):
        try:
            found.append(await jetstream.get_msg(stream, seq=sequence))
        except nats.js.errors.NotFoundError:
            continue  # taken out of a work queue
    return found


async def audit_follows_the_log(client: Client, count: int | None = None) -> list[dict[str, Any]]:
    """Wait until AUDIT holds what the log holds; fail unless it does so once, in order and without gaps."""

    async def level() -> list[dict[str, Any]]:
        rows = await query(client, "events", limit=10_000)
        held = (await client.jetstream().stream_info(subjects.AUDIT_STREAM)).state
        return rows if held.last_seq >= len(rows) and (count is None or len(rows) >= count) else []

    rows: list[dict[str, Any]] = await eventually(level, saying="AUDIT holds the log")
    messages = await stored_messages(client, subjects.AUDIT_STREAM)
    told: list[tuple[int, str, dict[str, Any]]] = [
        (int(message.headers[subjects.POSITION_HEADER]), message.headers["ce-id"], wire.decode(message.data, dict))
        for message in messages
        if message.headers and message.data
    ]
    assert told == [(row["position"], row["event_id"], row["data"]) for row in rows]
    assert [position for position, _, _ in told] == list(range(1, len(rows) + 1))
    return rows


class Worker:
    """One life of a worker on a node, speaking for it in order."""

    def __init__(self, client: Client, node: str = "node-1") -> None:
        self.client = client
        self.node = NodeName(node)
        self.worker_id = WorkerId(str(uuid.uuid4()))
        self.sequence = 0
        """Of the last confirmed report."""
        self._beating: asyncio.Task[None] | None = None

    def report(self, event: ReportedEvent) -> Report:
        """Put an event into a report."""
        return Report(uuid.uuid4(), self.node, self.worker_id, datetime.now(UTC), event)

    async def send(self, report: Report) -> None:
        """Send a report until the broker confirms it, as a worker does."""
        await self.send_bytes(wire.encode(report), str(report.report_id))

    async def send_bytes(self, data: bytes, message_id: str) -> None:
        """Send anything over this node's subject."""
        async with asyncio.timeout(REQUEST_SECONDS):
            while True:
                try:
                    confirmed = await self.client.jetstream().publish(
                        subjects.reports(self.node), data, timeout=1, headers={"Nats-Msg-Id": message_id}
                    )
                except (nats.errors.Error, nats.js.errors.Error):
                    await asyncio.sleep(0.05)
                else:
                    self.sequence = confirmed.seq
                    return

    async def say(self, *events: ReportedEvent) -> None:
        """Report events, one after the other."""
        for event in events:
            await self.send(self.report(event))

    async def register(self) -> None:
        """Begin."""
        await self.say(NodeRegistered(node=self.node, worker_id=self.worker_id, boot_id="boot", facts=FACTS))

    async def resolve(self, container: str, key: CheckpointKey = KEY, *, sequence: int | None = None) -> Resolution:
        """Ask how a container shall start."""
        answer: Resolution = await ask(
            self.client,
            subjects.resolve(self.node),
            ResolveRequest(
                key=key,
                container_id=ContainerId(container),
                node=self.node,
                worker_id=self.worker_id,
                facts=FACTS,
                container=CONTAINER,
                reports_sequence=self.sequence if sequence is None else sequence,
            ),
            Resolution,
        )
        return answer

    def started(self, container: str, incarnation: int = 1, key: CheckpointKey = KEY) -> ContainerStarted:
        """The container runs."""
        return ContainerStarted(
            key=key,
            incarnation=IncarnationNumber(incarnation),
            node=self.node,
            container_id=ContainerId(container),
        )

    async def run_container(self, container: str, key: CheckpointKey = KEY) -> IncarnationNumber:
        """Ask for a start and report it."""
        answer = await self.resolve(container, key)
        assert not isinstance(answer, Refusal), answer
        await self.say(self.started(container, answer.incarnation, key))
        await self.taken_in()
        return answer.incarnation

    async def taken_in(self) -> None:
        """Wait until the control plane has acknowledged everything that this worker said."""

        async def done() -> bool:
            info = await self.client.jetstream().consumer_info(subjects.REPORTS_STREAM, subjects.INGEST_CONSUMER)
            return info.ack_floor is not None and info.ack_floor.stream_seq >= self.sequence

        await eventually(done, saying="all reports are taken in")

    def dump_started(
        self, snapshot: str, incarnation: int = 1, *, final: bool = False, key: CheckpointKey = KEY
    ) -> DumpStarted:
        """A dump began."""
        return DumpStarted(
            key=key,
            incarnation=IncarnationNumber(incarnation),
            snapshot_id=SnapshotId(snapshot),
            node=self.node,
            trigger=Trigger.STOP_SIGNAL if final else Trigger.COMMAND,
            final=final,
        )

    def captured(self, snapshot: str, incarnation: int = 1, key: CheckpointKey = KEY) -> SnapshotCaptured:
        """A dump lies on the node."""
        return SnapshotCaptured(
            key=key,
            incarnation=IncarnationNumber(incarnation),
            snapshot_id=SnapshotId(snapshot),
            node=self.node,
            freeze_seconds=0.1,
            raw_bytes=4096,
        )

    def stored(self, snapshot: str, incarnation: int = 1, key: CheckpointKey = KEY) -> SnapshotStored:
        """A snapshot is valid."""
        return SnapshotStored(
            key=key,
            incarnation=IncarnationNumber(incarnation),
            snapshot_id=SnapshotId(snapshot),
            node=self.node,
            manifest_digest="ab" * 32,
            raw_bytes=4096,
            stored_bytes=1024,
            store_seconds=0.2,
            taken_on=FACTS,
            taken_from=CONTAINER,
        )

    def snapshot(self, snapshot: str, incarnation: int = 1, *, final: bool = False) -> tuple[ReportedEvent, ...]:
        """A whole dump, from its start to its being valid."""
        return (
            self.dump_started(snapshot, incarnation, final=final),
            self.captured(snapshot, incarnation),
            self.stored(snapshot, incarnation),
        )

    async def heartbeat(self, status: NodeStatus | None = None) -> None:
        """Give one sign of life."""
        heartbeat = Heartbeat(self.node, self.worker_id, "boot", FACTS, status=status)
        await self.client.publish(subjects.heartbeats(self.node), wire.encode(heartbeat))


async def swallow_next(client: Client, stream: str, durable: str) -> Subscription:
    """Ask a consumer for one message, before anybody else does, and never acknowledge it: as a leader does that was deposed."""
    inbox = client.new_inbox()
    swallowed = await client.subscribe(inbox)
    request = wire.encode({"batch": 1, "expires": 60_000_000_000})
    await client.publish(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}", request, reply=inbox)
    await client.flush()
    return swallowed


def snapshot_name(number: int) -> str:
    """Name a snapshot so that names sort as numbers do."""
    return f"20261123T214501Z-{number:08x}"
