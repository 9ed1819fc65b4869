"""Copies of snapshots that lie unpacked on this node, so that a restore here need not fetch them.

What a dump captured is made of the very files that a restore needs: once they are stored, they stay here for a while instead of
being removed. A node that is about to get a container can also fetch them before it comes.

A copy is a shortcut to bytes that the event log vouches for, and is believed no more than the store is: its manifest is compared
with the digest in the log, and every byte with the manifest, each time that it is used. One that is broken is dropped, and the
store is asked; that says nothing against the snapshot. A workload's memory lies in a copy as it lay in the spool, for root
only: it is bounded in bytes, number and age, gives way to dumps, goes when its snapshot is deleted through this node or the id
has a newer one, and is not made at all where the store is encrypted.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog
from blake3 import blake3

from nodeworker.capture.criu import work_folders
from nodeworker.capture.criu.spool import Spool
from nodeworker.capture.trees import CapturedTree, ReadInto
from nodeworker.disk.reservations import Disk
from nodeworker.domain.common_failures import broken_copy
from nodeworker.store.snapshots import MANIFEST_NAME, SnapshotStore, check_manifest, content_bytes, tree_of
from nodeworker.store.verify import path_of, prove_file
from woodfrog.protocol.failures import FailureError
from woodfrog.protocol.ids import CheckpointKey, SnapshotId, check_id
from woodfrog.protocol.manifest import Entry, Manifest, Tree, TreeName

_log = structlog.get_logger(component="copies")
_MOST: Final = 100
_PARTIAL: Final = ".partial-"


class CachedSnapshot:
    """One copy whose manifest is the one that the log speaks of. Its files are proved as they are used."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._spool = Spool(folder)
        self.manifest = manifest
        self._contents: dict[tuple[TreeName, str], dict[str, Path]] | None = None

    def link_images(self, into: Path) -> None:
        """Give CRIU's images other names in ``into``, which is made: they stay there even if the copy is dropped.

        Raises:
            FailureError: ``local-copy-broken``.
        """
        into.mkdir(mode=0o700)
        for entry in tree_of(self.manifest, TreeName.PROCESSES).entries:
            place = path_of(entry, into)
            if entry.kind == "directory":
                place.mkdir(mode=0o700)
                continue
            try:
                os.link(path_of(entry, self._spool.images), place, follow_symlinks=False)
            except FileNotFoundError as problem:
                raise broken_copy(f"The file {entry.path} is not in the copy {self._spool.folder}.") from problem

    def reader(self, tree: Tree, otherwise: ReadInto) -> ReadInto:
        """Read the files of a tree from this copy, proving them; those that are not here or broken from elsewhere."""

        def read(entry: Entry, descriptor: int) -> None:
            path = self._where(tree).get(entry.path)
            if path is not None:
                try:
                    os.ftruncate(descriptor, entry.size_bytes)
                    prove_file(self.manifest, entry, path, lambda data, offset: _write(descriptor, data, offset))
                except FailureError as problem:
                    _log.warning("a file of a local copy is broken", file=str(path), failure=str(problem))
                    os.ftruncate(descriptor, 0)
                else:
                    return
            otherwise(entry, descriptor)

        return read

    def _where(self, tree: Tree) -> dict[str, Path]:
        if self._contents is None:
            self._contents = {}
            with suppress(FailureError):
                self._contents = {(one.name, one.volume): dict(one.contents) for one in self._spool.read_list()}
        return self._contents.get((tree.name, tree.volume), {})


