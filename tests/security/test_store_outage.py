"""While the store is away, what cannot be had again waits on the node: for any time, across workers, and before all else."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest
from support.worker import eventually
from support.world import World

from nodeworker import settings as worker_settings
from nodeworker.capture.bounds import Bounds
from nodeworker.capture.runc import Runc
from nodeworker.capture.spool import Spool
from nodeworker.copies import Copies
from nodeworker.domain.store_retries import goes_on
from nodeworker.journal import DumpRecord, DumpStep, Journal
from nodeworker.recovery import settle_dumps
from nodeworker.rehearsal.rehearsals import Rehearsals
from nodeworker.settings import Settings
from nodeworker.store.snapshots import SnapshotStore
from nodeworker.storing import Storer
from protocol.events import DumpFailed, ReportedEvent, SnapshotStored, SnapshotStoreDelayed, Trigger
from protocol.facts import ContainerFacts, NodeFacts
from protocol.failures import Failure
from protocol.ids import CheckpointKey, ContainerId, IncarnationNumber, NodeName, SnapshotId, WorkerId
from protocol.requests import RestoreFrom, StartCold, WaitFor

pytestmark = pytest.mark.timeout(60)

BEGAN = datetime(2026, 11, 29, 12, 3, tzinfo=UTC)
BOOT = "this boot"


class Outage:
    """A node whose store is a directory that can be away."""

    def __init__(self, base: Path, **more: str) -> None:
        environment = {
            "WOODFROG_NODE": "a",
            "WOODFROG_STATE_DIR": str(base / "state"),
            "WOODFROG_RUN_DIR": str(base / "run"),
            "WOODFROG_COPIES": "off",
            "WOODFROG_STORE_ATTEMPTS": "2",
            "WOODFROG_STORE_PAUSE_LIMIT": "0.02s",
        }
        self.settings: Settings = worker_settings.from_environment(environment | more)
        self.settings.spool.mkdir(parents=True)
        self.place = base / "state/store"
        self.journal = Journal(base / "journal", node=NodeName("a"), worker_id=WorkerId("w"))
        self.events: list[ReportedEvent] = []
        self.journal.on_events = self.events.extend
        self.storer = self.begin()

    def begin(self) -> Storer:
        """The next worker's."""
        store = SnapshotStore(self.settings.store_url)
        copies = Copies(self.settings.copies, limit_bytes=0, limit_seconds=1)
        facts, runc = NodeFacts("x86_64"), Runc(Path("runc"), Path("criu"))
        rehearsals = Rehearsals(self.settings, self.journal, runc, facts=facts, criu_config=None)
        self.storer = Storer(self.settings, self.journal, store, copies, facts, rehearsals)
        return self.storer

    def away(self) -> None:
        """Let the store's place be something else."""
        if self.place.exists():
            self.place.rename(self.place.with_name("elsewhere"))
        self.place.write_text("not a directory")

    def back(self) -> None:
        self.place.unlink()
        elsewhere = self.place.with_name("elsewhere")
        if elsewhere.exists():
            elsewhere.rename(self.place)

    def capture(self, number: int, *, final: bool, name: str = "job", boot: str = BOOT) -> DumpRecord:
        """A whole capture."""
        record = DumpRecord(
            snapshot_id=SnapshotId(f"20261129T12000{number}Z-0000000{number}"),
            container_id=ContainerId(f"c{number}"),
            key=CheckpointKey("local", "default", name),
            incarnation=IncarnationNumber(1),
            trigger=Trigger.STOP_SIGNAL if final else Trigger.SCHEDULE,
            final=final,
            facts=ContainerFacts(),
            started_at=BEGAN + timedelta(seconds=number),
            boot_id=boot,
            step=DumpStep.CAPTURED,
        )
        spool = Spool(self.settings.spool / record.snapshot_id)
        spool.make()
        (spool.images / "inventory.img").write_bytes(b"images")
        spool.write_list(spool.copy_files(None, None, {}, Bounds()))
        self.journal.save_dump(record)
        return record

    async def refused(self, times: int) -> None:
        """Wait until storing was tried so often."""
        tried: list[bool] = []
        real = self.storer._tried

        async def counted(record: DumpRecord) -> Exception | None:
            tried.append(True)
            return await real(record)

        self.storer._tried = counted  # type: ignore[method-assign]

        async def often() -> bool:
            return len(tried) >= times

        await eventually(often, saying=f"it was tried {times} times")

    def of(self, kind: type[ReportedEvent]) -> list[ReportedEvent]:
        return [event for event in self.events if isinstance(event, kind)]

    async def end(self) -> None:
        await self.storer.close()


