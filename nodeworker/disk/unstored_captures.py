"""Captures that wait on this node because the store does not take them, and who goes first when the disk fills up.

They are the only copies of what they hold. Those of dead containers are never given up for room; of the others the oldest goes first, and
each when a newer one of its id is there.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from nodeworker.journal import DumpRecord
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import SnapshotId

_log = structlog.get_logger(component="storing")
_FLOOR_SHARE: Final = 0.05


class UnstoredCaptures:
    """The captures of one worker that are between two tries. May be used from any thread."""

    def __init__(self, spool: Path, floor_bytes: int, give_up: Callable[[DumpRecord, Failure], None]) -> None:
        """``floor_bytes`` of the spool's file system, or a twentieth if that is less, are kept free where that is possible."""
        self._spool = spool
        self._floor_bytes = floor_bytes
        self._give_up = give_up
        self._lock = threading.Lock()
        self._waiting: dict[SnapshotId, DumpRecord] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def wait(self, record: DumpRecord) -> None:
        """Note that a capture waits for its next try, and make room if there is too little."""
        with self._lock:
            self._waiting[record.snapshot_id] = record
        while self._is_crowded() and self.give_way():
            pass

    def resume(self, record: DumpRecord) -> bool:
        """Take a capture back for its next try; say whether it was still there."""
        with self._lock:
            return self._waiting.pop(record.snapshot_id, None) is not None

    def older_than(self, record: DumpRecord) -> list[DumpRecord]:
        """Return the captures of the same id that wait and that nobody needs once ``record`` is there."""
        with self._lock:
            return [
                other
                for other in self._waiting.values()
                if other.key == record.key and other.started_at < record.started_at and not other.final
            ]

    def give_way(self) -> bool:
        """Give up the oldest capture whose container runs on; say whether there was one."""
        with self._lock:
            running = [record for record in self._waiting.values() if not record.final]
            oldest = min(running, key=lambda record: record.started_at, default=None)
            if oldest is not None:
                del self._waiting[oldest.snapshot_id]
        if oldest is None:
            return False
        waited_for = oldest.delay.cause if oldest.delay is not None else "the store did not take it"
        cause = f"the capture was removed to make room on the node while it waited to be stored: {waited_for}"
        advice = "See why the store does not take snapshots, or give the worker's state directory a larger disk."
        _log.warning("a capture gives way", snapshot_id=oldest.snapshot_id, key=str(oldest.key))
        self._give_up(oldest, Failure("spool-crowded", cause, advice))
        return True

    def _is_crowded(self) -> bool:
        try:
            space = os.statvfs(self._spool)
        except OSError:
            return False
        floor_bytes = min(self._floor_bytes, _FLOOR_SHARE * space.f_blocks * space.f_frsize)
        return space.f_bavail * space.f_frsize < floor_bytes
