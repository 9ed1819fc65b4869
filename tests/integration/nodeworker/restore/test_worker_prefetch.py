"""A worker lays a snapshot ready when it is told to, so that a restore needs neither the store nor a long time."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest

from nodeworker.agent.command_executor import CommandExecutor
from nodeworker.capture.trees import copy_tree, list_tree
from nodeworker.disk.snapshot_cache import SnapshotCache
from nodeworker.dump.dump import Dumper
from nodeworker.dump.uploader import SnapshotUploader
from nodeworker.journal import Journal
from nodeworker.store.snapshots import ManifestHeader, SnapshotStore
from woodfrog.protocol.commands import PrefetchCommand
from woodfrog.protocol.events import CommandFinished, Outcome
from woodfrog.protocol.facts import ContainerFacts, NodeFacts
from woodfrog.protocol.ids import CheckpointKey, CommandId, IncarnationNumber, NodeName, SnapshotId, WorkerId
from woodfrog.protocol.manifest import Entry, TreeName

pytestmark = pytest.mark.timeout(20)

KEY = CheckpointKey("local", "default", "job")
ONE = IncarnationNumber(1)
NAME = SnapshotId("20261123T120000Z-00000001")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal(tmp_path / "journal", node=NodeName("here"), worker_id=WorkerId("life"))
    yield opened
    opened.close()


@pytest.fixture
def store(tmp_path: Path) -> SnapshotStore:
    return SnapshotStore(f"file://{tmp_path}/store")


@pytest.fixture
def digest(tmp_path: Path, store: SnapshotStore) -> str:
    for name in ("images", "upper"):
        (tmp_path / name).mkdir()
    (tmp_path / "images" / "pages-1.img").write_bytes(bytes(2 << 20) + b"memory")
    (tmp_path / "upper" / "count").write_bytes(b"41")
    header = ManifestHeader(NAME, KEY, ONE, datetime.now(UTC), NodeFacts(), ContainerFacts())
    layer = copy_tree(TreeName.LAYER, tmp_path / "upper", tmp_path / "spooled", overlay=True)
    return store.put(header, [list_tree(TreeName.PROCESSES, tmp_path / "images"), layer]).manifest_digest


def command(digest: str, *, seconds: float = 60) -> PrefetchCommand:
    now = datetime.now(UTC)
    return PrefetchCommand(
        CommandId("p"),
        NodeName("here"),
        KEY,
        ONE,
        NAME,
        digest,
        issued_at=now,
        deadline=now + timedelta(seconds=seconds),
    )


def executor(journal: Journal, store: SnapshotStore, copies: SnapshotCache) -> CommandExecutor:
    return CommandExecutor(journal, cast("Dumper", None), cast("SnapshotUploader", None), store, copies)


def ends(journal: Journal) -> list[tuple[Outcome, str]]:
    finished = [report.event for _, report in journal.outbox() if isinstance(report.event, CommandFinished)]
    return [(event.outcome, event.failure.code if event.failure else "") for event in finished]


def kept(tmp_path: Path, limit_bytes: int = 1 << 30) -> SnapshotCache:
    return SnapshotCache(tmp_path / "copies", limit_bytes=limit_bytes, limit_seconds=60)


async def test_memory_and_files_lie_ready_and_the_store_is_needed_no_more(
    tmp_path: Path, journal: Journal, store: SnapshotStore, digest: str
) -> None:
    await executor(journal, store, kept(tmp_path)).obey(command(digest))
    assert ends(journal) == [(Outcome.SUCCEEDED, "")]
    shutil.rmtree(tmp_path / "store")
    copy = kept(tmp_path).find(KEY, NAME, digest)
    assert copy is not None, "the worker's next life finds it"
    copy.link_images(tmp_path / "linked")
    assert (tmp_path / "linked" / "pages-1.img").read_bytes() == bytes(2 << 20) + b"memory"
    (layer,) = [tree for tree in copy.manifest.trees if tree.name is TreeName.LAYER]
    entry = next(entry for entry in layer.entries if entry.path == "count")

    def from_store(entry: Entry, _descriptor: int) -> None:
        raise AssertionError(f"{entry.path} is asked of the store")

    with (tmp_path / "out").open("wb") as out:
        copy.reader(layer, from_store)(entry, out.fileno())
    assert (tmp_path / "out").read_bytes() == b"41"


async def test_told_twice_it_fetches_once(tmp_path: Path, journal: Journal, store: SnapshotStore, digest: str) -> None:
    copies = kept(tmp_path)
    await executor(journal, store, copies).obey(command(digest))
    (copy,) = copies.folder.glob("*/*/*/*")
    before = copy.stat().st_ino
    assert copies.fill(KEY, NAME, digest, store, whole=True) is not None
    assert copy.stat().st_ino == before


@pytest.mark.parametrize(
    ("limit_bytes", "seconds", "code"),
    [(0, 60, "no-copies"), (1000, 60, "no-copies"), (1 << 30, -1, "command-expired")],
)
async def test_what_is_not_wanted_or_too_large_or_too_late_is_told_and_leaves_nothing(
    tmp_path: Path, journal: Journal, store: SnapshotStore, digest: str, limit_bytes: int, seconds: float, code: str
) -> None:
    await executor(journal, store, kept(tmp_path, limit_bytes)).obey(command(digest, seconds=seconds))
    assert ends(journal) == [(Outcome.FAILED, code)]
    assert list((tmp_path / "copies").glob("*/*/*/*")) == []


async def test_a_snapshot_that_the_store_has_lost_is_told_and_leaves_nothing(
    tmp_path: Path, journal: Journal, store: SnapshotStore, digest: str
) -> None:
    for pack in (tmp_path / "store").rglob("*.pack"):
        pack.unlink()
    await executor(journal, store, kept(tmp_path)).obey(command(digest))
    assert ends(journal) == [(Outcome.FAILED, "snapshot-missing")]
    assert list((tmp_path / "copies").glob("*/*/*/*")) == []
