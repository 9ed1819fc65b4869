"""Bringing a snapshot's bytes to where a restore wants them: from a copy on this node if there is one, else from the store.

A capture that is not stored yet is taken from the spool, as a copy is; what is broken of it cannot be had from anywhere else.

From the store, nothing is handed on before it is proved. A copy was written by this worker, so a proof of it looks for decay and not
for malice, and what takes the time is memory: CRIU only puts that back into processes that do not run. So everything that CRIU
interprets is proved before it is handed on, and the memory while CRIU restores it; nobody may run before both are done.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import structlog

from nodeworker.capture.trees import ReadInto
from nodeworker.disk.reservations import Disk
from nodeworker.disk.snapshot_cache import CachedSnapshot, SnapshotCache
from nodeworker.disk.spooled_captures import SpooledCaptures
from nodeworker.domain.common_failures import DISK_FULL, spool_lost
from nodeworker.errors import failure_of
from nodeworker.restore.privilege_check import Checked
from nodeworker.store.snapshots import SnapshotStore, content_bytes, tree_of
from nodeworker.store.verify import prove_files, prove_sizes
from woodfrog.protocol.failures import SNAPSHOT_MISSING, Failure, FailureError
from woodfrog.protocol.ids import CheckpointKey
from woodfrog.protocol.manifest import Entry, Manifest, Tree, TreeName
from woodfrog.protocol.requests import RestoreFrom
from woodfrog.service.data_keys import DataKeyError, from_text, to_text

_log = structlog.get_logger(component="fetching")
_MEMORY: Final = re.compile(r"pages-\d+\.img", re.ASCII)
"""Images that hold nothing but the contents of pages (CRIU, criu/include/image-desc.h); what goes where is in others."""

_MOST_PROVERS: Final = 2
"""Threads that prove memory: one reads and hashes several GiB/s, more than CRIU puts back, and takes no core from it."""


class Fetched:
    """CRIU's images in a directory of the container's own, and the other trees ready to be read."""

    def __init__(self, store: SnapshotStore, manifest: Manifest, images: Path, copy: CachedSnapshot | None) -> None:
        self.manifest = manifest
        self.images = images
        self._store = store
        self._copy = copy
        self.unstored = False
        """Whether the store has nothing of it."""
        self.unproved: tuple[Entry, ...] = ()
        self.checked = Checked()

    @contextmanager
    def reader(self, tree: Tree) -> Iterator[ReadInto]:
        """Read the files of a tree."""
        if self.unstored and self._copy is not None:
            yield self._copy.reader(tree, _nowhere_else)
            return
        with self._store.reader(self.manifest) as from_store:
            yield from_store if self._copy is None else self._copy.reader(tree, from_store)


def _nowhere_else(entry: Entry, _descriptor: int) -> None:
    raise spool_lost(f"the file {entry.path} of the capture is not what was captured, and the store has nothing of it")


@contextmanager
def _of_a_capture() -> Iterator[None]:
    """Word what is found broken as what it is: not a copy, but all that there is."""
    try:
        yield
    except (OSError, FailureError) as problem:
        cause = problem.failure.cause if isinstance(problem, FailureError) else problem
        raise spool_lost(f"what was captured is broken: {cause}") from problem


class Fetcher:
    """Fetches for all restores of one worker. Every method blocks."""

    def __init__(
        self, store: SnapshotStore, copies: SnapshotCache, spooled: SpooledCaptures, disk: Disk | None = None
    ) -> None:
        self._store = store
        self._copies = copies
        self._spooled = spooled
        self._disk = disk or Disk()
        self._provers = min(_MOST_PROVERS, max(1, len(os.sched_getaffinity(0)) // 2))

    def fetch(self, key: CheckpointKey, choice: RestoreFrom, images: Path) -> Fetched:
        """Put CRIU's images into ``images``, which is made; memory may be left to be proved.

        Raises:
            FailureError: as ``SnapshotStore.fetch_files``.
            OSError: the same.
        """
        identity = (key, choice.snapshot_id, choice.manifest_digest)
        if choice.unstored:
            return self._waiting(self._spooled.take(*identity, images.with_name("capture")), images)
        copy = self._copies.find(*identity)
        if copy is not None:
            try:
                return self._linked(copy, images)
            except (OSError, FailureError) as problem:
                _log.warning("a local copy is of no use", snapshot_id=choice.snapshot_id, failure=str(problem))
                self._copies.drop(key, choice.snapshot_id)
                shutil.rmtree(images, ignore_errors=True)
        try:
            copy = self._copies.fill(*identity, self._store, whole=False)
        except FailureError as problem:
            if problem.failure.code != DISK_FULL:
                raise
            copy = None
            self._copies.give_way()
        if copy is not None:
            fetched = Fetched(self._store, copy.manifest, images, copy)
            copy.link_images(images)  # proved as it was written, a moment ago
            return fetched
        manifest = self._store.open_manifest(*identity)
        needed_bytes = content_bytes(manifest, [tree_of(manifest, TreeName.PROCESSES)])
        with self._disk.reserve(needed_bytes, images, "the restore"):
            self._store.fetch_files(manifest, TreeName.PROCESSES, images)
        return Fetched(self._store, manifest, images, None)

    def _linked(self, copy: CachedSnapshot, images: Path) -> Fetched:
        """Take CRIU's images from a copy, and prove all but the memory."""
        fetched = Fetched(self._store, copy.manifest, images, copy)
        copy.link_images(images)
        entries = tree_of(copy.manifest, TreeName.PROCESSES).entries
        fetched.unproved = tuple(entry for entry in entries if _MEMORY.fullmatch(entry.path))
        prove_sizes(fetched.unproved, images)
        prove_files(copy.manifest, [entry for entry in entries if entry not in fetched.unproved], images, 1)
        return fetched

    def _waiting(self, capture: CachedSnapshot, images: Path) -> Fetched:
        """Take them from a capture that waits for the store, of which there is nothing elsewhere."""
        with _of_a_capture():
            fetched = self._linked(capture, images)
        fetched.unstored = True
        return fetched

    def locked(self, key: CheckpointKey, choice: RestoreFrom) -> str:
        """Return the wrapped key of a snapshot, if it has one of its own that is not here, as a question shows it."""
        if choice.unstored:  # nothing of it is sealed yet
            return ""
        try:
            return to_text(self._store.locked(key, choice.snapshot_id))
        except (FailureError, OSError):
            return ""  # fetching it says why

    def unlock(self, key: CheckpointKey, choice: RestoreFrom) -> None:
        """Take the key that came with the decision."""
        with suppress(DataKeyError):
            self._store.unlock(key, choice.snapshot_id, from_text(choice.data_key))

    @property
    def store(self) -> str | None:
        """Identity of the store, as it was last known."""
        return self._store.identity.last

    def confirm(self, key: CheckpointKey, choice: RestoreFrom, failure: Failure) -> tuple[Failure, str | None]:
        """Return what is to be reported of a fetch that failed, and in which store an object was missing if that is certain.

        An empty mount point looks like a store from which everything was removed.
        """
        if failure.code != SNAPSHOT_MISSING:
            return failure, None
        try:
            return failure, self._store.lacks(key, choice.snapshot_id, choice.manifest_digest)
        except (FailureError, OSError) as problem:
            return failure_of(problem), None

    def prove(self, key: CheckpointKey, fetched: Fetched) -> None:
        """Prove what :meth:`fetch` left to be proved; a copy that is broken is dropped.

        Raises:
            FailureError: ``local-copy-broken``, or ``spool-lost`` of a capture that is not stored.
        """
        if fetched.unstored:
            with _of_a_capture():
                prove_files(fetched.manifest, fetched.unproved, fetched.images, self._provers)
            return
        try:
            prove_files(fetched.manifest, fetched.unproved, fetched.images, self._provers)
        except (OSError, FailureError):
            self._copies.drop(key, fetched.manifest.snapshot_id)
            raise
