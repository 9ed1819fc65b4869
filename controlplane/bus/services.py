"""Questions that somebody waits for: resolve, checkpoint, snapshot and query, over NATS request and reply.

Every question gets an answer in bounded time: what was asked, or a :class:`protocol.requests.Refusal` with a cause and an
advice. A question that cannot be read changes nothing and is told which field is wrong.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg

from controlplane.bus.intake import Intake, UndecidableError
from controlplane.bus.progress import Progress
from controlplane.bus.streams import BROKER_ERRORS, MAX_MESSAGE_BYTES, REQUEST_SECONDS
from controlplane.domain.inputs import Answer, CheckpointAsked, Input, ResolveAsked, SnapshotAsked
from controlplane.log.eventlog import EventLog
from protocol import subjects, wire
from protocol.failures import Failure, FailureError
from protocol.ids import CheckpointKey, CommandId, InvalidIdError, check_id
from protocol.requests import CheckpointRequest, QueryRequest, Refusal, ResolveRequest, Rows, SnapshotRequest

_log = structlog.get_logger(component="services")

_QUEUE_GROUP: Final = "controlplane"
_CATCH_UP_SECONDS: Final = 10.0
"""How long a resolve waits for the asker's own reports before it is answered without them."""
_DECIDE_SECONDS: Final = 4.0
"""How long the decision and its commit may take; with the catching up less than the 15 s that workers wait."""
_MOST_IN_FLIGHT: Final = 1024
_MOST_ROWS: Final = 10_000

_Reply = Answer | Rows


