"""Simulated nodes for the scale run: one process that speaks for all of them over NATS, as their workers would.

Nothing is dumped or restored; what is real is every message: heartbeats, reports through JetStream with their
confirmations, and the questions how containers shall start. An id *moves*: it is dumped for good on its node, and another node asks
how to start it and is told to restore. A move is seven events of the log, four reports before the question and one after it.

Like workers, nodes keep the reports that were confirmed, and ask now and then which of them the log holds.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

import msgspec
import nats

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from nats.aio.client import Client

from woodfrog.protocol import subjects, wire
from woodfrog.protocol.events import (
    ColdStartChosen,
    ContainerEnded,
    ContainerStarted,
    DumpStarted,
    IncarnationOpened,
    KeyEvent,
    NodeRegistered,
    ReportedEvent,
    SnapshotCaptured,
    SnapshotStored,
    Trigger,
    event_type,
    stream_of,
)
from woodfrog.protocol.facts import ContainerFacts, NodeFacts
from woodfrog.protocol.ids import CheckpointKey, ContainerId, IncarnationNumber, NodeName, SnapshotId, WorkerId
from woodfrog.protocol.reports import Heartbeat, Report, Vouched
from woodfrog.protocol.requests import Resolution, ResolveRequest, RestoreFrom

CLUSTER: Final = "scale"
EVENTS_A_MOVE: Final = 7
HEARTBEAT_SECONDS: Final = 2.0
VOUCH_SECONDS: Final = 22.5
"""How often a worker asks on average, see :mod:`nodeworker.bus`."""
_VOUCH_REPLY_SECONDS: Final = 6.0
_WAIT_SECONDS: Final = 30.0
FACTS: Final = NodeFacts(
    architecture="x86_64",
    kernel_release="6.18.0",
    page_size_bytes=4096,
    cgroup_version=2,
    cpu_model="Simulated",
    cpu_features=tuple(f"feature_{number}" for number in range(100)),
    criu_version="4.2.1",
    runc_version="1.1.5",
)
CONTAINER: Final = ContainerFacts(image="registry.example/train:1", image_digest="sha256:" + "ab" * 32)


class Place(msgspec.Struct):
    """Where an id is now."""

    node: int
    incarnation: int
    container: str


class Told(msgspec.Struct):
    """What the fleet says at its end."""

    reports: list[tuple[UUID, str]]
    """Every report that the broker confirmed, and what it said."""
    resolve_seconds: list[float]
    moves: int
    late_moves: int
    """Moves that were due and not begun because as many as are allowed were under way."""
    wrong: list[str]
    seconds: float
    heartbeats: int
    questions: int = 0
    """How often a node asked which of its reports the log holds."""
    unanswered: int = 0
    settled: int = 0
    missing: int = 0


def key_of(number: int) -> CheckpointKey:
    """Name an id."""
    return CheckpointKey(CLUSTER, f"team-{number % 100}", f"job-{number:06d}")


def node_of(number: int) -> NodeName:
    """Name a node."""
    return NodeName(f"node-{number:05d}")


def worker_of(number: int) -> WorkerId:
    """Name a node's worker."""
    return WorkerId(f"worker-{number:05d}")


def first_events(nodes: int, ids: int) -> Iterator[NodeRegistered | KeyEvent]:
    """Tell how all nodes came, and a container of every id to run."""
    for number in range(nodes):
        yield NodeRegistered(node=node_of(number), worker_id=worker_of(number), boot_id="boot", facts=FACTS)
    for number in range(ids):
        who = {"key": key_of(number), "incarnation": IncarnationNumber(1)}
        node, container = node_of(number % nodes), ContainerId(f"{number:064x}")
        yield IncarnationOpened(**who, node=node, container_id=container, container=CONTAINER)
        yield ColdStartChosen(**who, reason="no snapshot yet")
        yield ContainerStarted(**who, node=node, container_id=container, create_seconds=0.25)


