"""A store and images to put into it, for tests of storing."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from blake3 import blake3

from nodeworker.capture.trees import CapturedTree, list_tree
from nodeworker.store import ManifestHeader, SnapshotStore, Stored
from woodfrog.protocol.facts import ContainerFacts, NodeFacts
from woodfrog.protocol.failures import FailureError
from woodfrog.protocol.ids import CheckpointKey, IncarnationNumber, SnapshotId
from woodfrog.protocol.manifest import Manifest, TreeName

KEY = CheckpointKey("local", "default", "a.b")
SNAPSHOT = SnapshotId("20261123T214501Z-5f3a9c1e")
HEADER = ManifestHeader(
    SNAPSHOT,
    KEY,
    IncarnationNumber(3),
    datetime(2026, 11, 23, tzinfo=UTC),
    NodeFacts("x86_64"),
    ContainerFacts(),
    (7,),
    ("w",),
)
MIB = 1 << 20


class Place:
    """One snapshot of ``images``, in ``store``, and where it is fetched to."""

    def __init__(self, base: Path) -> None:
        self.root = base / "store"
        self.images = base / "images"
        self.images.mkdir()
        self.store = SnapshotStore(self.root.as_uri(), workers=2)
        self.folder = self.root / str(KEY) / SNAPSHOT
        self.into = base / "into"

    def write(self, name: str, data: bytes) -> None:
        (self.images / name).parent.mkdir(parents=True, exist_ok=True)
        (self.images / name).write_bytes(data)

    def listed(self) -> CapturedTree:
        return list_tree(TreeName.PROCESSES, self.images)

    def put(self) -> Stored:
        return self.store.put(HEADER, [self.listed()])

    def open(self, stored: Stored) -> Manifest:
        return self.store.open_manifest(KEY, SNAPSHOT, stored.manifest_digest)

    def fetch(self, stored: Stored) -> dict[str, bytes]:
        self.store.fetch_files(self.open(stored), TreeName.PROCESSES, self.into)
        return contents(self.into)

    def packs(self) -> list[Path]:
        return sorted(self.folder.glob("*.pack"))

    def forge(self, change: Callable[[dict], None]) -> Stored:  # type: ignore[type-arg]
        """Rewrite the manifest as a hostile worker would, digest included."""
        path = self.folder / "manifest.json"
        manifest = json.loads(path.read_bytes())
        change(manifest)
        data = json.dumps(manifest).encode()
        path.write_bytes(data)
        return Stored(blake3(data).hexdigest(), 0, 0)


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def refusal(action: Callable[[], object]) -> FailureError:
    with pytest.raises(FailureError) as caught:
        action()
    return caught.value


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def mixed(place: Place) -> None:
    place.write("pages-1.img", noise(3 * MIB + 17) + bytes(5 * MIB) + b"compressible " * 300_000)
    place.write("core-1.img", b"core")
    place.write("empty.img", b"")
    place.write("deeper/still/file", b"x" * 5000)
