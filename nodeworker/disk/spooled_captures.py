"""Captures that the store does not take, as what a container on this very node is restored from meanwhile.

The worker vouches for such a capture as it does for a stored one: it makes a manifest of the files in the spool, keeps it beside
them, and reports its digest. A restore is given the digest by the control plane and proves every byte, and so does the worker when it
stores the capture at last, so what either gets is what was captured. A restore is given other names of the files and never the spool itself, which is yet to be stored, and which may be stored and
removed at any moment.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from blake3 import blake3

from nodeworker.capture.criu.spool import Spool
from nodeworker.disk.snapshot_cache import CachedSnapshot
from nodeworker.domain.common_failures import broken_copy, spool_corrupt, spool_lost
from nodeworker.journal import DumpRecord, Journal
from nodeworker.store.capture_manifest import list_files
from nodeworker.store.comparison import difference
from nodeworker.store.snapshots import MANIFEST_NAME, ManifestHeader, check_manifest
from woodfrog.protocol import wire
from woodfrog.protocol.failures import FailureError
from woodfrog.protocol.ids import CheckpointKey, SnapshotId, check_id
from woodfrog.protocol.manifest import Manifest


def vouch(spool: Spool, header: ManifestHeader) -> str:
    """Write the manifest of a whole capture into its spool, and return its digest. It outlives the machine once the spool is synced.

    Raises:
        FailureError: ``spool-lost`` or ``capture-unfit``.
        OSError: a file cannot be read, or there is no room.
    """
    data = wire.encode(list_files(header, spool.read_list()))
    (spool.folder / MANIFEST_NAME).write_bytes(data)
    return blake3(data).hexdigest()


def check_of(spool: Spool, record: DumpRecord) -> Callable[[Manifest], None]:
    """Return what refuses the manifest of a capture that was read for the store and is not what was vouched for, as ``spool-corrupt``.

    A capture that was not vouched for is taken as it is: nothing was read before that it could be compared with.

    Raises:
        FailureError: ``spool-corrupt`` if the manifest in the spool is not the one that was reported, ``spool-lost`` if it is gone.
        OSError: it cannot be read.
    """
    if not record.manifest_digest:
        return lambda _: None
    try:
        data = (spool.folder / MANIFEST_NAME).read_bytes()
    except FileNotFoundError as problem:
        raise spool_lost(f"the manifest of the capture in {spool.folder} is gone") from problem
    if blake3(data).hexdigest() != record.manifest_digest:
        raise spool_corrupt(f"the manifest of the capture in {spool.folder} is not the one that was reported")
    vouched = check_manifest(data, record.key, record.snapshot_id, shown=f"in {spool.folder}")

    def check(found: Manifest) -> None:
        changed = difference(vouched, found)
        if changed is not None:
            waited = "it changed on the node's disk while it waited to be stored"
            raise spool_corrupt(f"{changed} in {spool.folder} is not what was captured: {waited}")

    return check


class SpooledCaptures:
    """The captures in a worker's spool. May be used from any thread."""

    def __init__(self, folder: Path, journal: Journal) -> None:
        self._folder = folder
        self._journal = journal

    def take(self, key: CheckpointKey, snapshot_id: SnapshotId, manifest_digest: str, into: Path) -> CachedSnapshot:
        """Give a capture's files other names in ``into``, which is made, as a copy whose files are proved as they are used.

        Raises:
            FailureError: ``local-copy-broken`` if it waits no more, the report of which is in the journal; ``spool-lost`` if what lies
                there is not what was vouched for.
        """
        folder = self._folder / check_id(snapshot_id, "snapshot id")
        try:
            spool = Spool(folder).link_into(into)
            data = (into / MANIFEST_NAME).read_bytes()
            if blake3(data).hexdigest() != manifest_digest:
                raise spool_lost("its manifest does not have the digest that the log gives")
            return CachedSnapshot(spool.folder, check_manifest(data, key, snapshot_id, shown=f"in {folder}"))
        except (OSError, FailureError) as problem:
            if not any(record.snapshot_id == snapshot_id for record in self._journal.dumps()):
                raise broken_copy(f"The capture in {folder} waits for the store no more.") from problem
            cause = problem.failure.cause if isinstance(problem, FailureError) else problem
            raise spool_lost(f"the capture in {folder} cannot be restored: {cause}") from problem