class Fleet:
    """All nodes and ids."""

    def __init__(self, client: Client, nodes: int, ids: int) -> None:
        self._client = client
        self._jetstream = client.jetstream(timeout=_WAIT_SECONDS, publish_async_max_pending=20_000)
        self._nodes = nodes
        self._places = [Place(number % nodes, 1, f"{number:064x}") for number in range(ids)]
        self._free = list(range(ids))
        self._rng = random.Random(1)
        self._moves: set[asyncio.Task[None]] = set()
        self._kept: list[set[UUID]] = [set() for _ in range(nodes)]
        self._asking: set[asyncio.Task[None]] = set()
        self.told = Told([], [], 0, 0, [], 0.0, 0)

    async def beat(self) -> None:
        """Give every node's signs of life, spread evenly, until cancelled."""
        messages = [
            (
                subjects.heartbeats(node_of(number)),
                wire.encode(Heartbeat(node_of(number), worker_of(number), "boot", FACTS)),
            )
            for number in range(self._nodes)
        ]
        begin = time.monotonic()
        sent = 0
        while True:
            due = int((time.monotonic() - begin) / HEARTBEAT_SECONDS * self._nodes)
            for number in range(sent, due):
                await self._client.publish(*messages[number % self._nodes])
            self.told.heartbeats += due - sent
            sent = due
            await asyncio.sleep(0.01)

    async def have_reports_vouched_for(self) -> None:
        """Let every node that keeps reports ask what became of them, one after the other, until cancelled."""
        begin = time.monotonic()
        asked = 0
        while True:
            due = int((time.monotonic() - begin) / VOUCH_SECONDS * self._nodes)
            for number in range(asked, due):
                if self._kept[number % self._nodes]:
                    task = asyncio.create_task(self._ask_for_vouchers(number % self._nodes))
                    self._asking.add(task)
                    task.add_done_callback(self._asking.discard)
            asked = due
            await asyncio.sleep(0.01)

    async def _ask_for_vouchers(self, number: int) -> None:
        named = tuple(self._kept[number])
        heartbeat = Heartbeat(node_of(number), worker_of(number), "boot", FACTS, confirmed=named)
        self.told.questions += 1
        try:
            reply = await self._client.request(
                subjects.heartbeats(heartbeat.node), wire.encode(heartbeat), timeout=_VOUCH_REPLY_SECONDS
            )
        except nats.errors.Error:
            self.told.unanswered += 1
            return
        vouched: Vouched = wire.decode(reply.data, Vouched)
        self._kept[number].difference_update(vouched.settled)
        self.told.settled += len(vouched.settled)
        self.told.missing += len(vouched.missing)

    async def live(self, seconds: float, events_a_second: float) -> None:
        """Move ids at random at the given rate for so long; then wait for the moves that are under way."""
        begin = time.monotonic()
        begun = 0
        while (elapsed := time.monotonic() - begin) < seconds:
            due = int(elapsed * events_a_second / EVENTS_A_MOVE)
            for _ in range(begun, due):
                if len(self._moves) >= 2000:
                    self.told.late_moves += 1
                    continue
                task = asyncio.create_task(self._move(self._take_free()))
                self._moves.add(task)
                task.add_done_callback(self._moves.discard)
            begun = due
            await asyncio.sleep(0.005)
        if self._moves:
            await asyncio.wait(self._moves, timeout=2 * _WAIT_SECONDS)
        self.told.seconds = time.monotonic() - begin

    def _take_free(self) -> int:
        place = self._rng.randrange(len(self._free))
        self._free[place], self._free[-1] = self._free[-1], self._free[place]
        return self._free.pop()

    async def _move(self, number: int) -> None:
        try:
            await self._move_on(number, self._places[number])
        except Exception as problem:  # noqa: BLE001 - told at the end
            self.told.wrong.append(f"{key_of(number)}: {problem!r}")
        else:
            self.told.moves += 1
            self._free.append(number)

    async def _move_on(self, number: int, place: Place) -> None:
        who = {"key": key_of(number), "incarnation": IncarnationNumber(place.incarnation)}
        node = node_of(place.node)
        snapshot = SnapshotId(f"20261123T{place.incarnation:06d}Z-{number:08x}")
        about = {**who, "node": node, "snapshot_id": snapshot}
        container = ContainerId(place.container)
        stored = {"raw_bytes": 1 << 30, "stored_bytes": 1 << 28, "store_seconds": 4.5}
        facts = {"taken_on": FACTS, "taken_from": CONTAINER}
        for event in (
            DumpStarted(**about, trigger=Trigger.STOP_SIGNAL, final=True),
            SnapshotCaptured(**about, freeze_seconds=0.5, raw_bytes=1 << 30),
            ContainerEnded(**who, node=node, container_id=container, exit_code=143),
            SnapshotStored(**about, manifest_digest=f"{number:064x}", **stored, **facts),
        ):
            sequence = await self._report(place.node, event)
        place.node = self._rng.randrange(self._nodes)
        place.container = uuid4().hex * 2
        answer = await self._ask(number, place, sequence)
        if not isinstance(answer, RestoreFrom) or answer.snapshot_id != snapshot:
            self.told.wrong.append(f"{key_of(number)} was told {answer}, not to restore {snapshot}")
            return
        place.incarnation = answer.incarnation
        who["incarnation"] = answer.incarnation
        started = ContainerStarted(
            **who, node=node_of(place.node), container_id=ContainerId(place.container), restored_from=snapshot
        )
        await self._report(place.node, started)

    async def _report(self, node: int, event: ReportedEvent) -> int:
        report = Report(uuid4(), node_of(node), worker_of(node), datetime.now(UTC), event)
        confirmed = await self._jetstream.publish_async(
            subjects.reports(report.node),
            wire.encode(report),
            stream=subjects.REPORTS_STREAM,
            headers={"Nats-Msg-Id": str(report.report_id)},
        )
        async with asyncio.timeout(_WAIT_SECONDS):
            sequence = (await confirmed).seq
        said = f"{event_type(event)} of {stream_of(event)} at {report.at:%H:%M:%S.%f}"
        self.told.reports.append((report.report_id, said))
        self._kept[node].add(report.report_id)
        return sequence

    async def _ask(self, number: int, place: Place, sequence: int) -> Resolution:
        node = node_of(place.node)
        request = ResolveRequest(
            key_of(number), ContainerId(place.container), node, worker_of(place.node), FACTS, CONTAINER, sequence
        )
        begin = time.perf_counter()
        reply = await self._client.request(subjects.resolve(node), wire.encode(request), timeout=_WAIT_SECONDS)
        self.told.resolve_seconds.append(time.perf_counter() - begin)
        answer: Resolution = wire.decode(reply.data, Resolution)
        return answer


async def run(url: str, nodes: int, ids: int, seconds: float, events_a_second: float, *, vouch: bool) -> Told:
    """Beat until there is a line to read, then live, and tell."""
    client = await nats.connect(url, name="fleet", pending_size=64 << 20, max_outstanding_pings=100)
    fleet = Fleet(client, nodes, ids)
    running = [asyncio.create_task(fleet.beat())]
    try:
        await asyncio.to_thread(sys.stdin.readline)
        if vouch:
            running.append(asyncio.create_task(fleet.have_reports_vouched_for()))
        await fleet.live(seconds, events_a_second)
    finally:
        for task in running:
            task.cancel()
    await client.drain()
    return fleet.told


def main() -> None:
    """Do as told by the arguments; write what is told to the file named last."""
    url, nodes, ids, seconds, events_a_second, vouch, path = sys.argv[1:]
    told = asyncio.run(run(url, int(nodes), int(ids), float(seconds), float(events_a_second), vouch=vouch == "True"))
    Path(path).write_bytes(wire.encode(told))


if __name__ == "__main__":
    main()
