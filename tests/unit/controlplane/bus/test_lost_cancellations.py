"""Loops that look after streams end although the cancellation arrived together with an answer of the broker, and was forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, cast

import pytest
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from controlplane.bus.stream_replicas import keep_replicated
from controlplane.bus.stream_storage import keep_within

pytestmark = pytest.mark.timeout(10)


class Forgetful:
    """A broker without streams, whose first answer comes with the cancellation and hides it (bpo-37658)."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def stream_info(self, _stream: str) -> Any:
        if not self.asked.is_set():
            self.asked.set()
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        raise NotFoundError

    async def account_info(self) -> Any:
        return SimpleNamespace(storage=0)


def within(jetstream: JetStreamContext) -> Coroutine[Any, Any, None]:
    return keep_within(jetstream, 1 << 30, lambda _use: None)


def replicated(jetstream: JetStreamContext) -> Coroutine[Any, Any, None]:
    return keep_replicated(jetstream, 3)


@pytest.mark.parametrize("keep", [within, replicated])
async def test_it_ends_all_the_same(keep: Callable[[JetStreamContext], Coroutine[Any, Any, None]]) -> None:
    broker = Forgetful()
    task = asyncio.create_task(keep(cast("JetStreamContext", broker)))
    await broker.asked.wait()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
