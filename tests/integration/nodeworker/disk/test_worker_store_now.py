"""A capture that waits for its store is tried at once when somebody asks for it, or when a newer one waits in its place."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest
from support.outage import Outage
from support.worker import eventually

from nodeworker.agent.command_executor import CommandExecutor
from nodeworker.disk.snapshot_cache import SnapshotCache
from nodeworker.dump.dump import Dumper
from nodeworker.journal import DumpRecord
from woodfrog.protocol.commands import StoreCommand
from woodfrog.protocol.events import CommandFinished, DumpFailed, Outcome, SnapshotStored, SnapshotStoreDelayed
from woodfrog.protocol.ids import CommandId, NodeName

pytestmark = [pytest.mark.timeout(30)]


@pytest.fixture
def outage(tmp_path: Path) -> Iterator[Outage]:
    """A worker whose first pause outlasts the test."""
    made = Outage(tmp_path, WOODFROG_STORE_PAUSE_LIMIT="1h")
    yield made
    made.journal.close()


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodeworker.dump.uploader._RETRY_SECONDS", 3600.0)


def executor(outage: Outage) -> CommandExecutor:
    none = SnapshotCache(outage.settings.copies, limit_bytes=0, limit_seconds=1)
    return CommandExecutor(outage.journal, cast("Dumper", None), outage.uploader, outage.store, none)


def command(name: str, record: DumpRecord, *, seconds: float = 60) -> StoreCommand:
    now = datetime.now(UTC)
    return StoreCommand(
        CommandId(name), NodeName("a"), record.key, record.incarnation, record.snapshot_id,
        issued_at=now, deadline=now + timedelta(seconds=seconds),
    )  # fmt: skip


async def waiting(outage: Outage) -> DumpRecord:
    """A capture that the store has refused once, and that is to be tried again in an hour."""
    outage.away()
    record = outage.capture(1, final=True)
    outage.uploader.store(record)

    async def refused() -> bool:
        return bool(outage.of(SnapshotStoreDelayed)) and len(outage.uploader.unstored) == 1

    await eventually(refused, saying="it waits")
    return record


def ends(outage: Outage) -> list[CommandFinished]:
    return [event for event in outage.of(CommandFinished) if isinstance(event, CommandFinished)]


async def test_it_is_tried_at_once_as_often_as_is_asked_and_every_try_says_how_it_ended(outage: Outage) -> None:
    record = await waiting(outage)
    obeying = executor(outage)
    await obeying.obey(command("still-away", record))
    (refused,) = ends(outage)
    assert refused.outcome is Outcome.FAILED
    assert refused.failure is not None
    assert refused.failure.code == "store-unreachable"
    assert not outage.of(SnapshotStored)
    outage.back()
    await obeying.obey(command("back", record))
    assert outage.of(SnapshotStored)
    assert ends(outage)[-1].outcome is Outcome.SUCCEEDED
    assert outage.events.index(outage.of(SnapshotStored)[0]) < outage.events.index(ends(outage)[-1]), (
        "first it is valid"
    )


async def test_what_waits_no_more_needs_no_try_and_what_comes_too_late_makes_none(outage: Outage) -> None:
    record = await waiting(outage)
    obeying = executor(outage)
    outage.back()
    await obeying.obey(command("late", record, seconds=-1))
    (late,) = ends(outage)
    assert late.failure is not None
    assert late.failure.code == "command-expired"
    assert not outage.of(SnapshotStored)
    await obeying.obey(command("first", record))
    await obeying.obey(command("second", record))
    assert len(outage.of(SnapshotStored)) == 1
    assert [event.outcome for event in ends(outage)[1:]] == [Outcome.SUCCEEDED] * 2


async def test_a_worker_that_ends_meanwhile_says_nothing_of_the_try_and_the_next_one_does(outage: Outage) -> None:
    record = await waiting(outage)
    obeying = executor(outage)
    began, over = threading.Event(), threading.Event()

    def hanging(*_given: object) -> None:
        began.set()
        over.wait(10)
        raise TimeoutError

    outage.store.put = hanging  # type: ignore[method-assign, assignment]
    asked = asyncio.create_task(obeying.obey(command("asked", record)))
    assert await asyncio.to_thread(began.wait, 10)
    await outage.end()
    await obeying.close()
    over.set()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert not ends(outage)
    outage.back()
    outage.begin().store(outage.journal.dumps()[0])
    await executor(outage).obey(command("asked", record))
    assert [event.outcome for event in ends(outage)] == [Outcome.SUCCEEDED]


async def test_a_newer_capture_of_the_id_takes_the_place_of_the_one_that_waits_but_not_of_a_last_one(
    tmp_path: Path,
) -> None:
    outage = Outage(tmp_path, WOODFROG_STORE_PAUSE_LIMIT="1h", WOODFROG_STORE_ATTEMPTS="1")
    outage.away()
    records = [
        outage.capture(1, final=True),
        outage.capture(2, final=False),
        outage.capture(3, final=False, name="other"),
    ]
    for record in records:
        outage.uploader.store(record)

    async def waits(count: int) -> None:
        async def so_many() -> bool:
            return len(outage.uploader.unstored) == count

        await eventually(so_many, saying=f"{count} wait")

    await waits(3)
    newer = outage.capture(4, final=False)
    outage.uploader.store(newer)
    await outage.uploader.wait(records[1].snapshot_id)
    (failed,) = outage.of(DumpFailed)
    assert isinstance(failed, DumpFailed)
    assert (failed.snapshot_id, failed.failure.code) == (records[1].snapshot_id, "capture-replaced")
    await waits(3)
    left = {record.snapshot_id for record in (records[0], records[2], newer)}
    assert {path.name for path in outage.settings.spool.iterdir()} == left
    await outage.end()
    outage.journal.close()
