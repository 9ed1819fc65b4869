"""What is drawn from a consumer, and when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import nats.errors
import pytest
from nats.aio.client import Client
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import APIError
from support.servers import NatsServer

from controlplane.bus import pull_consumer
from controlplane.bus.pull_consumer import PullConsumer

pytestmark = pytest.mark.nats


@pytest.fixture
async def drawing(client: Client) -> AsyncIterator[PullConsumer]:
    jetstream = client.jetstream()
    await jetstream.add_stream(name="S", subjects=["s"])
    await jetstream.add_consumer("S", ConsumerConfig(durable_name="d", ack_policy=AckPolicy.EXPLICIT))
    opened = await PullConsumer(client, "S", "d", batch=3).open()
    yield opened
    await opened.close()


async def drawn(drawing: PullConsumer, count: int) -> list[bytes]:
    found: list[bytes] = []
    while len(found) < count:
        messages = await drawing.take()
        found += [message.data for message in messages]
        for message in messages:
            await message.ack()
    return found


async def test_the_first_message_is_handed_out_before_there_is_a_second(
    client: Client, drawing: PullConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull_consumer, "_EXPIRES_SECONDS", 600.0)  # the test's own time is up before that
    for number in range(8):
        await client.jetstream().publish("s", b"%d" % number)
        assert await drawn(drawing, 1) == [b"%d" % number]


async def test_more_than_a_batch_comes_in_order_and_once(client: Client, drawing: PullConsumer) -> None:
    for number in range(10):
        await client.jetstream().publish("s", b"%d" % number)
    assert await drawn(drawing, 10) == [b"%d" % number for number in range(10)]
    info = await client.jetstream().consumer_info("S", "d")
    assert (info.delivered.consumer_seq if info.delivered else 0) == 10


async def test_what_comes_after_a_request_has_run_out_is_drawn_by_the_next(
    client: Client, drawing: PullConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull_consumer, "_EXPIRES_SECONDS", 1.0)
    running_out = asyncio.get_running_loop().time() + 1.5
    while asyncio.get_running_loop().time() < running_out:
        assert await drawing.take() == [], "the broker says now and then that there is nothing"
    await client.jetstream().publish("s", b"late")
    assert await drawn(drawing, 1) == [b"late"]


async def test_messages_before_an_end_are_handed_out_first(client: Client, drawing: PullConsumer) -> None:
    assert await drawing.take() == []
    await client.jetstream().publish("s", b"last")
    await client.jetstream().delete_consumer("S", "d")
    assert await drawn(drawing, 1) == [b"last"]
    with pytest.raises((APIError, nats.errors.Error, TimeoutError)):
        await drawn(drawing, 1)


async def test_a_broker_that_is_away_is_noticed(client: Client, drawing: PullConsumer, nats_server: NatsServer) -> None:
    assert await drawing.take() == []
    nats_server.kill()
    with pytest.raises((nats.errors.Error, TimeoutError)):
        await drawn(drawing, 1)
