"""How a final dump ends that was tried and is not tried again: it is never left open."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from nodeworker.dump import grace_period
from nodeworker.dump.dump import Dumper
from nodeworker.dump.dump_queue import DumpQueue
from nodeworker.journal import ContainerRecord, DumpRecord
from woodfrog.protocol.events import DumpStage, Trigger
from woodfrog.protocol.facts import ContainerFacts
from woodfrog.protocol.failures import Failure, FailureError
from woodfrog.protocol.ids import CheckpointKey, ContainerId, NodeName, SnapshotId

pytestmark = pytest.mark.timeout(5)

ONE = ContainerId("one")
TRACED = Failure("traced", "a debugger holds it", "")
RUNNING = ContainerRecord(
    container_id=ONE,
    key=CheckpointKey.checked("local", "default", "train"),
    bundle="/b",
    runc_root="/r",
    facts=ContainerFacts(),
    asked_at=datetime.now(UTC),
)
TRIED = DumpRecord(
    snapshot_id=SnapshotId("s-1"),
    key=RUNNING.key,
    incarnation=RUNNING.incarnation,
    container_id=ONE,
    trigger=Trigger.STOP_SIGNAL,
    final=True,
    started_at=RUNNING.asked_at,
    facts=RUNNING.facts,
    boot_id="boot",
)


class Node:
    """A worker's dumps of a container, of which one try has failed."""

    def __init__(self, known: ContainerRecord | None, *, limit_seconds: float = 5.0) -> None:
        self.failed: list[tuple[DumpRecord, DumpStage, Failure]] = []
        self.dumper = Dumper.__new__(Dumper)
        inside: Any = self.dumper
        inside._turns = DumpQueue(1)
        inside._journal = SimpleNamespace(
            container=lambda _container_id: known,
            finish_dump=lambda record, failure, event: self.failed.append((record, event.stage, failure)),
        )
        inside._settings = SimpleNamespace(stop_limit_seconds=limit_seconds, node=NodeName("here"))
        self.turns: DumpQueue = inside._turns

    async def try_again(self) -> SnapshotId:
        came = datetime.now(UTC)
        tries = grace_period.Tries(came, came + timedelta(seconds=30))
        tries.pause_seconds(TRACED)
        tries.record = TRIED
        return await self.dumper._final(RUNNING, tries, came, came + timedelta(seconds=30))


async def test_of_a_container_that_went_away_between_two_tries_the_end_is_reported() -> None:
    node = Node(None)
    with pytest.raises(FailureError) as problem:
        await node.try_again()
    assert problem.value.failure == TRACED
    assert node.failed == [(TRIED, DumpStage.PREFLIGHT, TRACED)]


async def test_of_a_container_that_another_stop_has_dumped_meanwhile_too() -> None:
    node = Node(msgspec.structs.replace(RUNNING, final_snapshot=SnapshotId("s-2")))
    assert await node.try_again() == "s-2"
    assert node.failed == [(TRIED, DumpStage.PREFLIGHT, TRACED)]


async def test_and_where_a_dump_that_began_meanwhile_takes_too_long() -> None:
    node = Node(RUNNING, limit_seconds=0.05)
    busy = asyncio.create_task(_hold(node.turns, asyncio.Event().wait))
    await asyncio.sleep(0.01)
    with pytest.raises(FailureError) as problem:
        await node.try_again()
    assert problem.value.failure.code == "dump-in-flight"
    assert node.failed == [(TRIED, DumpStage.PREFLIGHT, TRACED)]
    busy.cancel()


async def _hold(turns: DumpQueue, wait: Callable[[], Any]) -> None:
    async with turns.turn(ONE, final=False, deadline=datetime.now(UTC)):
        await wait()
