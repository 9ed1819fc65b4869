"""The tries to store each capture: a person who knows that the store is back need not wait for the next one.

Used by the event loop alone.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import suppress

from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import SnapshotId


class StoreTries:
    """What the captures of one worker that are being stored wait for, and who waits for their tries."""

    def __init__(self) -> None:
        self._wakes: dict[SnapshotId, asyncio.Event] = {}
        self._asked: defaultdict[SnapshotId, list[asyncio.Future[Failure | None]]] = defaultdict(list)

    async def pause(self, snapshot_id: SnapshotId, seconds: float) -> bool:
        """Wait between two tries; return whether somebody ended the pause."""
        wake = self._wakes[snapshot_id] = asyncio.Event()
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(wake.wait(), seconds)
        finally:
            del self._wakes[snapshot_id]
        return wake.is_set()

    async def ask(self, snapshot_id: SnapshotId) -> Failure | None:
        """End the pause of a capture that is being stored; return why its next try failed, or ``None`` once it waits no more."""
        result: asyncio.Future[Failure | None] = asyncio.get_running_loop().create_future()
        self._asked[snapshot_id].append(result)
        self.hasten(snapshot_id)
        return await result

    def hasten(self, snapshot_id: SnapshotId) -> None:
        """End the pause of a capture, if it is in one."""
        if snapshot_id in self._wakes:
            self._wakes[snapshot_id].set()

    def ended(self, snapshot_id: SnapshotId, failure: Failure | None = None) -> None:
        """Note how a try ended, or that there will be none any more."""
        for result in self._asked.pop(snapshot_id, ()):
            if not result.done():
                result.set_result(failure)
