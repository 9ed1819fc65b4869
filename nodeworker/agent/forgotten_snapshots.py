"""Snapshots that this node stored for an id that was forgotten meanwhile: nothing names their bytes, so whoever stored them removes them.

A node that was lost may have had captures that were not stored yet. An id is forgotten without waiting for such a node, and when it
comes back it stores them; the log refuses to hear of it, and nobody else knows that they are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import structlog

from nodeworker.disk.snapshot_cache import SnapshotCache
from nodeworker.journal import Journal
from nodeworker.store.snapshots import SnapshotStore
from woodfrog.protocol.events import SnapshotStored
from woodfrog.protocol.failures import FailureError

_log = structlog.get_logger(component="storing")


class ForgottenSnapshots:
    """Removes them. Every method blocks."""

    def __init__(self, journal: Journal, store: SnapshotStore, copies: SnapshotCache) -> None:
        self._journal = journal
        self._store = store
        self._copies = copies

    def remove(self, refused: Sequence[UUID]) -> set[UUID]:
        """Remove what these reports say was stored; return those of which something may be left."""
        return {report_id for report_id in refused if not self._is_removed(report_id)}

    def _is_removed(self, report_id: UUID) -> bool:
        report = self._journal.confirmed_report(report_id)
        if report is None or not isinstance(report.event, SnapshotStored):
            return True
        event = report.event
        try:
            if event.taken_on.store not in {None, self._store.identity.read()}:
                _log.warning("a snapshot of a forgotten id is in another store", snapshot_id=event.snapshot_id)
                return True
            self._copies.drop(event.key, event.snapshot_id)
            self._store.discard(event.key, event.snapshot_id)
        except (FailureError, OSError, ValueError) as problem:
            _log.warning(
                "a snapshot of a forgotten id could not be removed yet",
                snapshot_id=event.snapshot_id,
                error=str(problem),
            )
            return False
        _log.info("a snapshot of a forgotten id is removed", snapshot_id=event.snapshot_id, key=str(event.key))
        return True
