"""What a durable consumer has to give, handed out as soon as it comes.

nats-py's own ``fetch`` is made for jobs: once the first message has come it waits for the rest of a batch until the time is up
(2 seconds here, for a report that a start somewhere waits for), and a request that it makes while messages are in its queue is one
that the server refuses. So the request for more is made here, after the JetStream wire API (docs.nats.io, "JetStream Wire API
Reference", ``$JS.API.CONSUMER.MSG.NEXT``): one at a time, for many messages, which ends by count or by time.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final, Self

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import JetStreamContext
from nats.js.api import StatusCode
from nats.js.errors import APIError

from controlplane.bus.streams import BROKER_ERRORS

_EXPIRES_SECONDS: Final = 2.0
_HEARTBEAT_SECONDS: Final = 0.5
_SILENCE_SECONDS: Final = 2.5
"""A broker that says nothing for so long, not even that it has nothing, is away."""
_NANOSECONDS: Final = 1_000_000_000
_ENDS: Final = frozenset({StatusCode.NO_MESSAGES, StatusCode.REQUEST_TIMEOUT})


class PullConsumer:
    """Draws from one consumer, from :meth:`open` to :meth:`close`."""

    def __init__(self, client: Client, stream: str, durable: str, *, batch: int) -> None:
        self._client = client
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}"
        self._batch = batch
        self._inbox = client.new_inbox()
        self._subscription: Subscription | None = None
        self._come: list[Msg] = []
        self._here = asyncio.Event()
        self._outstanding = 0
        """How many messages the request that is at the broker may still bring."""

    async def open(self) -> Self:
        """Begin to listen."""
        self._subscription = await self._client.subscribe(self._inbox, cb=self._hear)
        return self

    async def close(self) -> None:
        """Listen no more, connected or not: a subscription that came back with the connection would be sent messages."""
        if self._subscription is not None:
            with suppress(*BROKER_ERRORS):  # the client is closing, and takes all its subscriptions along
                await self._subscription.unsubscribe()

    async def _hear(self, message: Msg) -> None:
        self._come.append(message)
        self._here.set()

    async def take(self) -> list[Msg]:
        """Wait for messages and answer all that have come; none, if the broker said that there are none.

        Raises:
            nats.js.errors.APIError: the broker ends the request, because the consumer is gone, or led by another server.
            TimeoutError: the broker is silent.
            nats.errors.Error: the connection is closed.
        """
        if self._outstanding <= 0:
            await self._ask()
        async with asyncio.timeout(_SILENCE_SECONDS):
            await self._here.wait()
        self._here.clear()
        come, self._come = self._come, []
        messages: list[Msg] = []
        for place, message in enumerate(come):
            status = JetStreamContext.is_status_msg(message)
            if not status:
                self._outstanding -= 1
                messages.append(message)
            elif status in _ENDS:
                self._outstanding = 0
            elif status != StatusCode.CONTROL_MESSAGE:
                if not messages:
                    raise APIError.from_msg(message)
                self._come[:0] = come[place:]  # what came before it is handed out first
                self._here.set()
                break
        return messages

    async def _ask(self) -> None:
        self._outstanding = self._batch
        request = {
            "batch": self._batch,
            "expires": int(_EXPIRES_SECONDS * _NANOSECONDS),
            "idle_heartbeat": int(_HEARTBEAT_SECONDS * _NANOSECONDS),
        }
        await self._client.publish(self._next, msgspec.json.encode(request), reply=self._inbox)
