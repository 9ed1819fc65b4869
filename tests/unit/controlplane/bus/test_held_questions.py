"""How long the question of a start that has to wait is held, and how many of them."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest
from nats.aio.client import Client

from controlplane.bus.endpoints import Decisions
from controlplane.bus.request_slots import RequestSlots
from controlplane.core.input_queue import InputQueue
from controlplane.core.key_waiters import KeyWaiters
from controlplane.core.watermark import Watermark
from woodfrog.protocol.ids import NodeName

NODE = NodeName("a")


class _Unconnected:
    def jetstream(self, *, timeout: float) -> None:
        """Nothing is asked of it here."""


@pytest.fixture
def decisions() -> Decisions:
    return Decisions(
        cast("Client", _Unconnected()), cast("InputQueue", None), Watermark(), KeyWaiters(), check_lease=lambda: None
    )


def soon(seconds: float = 60.0) -> float:
    return asyncio.get_running_loop().time() + seconds


async def test_what_happens_ends_the_wait_and_so_does_time(decisions: Decisions) -> None:
    stirred = asyncio.Event()
    assert not await decisions._worth_another_look(stirred, soon(0.01), NODE)
    stirred.set()
    assert await decisions._worth_another_look(stirred, soon(), NODE)


async def test_whoever_comes_beyond_those_that_are_held_is_answered_at_once(
    decisions: Decisions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decisions, "_held", RequestSlots(1, 1))
    stirred = asyncio.Event()
    held = asyncio.create_task(decisions._worth_another_look(stirred, soon(), NODE))
    await asyncio.sleep(0)
    assert not await decisions._worth_another_look(asyncio.Event(), soon(), NODE)
    stirred.set()
    assert await held
    again = asyncio.create_task(decisions._worth_another_look(stirred, soon(), NODE))
    assert await again, "its place is free again"


async def test_a_control_plane_that_ends_answers_what_it_knows(decisions: Decisions) -> None:
    held = asyncio.create_task(decisions._worth_another_look(asyncio.Event(), soon(), NODE))
    await asyncio.sleep(0)
    held.cancel()
    assert await held is False
