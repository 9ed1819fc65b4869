"""Many fetches and dumps at once share what is free on a node's disk, instead of each counting on all of it."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from support.snapshots import KEY, SNAPSHOT, Place

from nodeworker.agent.command_executor import CommandExecutor
from nodeworker.disk import reservations as disk_room
from nodeworker.disk.reservations import Disk, occupied_bytes
from nodeworker.disk.snapshot_cache import SnapshotCache
from nodeworker.dump.dump import Dumper
from nodeworker.dump.uploader import SnapshotUploader
from nodeworker.journal import Journal
from nodeworker.restore.fetch_gate import FetchGate
from nodeworker.store.snapshots import SnapshotStore
from woodfrog.protocol.commands import DeleteCommand
from woodfrog.protocol.failures import FailureError
from woodfrog.protocol.ids import CommandId, IncarnationNumber, NodeName

pytestmark = pytest.mark.timeout(60)

MIB = 1 << 20


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system of 1,000 MiB of which 100 are free."""
    real = os.statvfs

    def said(path: Path) -> os.statvfs_result:
        real(path)
        return cast("os.statvfs_result", SimpleNamespace(f_bavail=100, f_blocks=1000, f_frsize=MIB))

    monkeypatch.setattr(disk_room.os, "statvfs", said)


def refused(disk: Disk, needed_mib: int, folder: Path, *, spare: bool = False) -> str:
    with pytest.raises(FailureError) as caught:
        disk.take(needed_mib * MIB, folder, "it", spare=spare)
    assert caught.value.failure.code == "disk-full"
    return caught.value.failure.cause


@pytest.mark.usefixtures("small")
def test_what_is_reserved_is_not_free_for_others_until_it_is_given_back(tmp_path: Path) -> None:
    disk = Disk()
    room = disk.take(60 * MIB, tmp_path / "one", "a dump")
    assert "60 MiB of them reserved" in refused(disk, 50, tmp_path / "two")
    assert disk.reserved_bytes == 60 * MIB
    room.close()
    room.close()
    disk.take(50 * MIB, tmp_path / "two", "a dump").close()
    assert disk.reserved_bytes == 0


@pytest.mark.usefixtures("small")
def test_what_was_written_already_is_not_counted_twice(tmp_path: Path) -> None:
    disk = Disk()
    (tmp_path / "one").mkdir()
    disk.take(60 * MIB, tmp_path / "one", "a dump")
    (tmp_path / "one/pages").write_bytes(os.urandom(20 * MIB))
    os.link(tmp_path / "one/pages", tmp_path / "one/another name")
    assert occupied_bytes([tmp_path / "one"]) // MIB == 20
    assert disk.reserved_bytes // MIB == 40
    disk.take(55 * MIB, tmp_path / "two", "a dump")
    refused(disk, 10, tmp_path / "three")


@pytest.mark.usefixtures("small")
def test_what_need_not_be_written_leaves_a_tenth_free(tmp_path: Path) -> None:
    disk = Disk(spare_share=0.1)
    refused(disk, 1, tmp_path, spare=True)
    assert not disk.is_crowded(tmp_path)
    assert Disk(spare_share=0.11).is_crowded(tmp_path)
    with disk.reserve(99 * MIB, tmp_path, "a restore"):
        pass
    with Disk(spare_share=0.05).reserve(49 * MIB, tmp_path, "a copy", spare=True):
        pass


@pytest.mark.usefixtures("small")
def test_there_is_one_limit_for_all_that_the_worker_writes(tmp_path: Path) -> None:
    for name in ("spool", "copies"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_bytes(os.urandom(5 * MIB))
    disk = Disk(30 * MIB, (tmp_path / "spool", tmp_path / "copies", tmp_path / "fetched"))
    disk.take(15 * MIB, tmp_path / "fetched/one", "a restore")
    assert "25 MiB are taken or reserved" in refused(disk, 6, tmp_path / "spool/next")
    disk.take(4 * MIB, tmp_path / "spool/next", "a dump")


@pytest.mark.usefixtures("small")
def test_a_hundred_prefetches_at_once_do_not_fill_the_disk(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.write("pages-1.img", os.urandom(MIB))
    digest = place.put().manifest_digest
    disk = Disk(spare_share=0.1)
    copies = SnapshotCache(tmp_path / "copies", limit_bytes=1 << 30, limit_seconds=60, disk=disk)
    with pytest.raises(FailureError) as caught:
        copies.fill(KEY, SNAPSHOT, digest, place.store, whole=True)
    assert caught.value.failure.code == "disk-full"
    assert [path for path in (tmp_path / "copies").rglob("*") if path.is_file()] == []
    assert disk.reserved_bytes == 0


class Prefetching:
    """Commands whose work takes until the test says so."""

    def __init__(self, gate: FetchGate) -> None:
        self.gate = gate
        self.running = 0
        self.most = 0
        self.end = asyncio.Event()

    async def run(self) -> None:
        async with self.gate.prefetch():
            self.running += 1
            self.most = max(self.most, self.running)
            await self.end.wait()
            self.running -= 1


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_only_a_few_prefetches_run_at_once() -> None:
    prefetching = Prefetching(FetchGate(4))
    tasks = [asyncio.create_task(prefetching.run()) for _ in range(100)]
    await settled()
    assert (prefetching.running, prefetching.gate.waiting) == (4, 96)
    prefetching.end.set()
    await asyncio.gather(*tasks)
    assert (prefetching.most, prefetching.gate.waiting) == (4, 0)


async def test_no_prefetch_begins_while_a_restore_fetches_and_one_that_is_cancelled_keeps_no_place() -> None:
    prefetching = Prefetching(FetchGate(1))
    with prefetching.gate.restore():
        cancelled = asyncio.create_task(prefetching.run())
        task = asyncio.create_task(prefetching.run())
        await settled()
        assert prefetching.running == 0
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
    await settled()
    assert prefetching.running == 1
    prefetching.end.set()
    await task


def deletion(number: int) -> DeleteCommand:
    now = datetime.now(UTC)
    name, node = CommandId(f"delete-{number}"), NodeName("here")
    until = now + timedelta(minutes=1)
    return DeleteCommand(name, node, KEY, IncarnationNumber(1), SNAPSHOT, issued_at=now, deadline=until)


async def test_a_flood_of_deletions_takes_few_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    running: list[int] = [0, 0]
    full, gone = asyncio.Event(), asyncio.Event()

    async def counted(_work: object) -> None:
        running[0] += 1
        running[1] = max(running)
        if running[0] == 8:
            full.set()
        await gone.wait()
        running[0] -= 1

    monkeypatch.setattr("nodeworker.agent.command_executor.in_daemon_thread", counted)
    journal = SimpleNamespace(take_command=lambda _command: None)
    executor = CommandExecutor(
        cast("Journal", journal),
        cast("Dumper", None),
        cast("SnapshotUploader", None),
        cast("SnapshotStore", None),
        cast("SnapshotCache", None),
    )
    tasks = [asyncio.create_task(executor.obey(deletion(number))) for number in range(40)]
    await full.wait()
    await asyncio.sleep(0.2)  # in which a ninth would begin
    assert running[0] == 8
    gone.set()
    await asyncio.gather(*tasks)
    assert running[1] <= 8
