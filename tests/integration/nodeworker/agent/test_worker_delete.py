"""A worker deletes an expired snapshot once, whoever took it, and tells; it can be told twice and die in between."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from nodeworker.agent.command_executor import CommandExecutor
from nodeworker.capture.criu.spool import Spool
from nodeworker.capture.trees import list_tree
from nodeworker.disk.snapshot_cache import SnapshotCache
from nodeworker.dump.dump import Dumper
from nodeworker.dump.uploader import SnapshotUploader
from nodeworker.journal import Journal
from nodeworker.store.snapshots import ManifestHeader, SnapshotStore
from woodfrog.protocol.commands import DeleteCommand
from woodfrog.protocol.events import CommandFinished, Outcome, SnapshotDeleted
from woodfrog.protocol.facts import ContainerFacts, NodeFacts
from woodfrog.protocol.ids import CheckpointKey, CommandId, IncarnationNumber, NodeName, SnapshotId, WorkerId
from woodfrog.protocol.manifest import TreeName
from woodfrog.service import faultpoints

pytestmark = pytest.mark.timeout(20)

KEY = CheckpointKey("local", "default", "job")
ONE = IncarnationNumber(1)
NAME = SnapshotId("20261123T120000Z-00000001")
OTHER = SnapshotId("20261123T120001Z-00000002")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal(tmp_path / "journal", node=NodeName("here"), worker_id=WorkerId("life"))
    yield opened
    opened.close()


@pytest.fixture
def store(tmp_path: Path) -> SnapshotStore:
    store = SnapshotStore(f"file://{tmp_path}/store")
    images = tmp_path / "images"
    images.mkdir()
    (images / "inventory.img").write_bytes(b"images")
    for name in (NAME, OTHER):
        header = ManifestHeader(name, KEY, ONE, datetime.now(UTC), NodeFacts(), ContainerFacts())
        store.put(header, [list_tree(TreeName.PROCESSES, images)])
    return store


def copies_of(store: SnapshotStore) -> SnapshotCache:
    return SnapshotCache(store.folder.parent / "copies", limit_bytes=1 << 30, limit_seconds=60)


def executor(journal: Journal, store: SnapshotStore, copies: SnapshotCache | None = None) -> CommandExecutor:
    none = SnapshotCache(Path("/nowhere"), limit_bytes=0, limit_seconds=1)
    return CommandExecutor(journal, cast("Dumper", None), cast("SnapshotUploader", None), store, copies or none)


def command(name: str = "delete-1", *, seconds: float = 60) -> DeleteCommand:
    now = datetime.now(UTC)
    return DeleteCommand(
        CommandId(name), NodeName("here"), KEY, ONE, NAME, issued_at=now, deadline=now + timedelta(seconds=seconds)
    )


def told(journal: Journal) -> list[Any]:
    return [report.event for _, report in journal.outbox()]


def folders(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "store/local/default/job").iterdir()}


async def test_the_snapshot_is_gone_and_no_other(tmp_path: Path, journal: Journal, store: SnapshotStore) -> None:
    await executor(journal, store).obey(command())
    assert folders(tmp_path) == {OTHER}
    (event,) = told(journal)
    assert event == SnapshotDeleted(
        key=KEY, incarnation=ONE, snapshot_id=NAME, node=NodeName("here"), command_id=CommandId("delete-1")
    )


async def test_a_command_that_comes_again_is_not_obeyed_again(journal: Journal, store: SnapshotStore) -> None:
    obeying = executor(journal, store)
    await obeying.obey(command())
    await obeying.obey(command())
    deleted, again = told(journal)
    assert isinstance(deleted, SnapshotDeleted)
    assert isinstance(again, CommandFinished)
    assert again.outcome is Outcome.SUCCEEDED


async def test_what_an_earlier_life_or_another_worker_deleted_counts_as_deleted(
    journal: Journal, store: SnapshotStore
) -> None:
    await asyncio.to_thread(journal.take_command, command())
    await asyncio.to_thread(store.discard, KEY, NAME)
    await executor(journal, store).obey(command())
    assert [type(event) for event in told(journal)] == [SnapshotDeleted]


async def test_after_the_deadline_nothing_is_deleted(tmp_path: Path, journal: Journal, store: SnapshotStore) -> None:
    await executor(journal, store).obey(command(seconds=-1))
    (event,) = told(journal)
    assert event.failure.code == "command-expired"
    assert folders(tmp_path) == {NAME, OTHER}


async def test_a_store_that_refuses_is_told_and_nothing_counts_as_deleted(
    journal: Journal, store: SnapshotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, os.strerror(1))

    monkeypatch.setattr(store, "discard", refuse)
    await executor(journal, store).obey(command())
    (event,) = told(journal)
    assert (event.outcome, event.failure.code) == (Outcome.FAILED, "store-refused")


@pytest.mark.parametrize("point", ["delete.taken", "delete.done"])
async def test_a_worker_that_dies_on_the_way_deletes_in_its_next_life(
    point: str, tmp_path: Path, journal: Journal, store: SnapshotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(name: str) -> None:
        if name == point:
            raise RuntimeError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(faultpoints, "reach", die)
        with pytest.raises(RuntimeError, match="killed"):
            await executor(journal, store).obey(command())
    assert told(journal) == []
    await executor(journal, store).obey(command())
    assert [type(event) for event in told(journal)] == [SnapshotDeleted]
    assert folders(tmp_path) == {OTHER}


async def test_the_copy_on_this_node_goes_with_it(tmp_path: Path, journal: Journal, store: SnapshotStore) -> None:
    copies = SnapshotCache(tmp_path / "copies", limit_bytes=1 << 30, limit_seconds=60)
    spool = Spool(tmp_path / "spool")
    spool.make()
    (spool.images / "inventory.img").write_bytes(b"images")
    copies.take_over(spool, KEY, NAME, lambda: b"the manifest")
    (copy,) = copies.folder.glob(f"**/{NAME}")
    await executor(journal, store, copies).obey(command())
    assert not copy.exists()
