"""What a hostile manifest may not say of volumes, of the links to ConfigMaps, and of its time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from nodeworker.store.validation import problem_of
from woodfrog.protocol.facts import ContainerFacts, NodeFacts
from woodfrog.protocol.ids import CheckpointKey, IncarnationNumber, SnapshotId
from woodfrog.protocol.manifest import MANIFEST_VERSION, Entry, Manifest, Tree, TreeName

pytestmark = pytest.mark.timeout(5)

KEY = CheckpointKey.checked("local", "default", "train")
SNAPSHOT = SnapshotId("20261125T163914Z-0c5736cd")
STAMP = "..2026_11_25_16_39_13.451096938"


def problem(*trees: Tree, of: SnapshotId = SNAPSHOT, taken_at: datetime | None = None) -> str | None:
    manifest = Manifest(
        version=MANIFEST_VERSION,
        snapshot_id=of,
        key=KEY,
        incarnation=IncarnationNumber(1),
        taken_at=taken_at or datetime.now(UTC),
        node_facts=NodeFacts(),
        container_facts=ContainerFacts(),
        stopped_pids=(),
        chunk_bytes=1 << 20,
        trees=trees,
        chunks=(),
        packs=(),
    )
    return problem_of(manifest, KEY, SNAPSHOT)


def test_several_volumes_and_a_config_map_are_accepted() -> None:
    link = Entry(STAMP, "symlink", 0o777, target="..data")
    assert problem(*(Tree(TreeName.VOLUME, (), volume=each) for each in ("a", "/b"))) is None
    assert problem(Tree(TreeName.CONFIG, (link,), volume="/cfg")) is None


@pytest.mark.parametrize(
    "trees",
    [
        (Tree(TreeName.VOLUME, ()),),
        (Tree(TreeName.SHM, (), volume="a"),),
        (Tree(TreeName.VOLUME, (), volume="a"), Tree(TreeName.VOLUME, (), volume="a")),
    ],
    ids=["nameless", "named-shm", "twice"],
)
def test_volumes_are_told_apart_by_their_names(trees: tuple[Tree, ...]) -> None:
    assert problem(*trees) is not None


@pytest.mark.parametrize(
    "entry",
    [
        Entry("app.conf", "file", 0o644),
        Entry("app.conf", "symlink", 0o777, target="..data"),
        Entry("..data", "symlink", 0o777, target="..data"),
        Entry(STAMP, "symlink", 0o777, target="/etc"),
        Entry(STAMP, "directory", 0o755),
    ],
)
def test_nothing_but_a_link_to_the_new_pods_files_comes_into_a_config_map(entry: Entry) -> None:
    assert "not a link" in str(problem(Tree(TreeName.CONFIG, (entry,), volume="/cfg")))


@pytest.mark.parametrize(
    "entry",
    [
        Entry("a" * 100_000, "file", 0o644),
        Entry("a", "file", 0o644, xattrs={"a" * 100_000: b""}),
        Entry("a", "file", 0o644, hardlink="b" * 100_000),
    ],
    ids=["path", "attribute", "link"],
)
def test_what_is_said_of_a_manifest_is_short_whatever_it_quotes(entry: Entry) -> None:
    assert len(str(problem(Tree(TreeName.LAYER, (entry,))))) < 1000


def test_what_is_said_of_another_snapshots_manifest_is_short() -> None:
    assert len(str(problem(of=SnapshotId("a" * 100_000)))) < 1000


@pytest.mark.parametrize(
    "taken_at",
    [
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))),
        datetime(9999, 12, 31, 23, 59, tzinfo=timezone(timedelta(hours=-14))),
        datetime(2026, 11, 25, 12),  # noqa: DTZ001 -- that is what is wrong with it
    ],
    ids=["before the first year", "after the last one", "without an offset"],
)
def test_a_time_that_is_none_is_refused(taken_at: datetime) -> None:
    assert str(problem(taken_at=taken_at)).startswith("it was taken at a time")
    assert problem() is None