@pytest.fixture
def outage(tmp_path: Path) -> Iterator[Outage]:
    made = Outage(tmp_path)
    yield made
    made.journal.close()


async def test_a_final_capture_is_tried_until_it_is_stored_and_its_wait_is_reported_once(outage: Outage) -> None:
    outage.away()
    record = outage.capture(1, final=True)
    outage.storer.store(record)
    await outage.refused(8)
    assert not outage.of(DumpFailed)
    assert len(outage.storer.unstored) <= 1
    (delayed,) = outage.of(SnapshotStoreDelayed)
    assert isinstance(delayed, SnapshotStoreDelayed)
    assert delayed.failure.code == "store-unreachable"
    outage.back()
    await outage.storer.wait(record.snapshot_id)
    assert [event.snapshot_id for event in outage.of(SnapshotStored) if isinstance(event, SnapshotStored)] == [
        record.snapshot_id
    ]
    assert len(outage.storer.unstored) == 0
    assert outage.journal.dumps() == []


async def test_the_next_worker_goes_on_trying_even_after_the_machine_was_started_again(outage: Outage) -> None:
    outage.away()
    record = outage.capture(1, final=True, boot="an earlier boot")
    outage.storer.store(record)
    await outage.refused(3)
    await outage.end()
    storer = outage.begin()
    whole = settle_dumps(outage.settings, outage.journal, storer, cast("Runc", None), boot_id=BOOT, frozen={})
    assert [one.snapshot_id for one in whole] == [record.snapshot_id]
    for one in whole:
        storer.store(one)
    await outage.refused(3)
    assert len(outage.of(SnapshotStoreDelayed)) == 1, "the reason is the same, and since when it waits"
    outage.back()
    await storer.wait(record.snapshot_id)
    assert len(outage.of(SnapshotStored)) == 1


async def test_the_newest_of_an_id_waits_and_an_older_one_does_not(outage: Outage) -> None:
    outage.away()
    older, newer = outage.capture(1, final=False), outage.capture(2, final=False)
    for record in (older, newer):
        outage.storer.store(record)
    await outage.storer.wait(older.snapshot_id)
    (failed,) = outage.of(DumpFailed)
    assert isinstance(failed, DumpFailed)
    assert failed.snapshot_id == older.snapshot_id
    outage.back()
    await outage.storer.wait(newer.snapshot_id)
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
        outage.storer.unstored.wait(record)
    assert outage.storer.unstored.give_way()
    assert [event.snapshot_id for event in outage.of(DumpFailed) if isinstance(event, DumpFailed)] == [
        records[1].snapshot_id
    ]
    assert not outage.storer.unstored.resume(records[1])
    assert outage.storer.unstored.give_way()
    assert not outage.storer.unstored.give_way()
    assert outage.storer.unstored.resume(records[0])
    assert [path.name for path in outage.settings.spool.iterdir()] == [records[0].snapshot_id]
    outage.journal.close()


async def test_a_disk_below_the_floor_makes_room_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outage = Outage(tmp_path)
    monkeypatch.setattr(outage.storer.unstored, "_is_crowded", lambda: True)
    outage.away()
    final, other = outage.capture(1, final=True, name="ended"), outage.capture(2, final=False, name="runs")
    outage.storer.store(other)
    await outage.storer.wait(other.snapshot_id)
    assert [event.failure.code for event in outage.of(DumpFailed) if isinstance(event, DumpFailed)] == ["spool-crowded"]
    outage.storer.store(final)
    await outage.refused(4)
    outage.back()
    await outage.storer.wait(final.snapshot_id)
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
