"""What a worker stored for an id that was forgotten meanwhile is removed, and nothing else."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from nodeworker.agent.forgotten_snapshots import ForgottenSnapshots
from nodeworker.capture.trees import list_tree
from nodeworker.disk.snapshot_cache import SnapshotCache
from nodeworker.journal import Journal
from nodeworker.store.snapshots import ManifestHeader, SnapshotStore
from woodfrog.protocol.events import SnapshotStored
from woodfrog.protocol.facts import ContainerFacts, NodeFacts
from woodfrog.protocol.ids import CheckpointKey, IncarnationNumber, NodeName, SnapshotId, WorkerId
from woodfrog.protocol.manifest import TreeName

pytestmark = pytest.mark.timeout(20)

KEY = CheckpointKey("local", "default", "job")
ONE = IncarnationNumber(1)
NAMES = [SnapshotId("20261123T120000Z-00000001"), SnapshotId("20261123T120001Z-00000002")]


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
    for name in NAMES:
        header = ManifestHeader(name, KEY, ONE, datetime.now(UTC), NodeFacts(), ContainerFacts())
        store.put(header, [list_tree(TreeName.PROCESSES, images)])
    return store


def said(journal: Journal, event: Any) -> UUID:
    """Have a report be one that the broker has confirmed."""
    journal.report(event)
    ((place, report),) = journal.outbox()
    journal.confirm(place, 1)
    return report.report_id


def stored(name: SnapshotId, store: str | None) -> SnapshotStored:
    return SnapshotStored(
        key=KEY, incarnation=ONE, node=NodeName("here"), snapshot_id=name, manifest_digest="0", raw_bytes=1, stored_bytes=1,
        store_seconds=1.0, taken_on=NodeFacts(store=store), taken_from=ContainerFacts(),
    )  # fmt: skip


def folders(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "store/local/default/job").iterdir()}


def test_it_is_removed_from_the_store_that_it_was_put_into_and_no_other_snapshot_is(
    tmp_path: Path, journal: Journal, store: SnapshotStore
) -> None:
    forgotten = ForgottenSnapshots(journal, store, SnapshotCache(Path("/nowhere"), limit_bytes=0, limit_seconds=1))
    elsewhere = said(journal, stored(NAMES[0], "another"))
    assert forgotten.remove([elsewhere]) == set()
    assert folders(tmp_path) == set(NAMES)
    here = said(journal, stored(NAMES[0], store.identity.read()))
    assert forgotten.remove([here, uuid.uuid4()]) == set()
    assert folders(tmp_path) == {NAMES[1]}
    assert forgotten.remove([here]) == set(), "what is gone is as good as removed"


def test_it_is_kept_in_mind_while_the_store_is_away(tmp_path: Path, journal: Journal, store: SnapshotStore) -> None:
    forgotten = ForgottenSnapshots(journal, store, SnapshotCache(Path("/nowhere"), limit_bytes=0, limit_seconds=1))
    here = said(journal, stored(NAMES[0], store.identity.read()))
    (tmp_path / "store").rename(tmp_path / "away")
    (tmp_path / "store").write_text("not a directory")
    assert forgotten.remove([here]) == {here}
    (tmp_path / "store").unlink()
    (tmp_path / "away").rename(tmp_path / "store")
    assert forgotten.remove([here]) == set()
    assert folders(tmp_path) == {NAMES[1]}
