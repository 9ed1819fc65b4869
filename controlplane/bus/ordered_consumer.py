"""A durable consumer's messages in the order of their stream, none left out.

A broker does not promise that. Messages that were delivered to a connection that died, to a question that nobody waits for any
more, or to a leader that was deposed come again half a minute later, and those behind them come first. Whoever tells a story
from them would take a later word before an earlier one, and then drop the earlier as long told. So nothing is handed out here
unless everything before it was: the first message must follow the consumer's acknowledged floor, each other the one before it.

A number that is missing proves nothing by itself, because streams forget by age and by subject. The stream is asked what stands
next in it: if that is the message that came, nothing was lost, else the consumer is made anew behind its floor.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

from controlplane.bus.pull_consumer import PullConsumer
from controlplane.bus.streams import BROKER_ERRORS, REQUEST_SECONDS, ensure_streams
from woodfrog.service.backoff import Backoff
from woodfrog.service.cancellation import end_if_cancelled

_log = structlog.get_logger(component="inorder")

_BATCH: Final = 256
_ACK_WAIT_SECONDS: Final = 30.0
_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 5.0
_LONGEST_REASON: Final = 200


class LostOnTheWayError(Exception):
    """A message was delivered and did not arrive, or the stream is another one by now."""


class OrderedConsumer:
    """One durable consumer: :meth:`follow` hands out what comes.

    By hand it is opened with :meth:`open`, then asked with :meth:`fetch`, and after any error opened again.
    """

    def __init__(self, client: Client, *, stream: str, durable: str, subjects: str, description: str) -> None:
        """``subjects`` is all that ``stream`` takes."""
        self._client = client
        self._jetstream = client.jetstream(timeout=REQUEST_SECONDS)
        self._stream = stream
        self._durable = durable
        self._subjects = subjects
        self._description = description
        self._pull: PullConsumer | None = None
        self._previous = 0
        self._broken = False

    async def follow(
        self, take: Callable[[list[Msg]], Awaitable[None]], opened: Callable[[int], Awaitable[None]] | None = None
    ) -> None:
        """Hand messages to ``take``, which settles them, until cancelled, however often the broker goes away.

        ``opened`` is told, each time, the sequence up to which everything is acknowledged.
        """
        backoff = Backoff(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
        while True:
            try:
                await ensure_streams(self._jetstream)
                try:
                    floor = await self.open()
                    if opened is not None:
                        await opened(floor)
                    backoff.reset()
                    while True:
                        end_if_cancelled()
                        if messages := await self.fetch():
                            await take(messages)
                finally:
                    await self.close()
            except (*BROKER_ERRORS, LostOnTheWayError) as problem:
                await _log.awarning(
                    "consuming starts over", stream=self._stream, error=problem, pause_seconds=backoff.next_seconds
                )
                await backoff.sleep()

    async def refuse(self, message: Msg, reason: str) -> None:
        """Terminate a message at the broker, which then tells the reason in its ``MSG_TERMINATED`` advisory.

        nats-py's term() cannot say why; the server takes the rest of the line as the reason (ADR-15 of
        nats-architecture-and-design).
        """
        await self._client.publish(message.reply, b"+TERM " + " ".join(reason.split())[:_LONGEST_REASON].encode())

    async def open(self) -> int:
        """Bind to the consumer; answer the sequence up to which everything is acknowledged.

        It is made if it is missing, and made anew if it has messages out that nobody will acknowledge, or something was lost.

        Raises:
            nats.errors.Error: the broker or the stream is away.
        """
        floor = 0
        missing = False
        try:
            consumer = await self._jetstream.consumer_info(self._stream, self._durable)
        except NotFoundError:
            missing = True
        else:
            floor = consumer.ack_floor.stream_seq if consumer.ack_floor else 0
            if consumer.num_ack_pending or self._broken:
                await self._jetstream.delete_consumer(self._stream, self._durable)
                missing = True
        if missing:
            await self._jetstream.add_consumer(
                self._stream,
                ConsumerConfig(
                    durable_name=self._durable,
                    description=self._description,
                    deliver_policy=DeliverPolicy.BY_START_SEQUENCE if floor else DeliverPolicy.ALL,
                    opt_start_seq=floor + 1 if floor else None,
                    ack_policy=AckPolicy.EXPLICIT,
                    ack_wait=_ACK_WAIT_SECONDS,
                    max_ack_pending=4 * _BATCH,
                ),
            )
        self._previous, self._broken = floor, False
        self._pull = await PullConsumer(self._client, self._stream, self._durable, batch=_BATCH).open()
        await _log.ainfo("consuming", stream=self._stream, after=floor, consumer_made=missing)
        return floor

    async def close(self) -> None:
        """Let go of the consumer."""
        pull, self._pull = self._pull, None
        if pull is not None:
            await pull.close()

    async def fetch(self) -> list[Msg]:
        """Wait some time for messages; answer those that came, which may be none. They must be settled before the next call.

        Of what was handed out before, some may come again.

        Raises:
            LostOnTheWayError: what comes next is not known to be next.
            nats.errors.Error: the broker or the consumer is away.
        """
        assert self._pull is not None
        if self._broken:
            raise LostOnTheWayError(f"{self._stream}, behind sequence {self._previous}")
        whole: list[Msg] = []
        for message in await self._pull.take():
            if not await self._follows(message):
                self._broken = True
                break
            self._previous = max(message.metadata.sequence.stream, self._previous)
            whole.append(message)
        return whole

    async def _follows(self, message: Msg) -> bool:
        metadata = message.metadata
        sequence = metadata.sequence.stream
        if sequence <= self._previous:
            return metadata.num_delivered > 1  # one that is new under an old number is of another stream, or consumer
        if sequence == self._previous + 1:
            return True
        try:
            after = await self._jetstream.get_msg(
                self._stream, seq=self._previous + 1, subject=self._subjects, next=True
            )
        except NotFoundError:
            return False
        return after.seq == sequence