def _write(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


class SnapshotCache:
    """All copies on this node. Every method blocks, and may be called from any thread."""

    def __init__(self, folder: Path, *, limit_bytes: int, limit_seconds: float, disk: Disk | None = None) -> None:
        """Find those that are there; ``limit_bytes`` 0 means that there are none. Room is taken from ``disk``."""
        self._disk = disk or Disk()
        self.folder = folder
        """Where they lie: ``<cluster>/<namespace>/<id>/<snapshot>``."""
        self._limit_bytes = limit_bytes
        self._limit_seconds = limit_seconds
        self._lock = threading.RLock()
        self._filling: defaultdict[SnapshotId, threading.Lock] = defaultdict(threading.Lock)
        self._held: dict[Path, int] = {}
        """What each occupies, the oldest first."""
        found = list(folder.glob("*/*/*/*"))
        for path in found:
            if path.name.startswith(_PARTIAL):
                shutil.rmtree(path, ignore_errors=True)
        with suppress(OSError):
            whole = sorted((path.stat().st_mtime, path) for path in found if path.is_dir())
            self._held = {path: _occupied(path) for _, path in whole}
        self.prune()

    @property
    def wanted(self) -> bool:
        """Whether copies are made here at all."""
        return self._limit_bytes > 0

    def take_over(
        self, spool: Spool, key: CheckpointKey, snapshot_id: SnapshotId, manifest: Callable[[], bytes]
    ) -> None:
        """Turn the spool of a stored capture into a copy, or remove it. The copies before it of the same id go."""
        folder = self._place(key, snapshot_id)
        try:
            if self.wanted and _occupied(spool.folder) <= self._limit_bytes:
                (spool.folder / MANIFEST_NAME).write_bytes(manifest())
                work_folders.remove(spool.work)
                self._enter(spool.folder, folder)
        except Exception as problem:  # noqa: BLE001 -- the snapshot is stored; nothing here may make that look otherwise
            _log.info("no local copy is kept", snapshot_id=snapshot_id, error=problem)
        spool.remove()

    def find(self, key: CheckpointKey, snapshot_id: SnapshotId, manifest_digest: str) -> CachedSnapshot | None:
        """Find the copy of a snapshot, if there is one and its manifest is the one that the log speaks of."""
        folder = self._place(key, snapshot_id)
        try:
            data = (folder / MANIFEST_NAME).read_bytes()
        except OSError:
            return None
        try:
            if blake3(data).hexdigest() != manifest_digest:
                raise broken_copy(f"The manifest in {folder} does not have the digest that the log gives.")
            return CachedSnapshot(folder, check_manifest(data, key, snapshot_id, shown=f"in {folder}"))
        except FailureError as problem:
            _log.warning("a local copy is broken and dropped", snapshot_id=snapshot_id, failure=str(problem))
            self.drop(key, snapshot_id)
            return None

    def fill(
        self,
        key: CheckpointKey,
        snapshot_id: SnapshotId,
        manifest_digest: str,
        store: SnapshotStore,
        *,
        whole: bool,
    ) -> CachedSnapshot | None:
        """Fetch a snapshot from the store, proved, unless it is here; ``None`` if no copy may be made.

        All of it, or else only CRIU's images: whoever is about to apply the other trees need not write them twice.

        Raises:
            FailureError: as :meth:`SnapshotStore.fetch_files`.
            OSError: the same.
        """
        with self._filling[snapshot_id]:
            found = self.find(key, snapshot_id, manifest_digest)
            if found is not None or not self.wanted:
                return found
            data = store.read_manifest(key, snapshot_id, manifest_digest)
            manifest = check_manifest(data, key, snapshot_id, shown="in the store")
            fetched = [tree for tree in manifest.trees if whole or tree.name is TreeName.PROCESSES]
            if sum(entry.size_bytes for tree in fetched for entry in tree.entries) > self._limit_bytes:
                return None
            folder = self._place(key, snapshot_id)
            partial = folder.with_name(f"{_PARTIAL}{uuid.uuid4().hex}")
            _private(partial)
            room = self._disk.take(content_bytes(manifest, fetched), partial, "a copy of the snapshot", spare=True)
            try:
                spool = Spool(partial)
                store.fetch_files(manifest, TreeName.PROCESSES, spool.images)
                others = [tree for tree in fetched if tree.name is not TreeName.PROCESSES]
                spool.write_list(
                    [_fetch(store, manifest, tree, spool, f"tree-{number}") for number, tree in enumerate(others)]
                )
                (partial / MANIFEST_NAME).write_bytes(data)
                return CachedSnapshot(folder, manifest) if self._enter(partial, folder) else None
            finally:
                room.close()
                shutil.rmtree(partial, ignore_errors=True)
                self._filling.pop(snapshot_id, None)  # who waits for it holds it, and finds the copy

    def drop(self, key: CheckpointKey, snapshot_id: SnapshotId) -> None:
        """Remove a copy, if there is one."""
        self._remove(self._place(key, snapshot_id))

    def prune(self) -> None:
        """Remove what is too old, and the oldest ones while there are too many or too little space is left."""
        with self._lock:
            for folder in list(self._held):
                try:
                    age_seconds = time.time() - folder.stat().st_mtime
                except OSError:
                    age_seconds = float("inf")
                if not self.wanted or age_seconds > self._limit_seconds:
                    self._remove(folder)
            while self._held and (
                sum(self._held.values()) > self._limit_bytes
                or len(self._held) > _MOST
                or self._disk.is_crowded(self.folder)
            ):
                self._remove(next(iter(self._held)))

    def give_way(self) -> bool:
        """Remove all, because a dump needs the space; say whether there were any."""
        with self._lock:
            held = list(self._held)
            for folder in held:
                self._remove(folder)
        return bool(held)

    def _place(self, key: CheckpointKey, snapshot_id: SnapshotId) -> Path:
        checked = CheckpointKey.checked(key.cluster, key.namespace, key.id)
        return self.folder / str(checked) / check_id(snapshot_id, "snapshot id")

    def _enter(self, made: Path, folder: Path) -> bool:
        """Put a whole copy in its place; say whether it stays."""
        size = _occupied(made)
        with self._lock:
            _private(folder.parent)
            if folder in self._held:
                self._remove(folder)
            os.utime(made)
            made.rename(folder)
            for other in [path for path in self._held if path.parent == folder.parent]:
                self._remove(other)
            self._held[folder] = size
            self.prune()
            return folder in self._held

    def _remove(self, folder: Path) -> None:
        with self._lock:
            self._held.pop(folder, None)
            shutil.rmtree(folder, ignore_errors=True)


def _fetch(store: SnapshotStore, manifest: Manifest, tree: Tree, spool: Spool, place: str) -> CapturedTree:
    """Fetch a tree other than CRIU's images: the contents of its files, each under a number, in the folder ``place``."""
    contents: dict[str, Path] = {}
    folder = spool.folder / place
    folder.mkdir(mode=0o700)
    with store.reader(manifest) as read_into:
        for entry in tree.entries:
            if entry.kind == "file" and entry.hardlink is None and entry.size_bytes:
                contents[entry.path] = folder / str(len(contents))
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                descriptor = os.open(contents[entry.path], flags, 0o600)
                try:
                    read_into(entry, descriptor)
                finally:
                    os.close(descriptor)
    return CapturedTree(tree.name, tree.entries, contents, (), tree.root, volume=tree.volume)


def _private(folder: Path) -> None:
    for directory in reversed([folder, *folder.parents]):
        if not directory.is_dir():
            directory.mkdir(mode=0o700, exist_ok=True)


def _occupied(folder: Path) -> int:
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(path, name)).st_blocks * 512  # noqa: PTH118 -- Path is 5 times slower
    return total
