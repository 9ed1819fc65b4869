"""Captures that the store does not take are restored from the spool: proved, without using it up, and from nowhere else."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from support.outage import Outage

from nodeworker.capture.criu.spool import Spool
from nodeworker.disk.snapshot_cache import SnapshotCache
from nodeworker.disk.spooled_captures import SpooledCaptures
from nodeworker.journal import DumpRecord
from nodeworker.restore.fetch import Fetched, Fetcher
from woodfrog.protocol.events import DumpFailed, DumpStage, SnapshotStored, SnapshotStoreDelayed
from woodfrog.protocol.failures import FailureError
from woodfrog.protocol.manifest import TreeName
from woodfrog.protocol.requests import RestoreFrom

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]

CONTENT = os.urandom((2 << 20) + 17)


@pytest.fixture
def outage(tmp_path: Path) -> Iterator[Outage]:
    made = Outage(tmp_path)
    yield made
    made.journal.close()


async def waiting(outage: Outage, tmp_path: Path) -> DumpRecord:
    """A capture with a layer, which the store has refused."""
    layer = tmp_path / "layer"
    layer.mkdir()
    (layer / "file").write_bytes(CONTENT)
    with (layer / "sparse").open("wb") as file:
        file.seek(5 << 20)
        file.write(b"end")
        file.truncate(64 << 20)
    (layer / "link").symlink_to("file")
    outage.away()
    record = outage.capture(1, final=True, layer=layer)
    outage.uploader.store(record)
    await outage.refused(2)
    return record


def choice(outage: Outage, record: DumpRecord) -> RestoreFrom:
    """What the control plane says of what was reported."""
    (delayed,) = outage.of(SnapshotStoreDelayed)
    assert isinstance(delayed, SnapshotStoreDelayed)
    assert delayed.taken_on is not None
    assert delayed.taken_from == record.facts
    return RestoreFrom(
        incarnation=record.incarnation,
        snapshot_id=record.snapshot_id,
        manifest_digest=delayed.manifest_digest,
        reason="",
        unstored=True,
    )


def fetcher(outage: Outage) -> Fetcher:
    none = SnapshotCache(outage.settings.copies, limit_bytes=0, limit_seconds=1)
    return Fetcher(outage.store, none, SpooledCaptures(outage.settings.spool, outage.journal))


def fetch(outage: Outage, record: DumpRecord, into: Path) -> Fetched:
    into.mkdir()
    return fetcher(outage).fetch(record.key, choice(outage, record), into / "images")


def layer_of(fetched: Fetched, into: Path) -> dict[str, bytes]:
    """Read all files of the layer."""
    into.mkdir()
    tree = next(tree for tree in fetched.manifest.trees if tree.name is TreeName.LAYER)
    with fetched.reader(tree) as read_into:
        for entry in tree.entries:
            if entry.kind == "file":
                with (into / entry.path).open("wb") as file:
                    read_into(entry, file.fileno())
    return {path.name: path.read_bytes() for path in into.iterdir()}


def code_of(problem: pytest.ExceptionInfo[FailureError]) -> str:
    return problem.value.failure.code


async def test_it_is_restored_although_it_is_stored_and_gone_from_the_spool_meanwhile(
    outage: Outage, tmp_path: Path
) -> None:
    record = await waiting(outage, tmp_path)
    fetched = fetch(outage, record, tmp_path / "fetched")
    assert [tree.name for tree in fetched.manifest.trees] == [TreeName.PROCESSES, TreeName.LAYER]
    assert (fetched.images / "inventory.img").read_bytes() == b"images"
    (fetched.images / "new").write_bytes(b"as a restore does")
    (fetched.images / "new").rename(fetched.images / "inventory.img")
    outage.back()
    await outage.uploader.wait(record.snapshot_id)
    assert not list(outage.settings.spool.iterdir())
    outage.away()
    files = layer_of(fetched, tmp_path / "layer-back")
    assert files["file"] == CONTENT
    assert files["sparse"] == bytes(5 << 20) + b"end" + bytes((64 << 20) - (5 << 20) - 3)
    outage.back()
    (stored,) = outage.of(SnapshotStored)
    assert isinstance(stored, SnapshotStored)
    manifest = outage.store.open_manifest(record.key, record.snapshot_id, stored.manifest_digest)
    outage.store.fetch_files(manifest, TreeName.PROCESSES, tmp_path / "from-store")
    assert (tmp_path / "from-store/inventory.img").read_bytes() == b"images"


async def test_one_that_was_stored_before_it_was_fetched_is_asked_about_again(outage: Outage, tmp_path: Path) -> None:
    record = await waiting(outage, tmp_path)
    outage.back()
    await outage.uploader.wait(record.snapshot_id)
    with pytest.raises(FailureError) as problem:
        fetch(outage, record, tmp_path / "fetched")
    assert code_of(problem) == "local-copy-broken", "which is not reported"


@pytest.mark.parametrize("name", ["images/inventory.img", "manifest.json"])
async def test_what_is_not_what_was_captured_is_not_restored(outage: Outage, tmp_path: Path, name: str) -> None:
    record = await waiting(outage, tmp_path)
    (outage.settings.spool / record.snapshot_id / name).write_bytes(b"IMAGES")
    with pytest.raises(FailureError) as problem:
        fetch(outage, record, tmp_path / "fetched")
    assert code_of(problem) == "spool-lost"


async def test_a_file_of_it_that_is_broken_is_not_looked_for_in_the_store(outage: Outage, tmp_path: Path) -> None:
    record = await waiting(outage, tmp_path)
    fetched = fetch(outage, record, tmp_path / "fetched")
    layer = Spool(tmp_path / "fetched/capture").read_list()[1]
    layer.contents["file"].write_bytes(CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]))
    with pytest.raises(FailureError) as problem:
        layer_of(fetched, tmp_path / "layer-back")
    assert code_of(problem) == "spool-lost"


def flip(path: Path) -> None:
    """Change one bit in the middle of a file, as a disk does."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def of_layer(spool: Path, name: str) -> Path:
    return Spool(spool).read_list()[1].contents[name]


