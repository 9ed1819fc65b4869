"""Workers that ask in a heartbeat what became of their reports; the broker is not there, its messages are handed in."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

from nats.aio.client import Client

from controlplane.bus.heartbeats import Heartbeats
from controlplane.core.input_queue import InputQueue
from woodfrog.protocol import subjects, wire
from woodfrog.protocol.facts import NodeFacts
from woodfrog.protocol.ids import NodeName, WorkerId
from woodfrog.protocol.reports import Heartbeat, Vouched

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
NODE = NodeName("a")


class Wire:
    """As much of a NATS client as presence needs."""

    is_connected = False

    def __init__(self) -> None:
        self.hear: Callable[[Any], Awaitable[None]] | None = None
        self.answers: dict[str, Vouched] = {}

    async def subscribe(self, _subject: str, *, cb: Callable[[Any], Awaitable[None]]) -> None:
        self.hear = cb

    async def publish(self, reply: str, data: bytes) -> None:
        self.answers[reply] = wire.decode(data, Vouched)

    async def ask(self, reply: str, *reports: UUID) -> None:
        assert self.hear is not None
        question = Heartbeat(NODE, WorkerId("w"), "boot", NodeFacts(), confirmed=reports)
        await self.hear(SimpleNamespace(subject=subjects.heartbeats(NODE), data=wire.encode(question), reply=reply))


async def test_questions_that_come_while_others_are_answered_are_answered_together_each_about_its_own_reports() -> None:
    client = Wire()
    lost = uuid4()
    calls: list[int] = []
    go_on = asyncio.Event()

    async def vouch(reports: Sequence[UUID]) -> Vouched:
        calls.append(len(reports))
        await go_on.wait()
        return Vouched(tuple(set(reports) - {lost}), (lost,))

    presence = Heartbeats(
        cast("Client", client), cast("InputQueue", None), dict, lost_seconds=15.0, wall_clock=lambda: NOON, vouch=vouch
    )
    running = asyncio.create_task(presence.run())
    await asyncio.sleep(0)
    while client.hear is None:  # noqa: ASYNC110 -- the subscription is made in a few steps of the loop
        await asyncio.sleep(0)
    named = {f"inbox-{number}": uuid4() for number in range(300)}
    for reply, report in named.items():
        await client.ask(reply, report, lost)
        await asyncio.sleep(0)
    go_on.set()
    async with asyncio.timeout(5):
        while len(client.answers) < len(named):  # noqa: ASYNC110 -- the answers come over the stub
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert calls == [2, 2 * 299]
    assert client.answers == {reply: Vouched((report,), (lost,), NOON) for reply, report in named.items()}
