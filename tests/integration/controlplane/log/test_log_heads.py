"""Signed heads on both engines: of one moment, and the same whoever computes them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence

from msgspec.structs import replace
from support.logstory import START, new, story

from controlplane.log import EventLog
from controlplane.log.heads import HeadKey
from controlplane.log.records import NewEvent
from woodfrog.protocol.events import NodeLost
from woodfrog.protocol.ids import NodeName, WorkerId

KEY = HeadKey(b"0123456789abcdef0123456789abcdef")
NAMES = ("b", "B", "a", "_", "a-b", "a.b", "é", "Z", "z", "10", "9")
"""Which languages sort otherwise than bytes do."""


def lost() -> Sequence[NewEvent]:
    return [new(NodeLost(node=NodeName(name), worker_id=WorkerId("w"), silent_seconds=1.0)) for name in NAMES]


async def test_a_head_is_the_same_in_the_database_and_in_a_walk_through_the_events(log: EventLog) -> None:
    assert (await log.chain_heads())[0] == 0
    epoch = await log.take_lead()
    await log.append([*story(), *lost()], epoch=epoch)
    head = KEY.sign("lab", *(await log.chain_heads()), START)
    assert head.position == len(story()) + len(NAMES)
    await log.append(lost(), epoch=epoch)
    assert await log.head_problems([head], public=KEY.public) == []


async def test_a_head_is_of_one_moment_while_the_log_grows(log: EventLog) -> None:
    epoch = await log.take_lead()

    async def grow() -> None:
        for _ in range(30):
            await log.append([replace(one, event_id=uuid.uuid4()) for one in lost()], epoch=epoch)

    growing = asyncio.create_task(grow())
    heads = []
    while not growing.done():
        heads.append(KEY.sign("lab", *(await log.chain_heads()), START))
        await asyncio.sleep(0)
    await growing
    assert len(heads) > 1
    assert await log.head_problems(heads, public=KEY.public) == []