DAMAGES: dict[str, Callable[[Path], object]] = {
    "an image": lambda spool: flip(spool / "images/inventory.img"),
    "a file of the layer": lambda spool: flip(of_layer(spool, "file")),
    "data where there was a hole": lambda spool: _written(of_layer(spool, "sparse"), 50 << 20),
    "a shorter file": lambda spool: os.truncate(of_layer(spool, "file"), 1 << 20),
    "a file that is gone": lambda spool: (spool / "images/inventory.img").unlink(),
    "another mode": lambda spool: _reworded(spool / "layer.entries", b'"mode":420', b'"mode":511', times=1),
    "no list any more": lambda spool: (spool / "layer.entries").write_bytes(b"\0" * 100),
    "a shorter list": lambda spool: _without_last_line(spool / "layer.entries"),
    "another list of trees": lambda spool: _reworded(spool / "trees.json", b'"layer"', b'"LAYER"', times=1),
    "another manifest": lambda spool: flip(spool / "manifest.json"),
    "no manifest": lambda spool: (spool / "manifest.json").unlink(),
}


def _written(path: Path, offset_bytes: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset_bytes)
        file.write(b"1")


def _reworded(path: Path, before: bytes, after: bytes, times: int) -> None:
    data = path.read_bytes()
    assert before in data
    path.write_bytes(data.replace(before, after, times))


def _without_last_line(path: Path) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


@pytest.mark.parametrize("name", DAMAGES)
async def test_what_changed_on_the_disk_while_it_waited_never_becomes_a_valid_snapshot(
    outage: Outage, tmp_path: Path, name: str
) -> None:
    record = await waiting(outage, tmp_path)
    await outage.end()
    DAMAGES[name](outage.settings.spool / record.snapshot_id)
    outage.back()
    outage.begin().store(outage.journal.dumps()[0])
    await outage.uploader.wait(record.snapshot_id)
    (failed,) = outage.of(DumpFailed)
    assert isinstance(failed, DumpFailed)
    gone = name in {"a file that is gone", "no manifest"}
    code = "spool-lost" if gone else "spool-corrupt"
    assert (failed.stage, failed.failure.code) == (DumpStage.STORE, code), failed.failure
    assert not outage.of(SnapshotStored)
    assert not list(outage.place.rglob("*.pack"))
    assert not list(outage.place.rglob("manifest.json"))


async def test_what_an_older_worker_left_waiting_is_reported_again_with_its_digest(
    outage: Outage, tmp_path: Path
) -> None:
    record = await waiting(outage, tmp_path)
    await outage.end()
    (before,) = outage.journal.dumps()
    digest = choice(outage, record).manifest_digest
    assert before.manifest_digest == digest
    outage.journal.save_dump(msgspec.structs.replace(before, manifest_digest=""))
    outage.begin().store(outage.journal.dumps()[0])
    await outage.refused(2)
    delayed = [event for event in outage.of(SnapshotStoreDelayed) if isinstance(event, SnapshotStoreDelayed)]
    assert [event.manifest_digest for event in delayed] == [digest, digest]
    await outage.end()