class Services:
    """Answers requests."""

    def __init__(self, client: Client, intake: Intake, log: EventLog, taken_in: Progress) -> None:
        """``taken_in`` is the REPORTS sequence up to which reports are in the log."""
        self._client = client
        self._jetstream = client.jetstream(timeout=REQUEST_SECONDS)
        self._intake = intake
        self._log = log
        self._taken_in = taken_in
        self._in_flight = asyncio.Semaphore(_MOST_IN_FLIGHT)
        self.listening = asyncio.Event()
        """Set once requests are heard."""

    async def run(self) -> None:
        """Answer until cancelled."""
        async with asyncio.TaskGroup() as group:

            def listen(answer: Callable[[bytes], Awaitable[_Reply]]) -> Callable[[Msg], Awaitable[None]]:
                async def heard(message: Msg) -> None:
                    await self._in_flight.acquire()
                    group.create_task(self._serve(message, answer))

                return heard

            subscriptions = [
                await self._client.subscribe(subject, queue=_QUEUE_GROUP, cb=listen(answer))
                for subject, answer in (
                    (subjects.RESOLVE, self._resolve),
                    (subjects.CHECKPOINT, self._checkpoint),
                    (subjects.SNAPSHOT, self._snapshot),
                    (subjects.QUERY, self._query),
                )
            ]
            await self._client.flush()
            self.listening.set()
            try:
                await asyncio.Event().wait()
            finally:
                if self._client.is_connected:
                    for subscription in subscriptions:
                        await subscription.unsubscribe()

    async def _serve(self, message: Msg, answer: Callable[[bytes], Awaitable[_Reply]]) -> None:
        try:
            reply = wire.encode(await self._answered(message, answer))
            if len(reply) > self._client.max_payload:
                reply = wire.encode(_too_much(len(reply), self._client.max_payload))
            if message.reply:
                await self._client.publish(message.reply, reply)
        except BROKER_ERRORS as problem:
            await _log.awarning("an answer could not be sent", subject=message.subject, error=repr(problem))
        finally:
            self._in_flight.release()

    async def _answered(self, message: Msg, answer: Callable[[bytes], Awaitable[_Reply]]) -> _Reply:
        try:
            if len(message.data) > MAX_MESSAGE_BYTES:
                return _malformed(f"{len(message.data)} bytes are more than {MAX_MESSAGE_BYTES}")
            return await answer(message.data)
        except (wire.MalformedMessageError, InvalidIdError) as problem:
            return _malformed(str(problem))
        except FailureError as problem:  # the log is unavailable, or a view has no such column
            return Refusal(failure=problem.failure)
        except TimeoutError:
            return Refusal(
                failure=Failure(
                    code="control-plane-busy",
                    cause=f"the control plane did not come to a decision within {_DECIDE_SECONDS:g} s",
                    advice="Ask again; if this goes on, look at the control plane's log and its database.",
                )
            )
        except UndecidableError as problem:
            return _defect(str(problem))
        except Exception as problem:  # noqa: BLE001 - one question must not end the answers to all others
            await _log.aexception("a request failed in an unforeseen way", subject=message.subject)
            return _defect(repr(problem))

    async def _resolve(self, data: bytes) -> _Reply:
        request: ResolveRequest = wire.decode(data, ResolveRequest)
        _check_key(request.key)
        check_id(request.node, "node")
        await self._catch_up(request)
        return await self._decided(ResolveAsked(request, f"resolve/{uuid.uuid4()}"), actor=f"worker/{request.node}")

    async def _catch_up(self, request: ResolveRequest) -> None:
        """Wait until the asker's own reports are taken in, so that it does not overtake its own words."""
        wanted = request.reports_sequence
        try:
            async with asyncio.timeout(_CATCH_UP_SECONDS):
                counted = self._taken_in.value
                held = (await self._jetstream.stream_info(subjects.REPORTS_STREAM)).state.last_seq
                if held < wanted:  # the stream was wiped: those reports will never come
                    await _log.awarning("reports asked for are gone", node=request.node, wanted=wanted, held=held)
                    return
                if (
                    held < counted
                ):  # it was wiped and ingestion has yet to notice: it counts reports of the stream before
                    await self._taken_in.fallen_below(counted, _CATCH_UP_SECONDS)
                if await self._taken_in.reached(wanted, _CATCH_UP_SECONDS):
                    return
        except BROKER_ERRORS as problem:
            await _log.awarning("REPORTS cannot be looked at", node=request.node, error=repr(problem))
        await _log.awarning(
            "resolving without the asker's last reports",
            node=request.node,
            wanted=wanted,
            taken_in=self._taken_in.value,
        )

    async def _checkpoint(self, data: bytes) -> _Reply:
        request: CheckpointRequest = wire.decode(data, CheckpointRequest)
        _check_key(request.key)
        command_id = CommandId(str(uuid.uuid4()))
        return await self._decided(CheckpointAsked(request, command_id, f"checkpoint/{command_id}"), actor="request")

    async def _snapshot(self, data: bytes) -> _Reply:
        request: SnapshotRequest = wire.decode(data, SnapshotRequest)
        check_id(request.cluster, "cluster")
        check_id(request.namespace, "namespace")
        check_id(request.snapshot_id, "snapshot id")
        return await self._decided(SnapshotAsked(request, f"snapshot/{uuid.uuid4()}"), actor="request")

    async def _decided(self, asked: Input, *, actor: str) -> _Reply:
        async with asyncio.timeout(_DECIDE_SECONDS):
            settled = await (await self._intake.enqueue(asked, actor=actor))
        if settled.answer is None:
            raise UndecidableError("the decision holds no answer")
        return settled.answer

    async def _query(self, data: bytes) -> _Reply:
        request: QueryRequest = wire.decode(data, QueryRequest)
        if request.key is not None:
            _check_key(request.key)
        if not 1 <= request.limit <= _MOST_ROWS:
            return _malformed(f"limit {request.limit} is not between 1 and {_MOST_ROWS} - at `$.limit`")
        async with asyncio.timeout(_DECIDE_SECONDS):
            rows = await self._log.query(
                request.view, key=request.key, command_id=request.command_id, limit=request.limit
            )
        return Rows(rows=rows)


def _check_key(key: CheckpointKey) -> None:
    CheckpointKey.checked(key.cluster, key.namespace, key.id)


def _malformed(problem: str) -> Refusal:
    return Refusal(
        failure=Failure(
            code="malformed-request",
            cause=f"the request cannot be read: {problem}",
            advice="Correct the field that is named; both sides must be of the same version.",
        )
    )


def _too_much(actual_bytes: int, most_bytes: int) -> Refusal:
    return Refusal(
        failure=Failure(
            code="answer-too-large",
            cause=f"the answer has {actual_bytes} bytes, the broker carries {most_bytes}",
            advice="Ask for fewer rows with `limit`, or for one key.",
        )
    )


def _defect(problem: str) -> Refusal:
    return Refusal(
        failure=Failure(
            code="internal-error",
            cause=f"the control plane failed on this request: {problem}",
            advice="This is a defect of Woodfrog; its log holds the traceback.",
        )
    )
