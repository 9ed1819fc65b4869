"""Two manifests of one capture agree although its bytes lie elsewhere, and any difference is named."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec.structs import replace

from nodeworker.store.comparison import difference
from woodfrog.protocol.facts import ContainerFacts, NodeFacts
from woodfrog.protocol.ids import CheckpointKey, IncarnationNumber, SnapshotId
from woodfrog.protocol.manifest import HOLE, Chunk, Entry, HeldFile, Manifest, Pack, Tree, TreeName

pytestmark = pytest.mark.timeout(5)

ONE, TWO = "1" * 64, "2" * 64
FILE = Entry("file", "file", size_bytes=3 << 20, chunks=(0, HOLE, 1))
VOUCHED = Manifest(
    version=1,
    snapshot_id=SnapshotId("s"),
    key=CheckpointKey("local", "default", "job"),
    incarnation=IncarnationNumber(1),
    taken_at=datetime(2026, 11, 30, tzinfo=UTC),
    node_facts=NodeFacts(),
    container_facts=ContainerFacts(),
    stopped_pids=(),
    chunk_bytes=1 << 20,
    trees=(Tree(TreeName.PROCESSES, (Entry("core.img", "file"),)), Tree(TreeName.LAYER, (FILE,))),
    chunks=(Chunk(ONE, 0, 0, 1 << 20, 1 << 20), Chunk(TWO, 1, 0, 1 << 20, 1 << 20)),
    packs=(Pack(ONE, 1 << 20), Pack(TWO, 1 << 20)),
)


def layer(*entries: Entry, **more: Any) -> Manifest:
    return replace(VOUCHED, trees=(VOUCHED.trees[0], Tree(TreeName.LAYER, entries, **more)))


def test_the_same_capture_agrees_wherever_its_chunks_lie_and_on_whatever_node_it_is_read() -> None:
    stored = replace(
        layer(replace(FILE, chunks=(1, HOLE, 0))),
        chunks=(Chunk(TWO, 0, 0, 9, 1 << 20), Chunk(ONE, 0, 9, 9, 1 << 20)),
        packs=(Pack("3" * 64, 18),),
        node_facts=NodeFacts("x86_64"),
    )
    assert difference(VOUCHED, stored) is None


@pytest.mark.parametrize(
    ("found", "named"),
    [
        (layer(replace(FILE, chunks=(0, HOLE, 0))), "the file file of its tree layer"),
        (layer(replace(FILE, chunks=(0, 0, 1))), "the file file of its tree layer"),
        (layer(replace(FILE, chunks=(0, HOLE))), "the file file of its tree layer"),
        (layer(replace(FILE, mode=0o4755)), "the entry of the file file in its tree layer"),
        (layer(), "the list of files of its tree layer"),
        (layer(FILE, Entry("more", "directory")), "the list of files of its tree layer"),
        (layer(FILE, volume="v"), "the list of its trees"),
        (replace(VOUCHED, trees=VOUCHED.trees[:1]), "the list of its trees"),
        (replace(VOUCHED, held_files=(HeldFile("/data", "x", 1, 1),)), "what was recorded beside its images"),
    ],
)
def test_what_differs_is_named(found: Manifest, named: str) -> None:
    assert difference(VOUCHED, found) == named
