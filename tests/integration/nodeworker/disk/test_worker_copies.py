"""What bounds the copies of snapshots on a node: one an id, so many bytes, so long, and never the room that a dump needs."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from nodeworker.capture.criu.spool import Spool
from nodeworker.disk.reservations import Disk
from nodeworker.disk.snapshot_cache import SnapshotCache
from woodfrog.protocol.ids import CheckpointKey, SnapshotId

pytestmark = pytest.mark.timeout(20)

KIB = 1 << 10


class Place:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.copies = self.make()
        self.made = 0

    def make(
        self, *, limit_bytes: int = 1000 * KIB, limit_seconds: float = 60, spare_share: float = 0.0
    ) -> SnapshotCache:
        disk = Disk(spare_share=spare_share)
        return SnapshotCache(self.folder / "copies", limit_bytes=limit_bytes, limit_seconds=limit_seconds, disk=disk)

    def keep(self, checkpoint_id: str, kib: int = 100) -> str:
        """Take over a capture of an id; answers the name of its snapshot."""
        self.made += 1
        name = f"20261123T120000Z-{self.made:08}"
        spool = Spool(self.folder / name)
        spool.make()
        (spool.images / "pages-1.img").write_bytes(os.urandom(kib * KIB))
        key = CheckpointKey("local", "default", checkpoint_id)
        self.copies.take_over(spool, key, SnapshotId(name), lambda: b"{}")
        assert not spool.folder.exists()
        return name

    def names(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "copies").glob("*/*/*/*"))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_an_id_has_one_copy_the_newest(place: Place) -> None:
    place.keep("a")
    newest = [place.keep("a"), place.keep("b")]
    assert place.names() == newest


def test_the_oldest_go_when_there_are_too_many_bytes(place: Place) -> None:
    first, *others = [place.keep(name, 300) for name in "abcd"]
    assert first not in place.names()
    assert place.names() == others


def test_one_that_is_larger_than_all_may_be_is_not_made_and_drives_no_other_out(place: Place) -> None:
    small = place.keep("a")
    place.keep("b", 2000)
    assert place.names() == [small]


def test_after_its_time_a_copy_goes_also_one_of_an_earlier_life(place: Place) -> None:
    place.keep("a")
    (copy,) = (place.folder / "copies").glob("*/*/*/*")
    place.copies.prune()
    assert place.names() != []
    long_ago = time.time() - 100
    os.utime(copy, (long_ago, long_ago))
    place.make()
    assert place.names() == []


def test_turned_off_none_is_made_and_those_that_are_there_go(place: Place) -> None:
    place.keep("a")
    place.copies = place.make(limit_bytes=0)
    place.keep("b")
    assert place.names() == []


def test_all_give_way_to_a_dump(place: Place) -> None:
    place.keep("a")
    place.keep("b")
    assert place.copies.give_way()
    assert place.names() == []
    assert not place.copies.give_way()


def test_the_last_of_the_disk_is_never_taken(place: Place) -> None:
    place.keep("a")
    place.copies = place.make(spare_share=1.1)
    place.keep("b")
    assert place.names() == []


def test_what_a_killed_worker_left_half_fetched_goes(place: Place) -> None:
    kept = place.keep("a")
    (place.folder / "copies/local/default/a/.partial-1").mkdir()
    place.make()
    assert place.names() == [kept]


def test_a_store_that_does_not_give_the_manifest_costs_the_copy_and_nothing_else(place: Place) -> None:
    def away() -> bytes:
        raise RuntimeError("the bucket is away")

    spool = Spool(place.folder / "spooled")
    spool.make()
    place.copies.take_over(spool, CheckpointKey("local", "default", "a"), SnapshotId("s"), away)
    assert place.names() == []
    assert not spool.folder.exists()


def test_only_root_may_look(place: Place) -> None:
    place.keep("a")
    assert all(path.stat().st_mode & 0o077 == 0 for path in (place.folder / "copies").rglob("*") if path.is_dir())
