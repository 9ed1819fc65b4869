"""A create ends with whoever asked for it, and is over when that is said."""

from __future__ import annotations

import asyncio
import threading

import pytest

from nodeworker.restore.pending_creates import PendingCreates
from nodeworker.threads import to_the_end, to_the_end_unless
from woodfrog.protocol.ids import ContainerId
from woodfrog.protocol.runtime_api import Done, LocalAnswer

pytestmark = pytest.mark.timeout(5)

ONE = ContainerId("one")


async def test_a_create_that_is_cancelled_has_ended_when_that_returns() -> None:
    creates, ended = PendingCreates(), []

    async def work() -> LocalAnswer:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            ended.append(True)
        return Done()

    asked = asyncio.create_task(creates.carry_out(ONE, work()))
    await asyncio.sleep(0.01)
    assert creates.is_under_way(ONE)
    await creates.cancel(ONE)
    assert ended == [True]
    assert not creates.is_under_way(ONE)
    with pytest.raises(asyncio.CancelledError):
        await asked


async def test_one_that_is_asked_for_again_takes_the_place_of_the_first() -> None:
    creates = PendingCreates()
    first = asyncio.create_task(creates.carry_out(ONE, asyncio.sleep(60, Done())))
    await asyncio.sleep(0.01)
    assert await creates.carry_out(ONE, asyncio.sleep(0, Done())) == Done()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert not creates.is_under_way(ONE)


async def test_what_writes_is_waited_for_although_nobody_wants_it_any_more() -> None:
    go, written = threading.Event(), []

    def write() -> None:
        go.wait(5)
        written.append(True)

    task = asyncio.create_task(to_the_end(write))
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.sleep(0.01)
    assert not task.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert written == [True]


async def test_it_is_left_alone_when_the_worker_ends() -> None:
    leaving, go = asyncio.Event(), threading.Event()
    task = asyncio.create_task(to_the_end_unless(leaving, lambda: go.wait(5)))
    await asyncio.sleep(0.01)
    task.cancel()
    leaving.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    go.set()
