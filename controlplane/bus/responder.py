"""How questions are answered, whatever they are about.

Every question gets an answer in bounded time: what was asked, or a :class:`woodfrog.protocol.requests.Refusal` with a cause and an
advice. A question that cannot be read changes nothing and is told which field is wrong.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final
from urllib.parse import unquote

import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg

from controlplane.bus.request_slots import RequestSlots
from controlplane.bus.streams import BROKER_ERRORS, MAX_MESSAGE_BYTES
from controlplane.core.input_queue import UndecidableError
from controlplane.domain.inputs import Answer
from controlplane.election.candidate import LeaseLapsedError
from woodfrog.protocol import subjects, wire
from woodfrog.protocol.failures import NODE_BUSY, Failure, FailureError
from woodfrog.protocol.ids import InvalidIdError
from woodfrog.protocol.requests import Refusal, Rows
from woodfrog.service import tracing

_log = structlog.get_logger(component="services")

DECIDE_SECONDS: Final = 4.0
"""How long a decision and its commit, or a query, may take.

With the catching up and a look at the pod it is less than the 15 s that workers wait.
"""
_FLUSH_SECONDS: Final = 5
_OF_NODES: Final = subjects.RESOLVE_ALL.removesuffix("*")
_MOST_IN_FLIGHT: Final = 1024
QUESTIONS_PER_NODE: Final = 128
"""So many containers of a node can ask at the same time how to start; a node has some hundred pods at most."""

Reply = Answer | Rows
Answerer = Callable[[Msg], Awaitable[Reply]]


class Responder:
    """Listens on subjects and answers."""

    def __init__(
        self,
        client: Client,
        answerers: Mapping[str, Answerer],
        *,
        queue_group: str = "",
        may_answer: Callable[[], None] = lambda: None,
        questions_per_node: int = QUESTIONS_PER_NODE,
    ) -> None:
        """Of those in one ``queue_group``, one is asked. ``may_answer`` raises LeaseLapsedError if nothing may be said."""
        self._client = client
        self._answerers = answerers
        self._queue_group = queue_group
        self._may_answer = may_answer
        self.places = RequestSlots(_MOST_IN_FLIGHT, questions_per_node)
        self.listening = asyncio.Event()
        """Set once requests are heard."""

    async def run(self) -> None:
        """Answer until cancelled."""
        async with asyncio.TaskGroup() as group:

            def listen(answer: Answerer) -> Callable[[Msg], Awaitable[None]]:
                async def heard(message: Msg) -> None:
                    asker = self._asker(message.subject)
                    if self.places.enter(asker):
                        group.create_task(self._serve(message, answer, asker))
                    else:
                        await self._reply(message, busy(f"node {asker}" if asker else "the control plane"))

                return heard

            subscriptions = [
                await self._client.subscribe(subject, queue=self._queue_group, cb=listen(answer))
                for subject, answer in self._answerers.items()
            ]
            await flushed(self._client)
            self.listening.set()
            try:
                await asyncio.Event().wait()
            finally:
                if self._client.is_connected:
                    for subscription in subscriptions:
                        await subscription.unsubscribe()

    def _asker(self, subject: str) -> str:
        """Name the node that a question comes from, as the broker has made sure of; empty if it comes from people."""
        return unquote(subject.rpartition(".")[2]) if subject.startswith(_OF_NODES) else ""

    async def _serve(self, message: Msg, answer: Answerer, asker: str) -> None:
        try:
            await self._reply(message, await self._answered(message, answer))
        finally:
            self.places.leave(asker)

    async def _reply(self, message: Msg, said: Reply) -> None:
        try:
            reply = wire.encode(said)
            if len(reply) > self._client.max_payload:
                reply = wire.encode(_too_much(len(reply), self._client.max_payload))
            self._may_answer()
            if message.reply:
                await self._client.publish(message.reply, reply)
        except (*BROKER_ERRORS, LeaseLapsedError) as problem:
            await _log.awarning("an answer could not be sent", subject=message.subject, error=problem)

    async def _answered(self, message: Msg, answer: Answerer) -> Reply:
        try:
            if len(message.data) > MAX_MESSAGE_BYTES:
                return malformed(f"{len(message.data)} bytes are more than {MAX_MESSAGE_BYTES}")
            with tracing.span("request", parent=tracing.of_message(message.headers), subject=message.subject):
                return await answer(message)
        except (wire.MalformedMessageError, InvalidIdError) as problem:
            return malformed(str(problem))
        except FailureError as problem:  # the log is unavailable, or a view has no such column
            return Refusal(failure=problem.failure)
        except TimeoutError:
            return Refusal(
                failure=Failure(
                    code="control-plane-busy",
                    cause=f"the control plane did not come to a decision within {DECIDE_SECONDS:g} s",
                    advice="Ask again; if this persists, look at the control plane's log and its database.",
                )
            )
        except UndecidableError as problem:
            return _defect(str(problem))
        except Exception as problem:  # noqa: BLE001 - one question must not end the answers to all others
            await _log.aexception("a request failed in an unforeseen way", subject=message.subject)
            return _defect(repr(problem))


async def flushed(client: Client) -> None:
    """Wait until the broker has heard what was subscribed to, if it is there: it is told again with each connection."""
    try:
        await client.flush(_FLUSH_SECONDS)
    except BROKER_ERRORS as problem:
        await _log.awarning("the broker went away while listening began", error=problem)


def malformed(problem: str) -> Refusal:
    """Refuse a question that cannot be read."""
    return Refusal(
        failure=Failure(
            code="malformed-request",
            cause=f"the request cannot be read: {problem}",
            advice="Correct the field that is named; both sides must be of the same version.",
        )
    )


def busy(who: str) -> Refusal:
    """Turn a question away because too many of the same node are open."""
    return Refusal(
        failure=Failure(
            code=NODE_BUSY,
            cause=f"{who} has too many questions open at the same time",
            advice="The worker asks again by itself. If it persists, see what starts so many containers there.",
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
