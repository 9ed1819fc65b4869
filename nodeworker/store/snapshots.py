"""Snapshots in an object store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from protocol.facts import ContainerFacts, NodeFacts
from protocol.ids import CheckpointKey, IncarnationNumber, SnapshotId
from protocol.manifest import Entry, Manifest, TreeName


class TreeToStore(Protocol):
    """What ``nodeworker.capture.trees.CapturedTree`` is; the store and the capture do not know each other."""

    @property
    def name(self) -> TreeName: ...
    @property
    def entries(self) -> tuple[Entry, ...]: ...
    @property
    def contents(self) -> Mapping[str, Path]: ...


@dataclass(frozen=True, slots=True)
class ManifestHeader:
    """Everything in a manifest but the trees and where their bytes lie."""

    snapshot_id: SnapshotId
    key: CheckpointKey
    incarnation: IncarnationNumber
    taken_at: datetime
    node_facts: NodeFacts
    container_facts: ContainerFacts
    stopped_pids: tuple[int, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Stored:
    """A snapshot that is valid: durable, read back and checked."""

    manifest_digest: str
    raw_bytes: int
    """Sum of the sizes of all files, holes included."""
    stored_bytes: int
    """What the snapshot occupies in the store, manifest included."""


class SnapshotStore:
    """Blocking; call from threads. One instance may be shared by threads."""

    def __init__(self, url: str) -> None:
        raise NotImplementedError

    def put(self, header: ManifestHeader, trees: Sequence[TreeToStore]) -> Stored:
        """Store a snapshot and prove it; on failure nothing valid is left."""
        raise NotImplementedError

    def open_manifest(self, key: CheckpointKey, snapshot_id: SnapshotId, manifest_digest: str) -> Manifest:
        """Read, check and validate a manifest."""
        raise NotImplementedError

    def fetch_files(self, manifest: Manifest, tree_name: TreeName, into: Path) -> None:
        """Write the verified files of a tree of plain files and directories (the CRIU images) under ``into``."""
        raise NotImplementedError

    def reader(self, manifest: Manifest) -> Callable[[Entry, int], None]:
        """Give what ``apply_tree`` needs to fill files."""
        raise NotImplementedError

    def discard(self, key: CheckpointKey, snapshot_id: SnapshotId) -> None:
        """Remove every object of a snapshot; missing ones are no error."""
        raise NotImplementedError
