"""While the store is away, what cannot be had again waits on the node: for any time, across workers, and before all else."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import cast

import pytest
from support.outage import BEGAN, BOOT, Outage
from support.world import World

from nodeworker.agent.recovery import settle_dumps
from nodeworker.capture.criu.runc import Runc
from nodeworker.domain.store_retries import goes_on
from woodfrog.protocol.events import DumpFailed, SnapshotStored, SnapshotStoreDelayed
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.requests import RestoreFrom, StartCold, WaitFor

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def outage(tmp_path: Path) -> Iterator[Outage]:
    made = Outage(tmp_path)
    yield made
    made.journal.close()


async def test_a_final_capture_is_tried_until_it_is_stored_and_its_wait_is_reported_once(outage: Outage) -> None:
    outage.away()
    record = outage.capture(1, final=True)
    outage.uploader.store(record)
    await outage.refused(8)
    assert not outage.of(DumpFailed)
    assert len(outage.uploader.unstored) <= 1
    (delayed,) = outage.of(SnapshotStoreDelayed)
    assert isinstance(delayed, SnapshotStoreDelayed)
    assert delayed.failure.code == "store-unreachable"
    outage.back()
    await outage.uploader.wait(record.snapshot_id)
    assert [event.snapshot_id for event in outage.of(SnapshotStored) if isinstance(event, SnapshotStored)] == [
        record.snapshot_id
    ]
    assert len(outage.uploader.unstored) == 0
    assert outage.journal.dumps() == []


async def test_the_next_worker_goes_on_trying_even_after_the_machine_was_started_again(outage: Outage) -> None:
    outage.away()
    record = outage.capture(1, final=True, boot="an earlier boot")
    outage.uploader.store(record)
    await outage.refused(3)
    await outage.end()
    uploader = outage.begin()
    whole = settle_dumps(outage.settings, outage.journal, uploader, cast("Runc", None), boot_id=BOOT, frozen={})
    assert [one.snapshot_id for one in whole] == [record.snapshot_id]
    for one in whole:
        uploader.store(one)
    await outage.refused(3)
    assert len(outage.of(SnapshotStoreDelayed)) == 1, "the reason is the same, and since when it waits"
    outage.back()
    await uploader.wait(record.snapshot_id)
    assert len(outage.of(SnapshotStored)) == 1


async def test_the_newest_of_an_id_waits_and_an_older_one_does_not(outage: Outage) -> None:
    outage.away()
    older, newer = outage.capture(1, final=False), outage.capture(2, final=False)
    for record in (older, newer):
        outage.uploader.store(record)
    await outage.uploader.wait(older.snapshot_id)
    (failed,) = outage.of(DumpFailed)
    assert isinstance(failed, DumpFailed)
    assert failed.snapshot_id == older.snapshot_id
    outage.back()
    await outage.uploader.wait(newer.snapshot_id)
    assert len(outage.of(SnapshotStored)) == 1


async def test_on_a_crowded_disk_the_oldest_goes_whose_container_runs_on_and_never_a_final_one(tmp_path: Path) -> None:
    outage = Outage(tmp_path)
    outage.away()
    records = [
        outage.capture(1, final=True, name="ended"),
        outage.capture(2, final=False, name="runs"),
        outage.capture(3, final=False, name="runs-too"),
    ]
    for record in records:
        outage.uploader.unstored.wait(record)
    assert outage.uploader.unstored.give_way()
    assert [event.snapshot_id for event in outage.of(DumpFailed) if isinstance(event, DumpFailed)] == [
        records[1].snapshot_id
    ]
    assert not outage.uploader.unstored.resume(records[1])
    assert outage.uploader.unstored.give_way()
    assert not outage.uploader.unstored.give_way()
    assert outage.uploader.unstored.resume(records[0])
    assert [path.name for path in outage.settings.spool.iterdir()] == [records[0].snapshot_id]
    outage.journal.close()


async def test_a_disk_below_the_floor_makes_room_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outage = Outage(tmp_path)
    monkeypatch.setattr(outage.uploader.unstored, "_is_crowded", lambda: True)
    outage.away()
    final, other = outage.capture(1, final=True, name="ended"), outage.capture(2, final=False, name="runs")
    outage.uploader.store(other)
    await outage.uploader.wait(other.snapshot_id)
    assert [event.failure.code for event in outage.of(DumpFailed) if isinstance(event, DumpFailed)] == ["spool-crowded"]
    outage.uploader.store(final)
    await outage.refused(4)
    outage.back()
    await outage.uploader.wait(final.snapshot_id)
    assert len(outage.of(SnapshotStored)) == 1
    outage.journal.close()


@pytest.mark.parametrize(
    ("code", "final", "newest", "tries_left", "again"),
    [
        ("store-unreachable", True, False, 0, True),
        ("internal", True, False, 0, True),
        ("store-denied", False, True, 0, True),
        ("disk-full", False, True, 0, True),
        ("internal", False, True, 0, False),
        ("internal", False, True, 1, True),
        ("store-unreachable", False, False, 0, False),
        ("spool-lost", True, True, 5, False),
        ("capture-unfit", True, True, 5, False),
    ],
)
def test_what_would_be_lost_decides_how_long_storing_is_tried(
    code: str, final: bool, newest: bool, tries_left: int, again: bool
) -> None:
    assert goes_on(code, final=final, newest=newest, tries_left=tries_left) == again


def test_a_start_elsewhere_waits_for_it_says_why_and_goes_on_when_the_time_is_up() -> None:
    world = World("a", "b")
    world.run("c1", "a")
    world.dump(1, "s1")
    world.captured(1, "s1")
    refused = Failure("store-unreachable", "the store does not answer", "Mount it.")
    world.report(SnapshotStoreDelayed(**world.about(1, "s1"), failure=refused, since=BEGAN))
    world.ended(1)
    waiting = world.ask("c2", "b").answer
    assert isinstance(waiting, WaitFor)
    assert "on node a, not stored: store-unreachable since 12:03" in waiting.waiting_for
    world.now += timedelta(minutes=3)
    cold = world.ask("c2", "b").answer
    assert isinstance(cold, StartCold)
    assert (
        "it is on node a, not stored: store-unreachable since 12:03, when the time for the hand-over was up"
        in cold.reason
    )


def test_a_delay_that_is_reported_late_changes_nothing_of_a_stored_snapshot() -> None:
    world = World("a", "b")
    world.run("c1", "a")
    world.snapshot(1, "s1", final=True)
    refused = Failure("store-unreachable", "the store does not answer", "Mount it.")
    late = world.report(SnapshotStoreDelayed(**world.about(1, "s1"), failure=refused, since=BEGAN))
    assert late.events == ()
    world.ended(1)
    assert isinstance(world.ask("c2", "b").answer, RestoreFrom)
