"""Which workers are alive: heartbeats heard by this process, measured on its own monotonic clock.

Neither the nodes' clocks nor timestamps in messages are asked, so no clock change can declare a node lost. A silence is
believed only if this process could have heard: while it is cut off from the broker, or was itself stopped, nobody's silence
counts, because declaring every node lost at once would start replacements from older snapshots all over the cluster.

A heartbeat is never recorded; only a worker's silence and its return are decided upon and become events. So is a worker that the log
does not know though it has been heard for a while: one that registered with a log that was lost, or replaced by another.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from itertools import count
from typing import Final
from uuid import UUID

import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg

from controlplane.bus.clock_offsets import ClockOffsets
from controlplane.bus.streams import BROKER_ERRORS, MAX_MESSAGE_BYTES
from controlplane.core.input_queue import InputQueue, UndecidableError
from controlplane.domain.clock_skew import is_news
from controlplane.domain.inputs import Input, NodeHeard, NodeSilent, Tick
from controlplane.domain.state import NodeState
from controlplane.domain.stores import has_other_store
from controlplane.log.records import LogUnavailableError, utc_now
from woodfrog.protocol import subjects, wire
from woodfrog.protocol.ids import InvalidIdError, NodeName, WorkerId, check_id
from woodfrog.protocol.reports import Heartbeat, Vouched
from woodfrog.service.cancellation import end_if_cancelled

_log = structlog.get_logger(component="presence")

_FLUSH_SECONDS: Final = 2
_SETTLE_SECONDS: Final = 10.0
_LONGEST_QUEUE: Final = 10_000
_STRANGE_SECONDS: Final = 5.0
"""So long a worker may be heard before its own report of its registration has arrived."""
MOST_REPORTS: Final = 500
"""How many of the reports that a question names are looked up."""
_MOST_REPORTS_AT_ONCE: Final = 5000

Vouch = Callable[[Sequence[UUID]], Awaitable[Vouched | None]]
"""Says what became of reports, as :meth:`controlplane.bus.report_reconciliation.ReportReconciliation.vouch`."""

Roll = Callable[[], Mapping[NodeName, NodeState]]
"""Tells every registered node, as last decided."""


class Heartbeats:
    """Watches over the nodes, and lets the input loop know that time passes."""

    def __init__(
        self,
        client: Client,
        intake: InputQueue,
        roll: Roll,
        *,
        lost_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], datetime] = utc_now,
        vouch: Vouch | None = None,
    ) -> None:
        """A node is lost after ``lost_seconds`` without a sign of life. ``vouch`` says what became of its reports."""
        self._vouch = vouch
        self._asked: asyncio.Queue[tuple[str, Heartbeat]] = asyncio.Queue(_LONGEST_QUEUE)
        self._client = client
        self._intake = intake
        self._roll = roll
        self._lost_seconds = lost_seconds
        self._period_seconds = min(1.0, lost_seconds / 5)
        self._clock = clock
        self._wall_clock = wall_clock
        self._offsets = ClockOffsets()
        self._heard_at: dict[tuple[NodeName, WorkerId], float] = {}
        self._strange_since: dict[tuple[NodeName, WorkerId], float] = {}
        self._heartbeats: asyncio.Queue[tuple[Heartbeat, float | None]] = asyncio.Queue(_LONGEST_QUEUE)

    async def run(self) -> None:
        """Listen and watch until cancelled."""
        subscription = await self._client.subscribe(subjects.HEARTBEATS_ALL, cb=self._hear)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._welcome())
                group.create_task(self._watch())
                group.create_task(self._answer())
        finally:
            if self._client.is_connected:
                await subscription.unsubscribe()

    async def _hear(self, message: Msg) -> None:
        try:
            heartbeat = read_heartbeat(message.subject, message.data)
        except (wire.MalformedMessageError, InvalidIdError) as problem:
            await _log.awarning("heartbeat refused", subject=message.subject, reason=str(problem))
            return
        worker = heartbeat.node, heartbeat.worker_id
        self._heard_at[worker] = self._clock()
        offset_seconds = self._offsets.measured(worker, heartbeat.at, self._wall_clock())
        if self._is_news(heartbeat, offset_seconds) and not self._heartbeats.full():
            self._heartbeats.put_nowait((heartbeat, offset_seconds))
        if message.reply and not self._asked.full():
            self._asked.put_nowait((message.reply, heartbeat))

    def _is_news(self, heartbeat: Heartbeat, offset_seconds: float | None) -> bool:
        """Whether it may have to be decided upon: from a lost node, for a while from a worker that the log does not know, or of change.

        What may change while a worker lives is its store, and how far its clock is off. Who says that its self-test failed is about to end.
        """
        status = heartbeat.status
        if status is not None and status.self_test is not None and status.self_test.failure is not None:
            return False
        worker = heartbeat.node, heartbeat.worker_id
        known = self._roll().get(heartbeat.node)
        if known is not None and heartbeat.worker_id in {known.worker_id, *known.earlier_workers}:
            self._strange_since.pop(worker, None)
            changed = has_other_store(known, heartbeat) or is_news(known.clock_offset_seconds, offset_seconds)
            return known.lost or (heartbeat.worker_id == known.worker_id and changed)
        now = self._clock()
        return now - self._strange_since.setdefault(worker, now) >= _STRANGE_SECONDS

    async def _answer(self) -> None:
        """Tell workers which of their reports they need not keep, all that wait at once; one that is not told asks again."""
        while True:
            questions = [await self._asked.get()]
            named = sum(len(heartbeat.confirmed) for _, heartbeat in questions)
            while named < _MOST_REPORTS_AT_ONCE and not self._asked.empty():
                questions.append(self._asked.get_nowait())
                named += len(questions[-1][1].confirmed)
            every = [report for _, heartbeat in questions for report in heartbeat.confirmed[:MOST_REPORTS]]
            vouched = None if self._vouch is None else await self._vouch(every)
            if vouched is None:
                continue
            settled, missing, forgotten = map(set, (vouched.settled, vouched.missing, vouched.forgotten))
            for reply, heartbeat in questions:
                asked = heartbeat.confirmed[:MOST_REPORTS]
                answer = Vouched(
                    tuple(report for report in asked if report in settled),
                    tuple(report for report in asked if report in missing),
                    self._wall_clock(),
                    tuple(report for report in asked if report in forgotten),
                )
                try:
                    await self._client.publish(reply, wire.encode(answer))
                except BROKER_ERRORS as problem:
                    await _log.awarning("a worker could not be answered", node=heartbeat.node, error=problem)

    async def _welcome(self) -> None:
        """Bring the signs of life of lost nodes in."""
        while True:
            heartbeat, offset_seconds = await self._heartbeats.get()
            await self._settle(NodeHeard(heartbeat, f"heard/{uuid.uuid4()}", offset_seconds))

    async def _watch(self) -> None:
        last = self._clock()
        for turn in count():
            end_if_cancelled()
            await asyncio.sleep(self._period_seconds)
            now = self._clock()
            if now - last > self._period_seconds + self._lost_seconds / 2:
                await _log.awarning("this process was held up; no silence counts", seconds=now - last)
                self._forgive(now)
            last = now
            if not await self._can_hear():
                self._forgive(self._clock())
                last = self._clock()
                continue
            await self._settle(Tick(f"tick/{uuid.uuid4()}", turn))
            await self._notice_silence()

    async def _notice_silence(self) -> None:
        roll = self._roll()
        registered = {(node, known.worker_id) for node, known in roll.items()}
        for gone in self._heard_at.keys() - registered:
            if self._clock() - self._heard_at[gone] > self._lost_seconds:
                del self._heard_at[gone]
                self._offsets.forget(gone)
                self._strange_since.pop(gone, None)
        for node, known in list(roll.items()):
            now, worker_id = self._clock(), known.worker_id
            silent_seconds = now - self._heard_at.setdefault((node, worker_id), now)
            if not known.lost and silent_seconds >= self._lost_seconds:
                await _log.awarning("node is silent", node=node, worker_id=worker_id, silent_seconds=silent_seconds)
                await self._settle(NodeSilent(node, worker_id, silent_seconds, f"silent/{uuid.uuid4()}"))

    async def _can_hear(self) -> bool:
        """Whether heartbeats sent until now have arrived: what a PONG comes behind has been read."""
        if not self._client.is_connected:
            return False
        try:
            await self._client.flush(_FLUSH_SECONDS)
        except BROKER_ERRORS:
            return False
        return True

    def _forgive(self, now: float) -> None:
        for one in self._heard_at:
            self._heard_at[one] = now

    async def _settle(self, asked: Input) -> None:
        try:
            async with asyncio.timeout(_SETTLE_SECONDS):
                await (await self._intake.enqueue(asked, actor="controlplane"))
        except (LogUnavailableError, UndecidableError, TimeoutError) as problem:
            await _log.awarning("not decided; it comes up again", input=type(asked).__name__, error=problem)


def read_heartbeat(subject: str, data: bytes) -> Heartbeat:
    """Read a heartbeat as it came over ``subject``.

    Raises:
        MalformedMessageError, InvalidIdError: naming what is wrong with it.
    """
    if len(data) > MAX_MESSAGE_BYTES:
        raise wire.MalformedMessageError(f"{len(data)} bytes are too many")
    heartbeat: Heartbeat = wire.decode(data, Heartbeat)
    check_id(heartbeat.node, "node")
    if subjects.heartbeats(heartbeat.node) != subject:
        raise wire.MalformedMessageError(f"node {heartbeat.node!r} may not speak over {subject} - at `$.node`")
    return heartbeat
