"""Creates under way: each ends with whoever asked for it, and with its container.

A create may take as long as a hand-over and a fetch. Whoever asked may be gone by then: a person pressed Ctrl-C, an engine gave
up. A create that went on all the same would write its container down after everybody had been told that it is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from woodfrog.protocol.ids import ContainerId
from woodfrog.protocol.runtime_api import LocalAnswer


class PendingCreates:
    """The creates of one worker, one at a time of each container."""

    def __init__(self) -> None:
        self._under_way: dict[ContainerId, asyncio.Task[LocalAnswer]] = {}
        self._doing: dict[ContainerId, str] = {}

    async def carry_out(self, container_id: ContainerId, work: Coroutine[Any, Any, LocalAnswer]) -> LocalAnswer:
        """Carry a create out, once an earlier one of the container has been ended; cancelled, it ends before this returns."""
        await self._end(container_id)
        task = self._under_way[container_id] = asyncio.create_task(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await _ended(task)
            raise
        finally:
            if self._under_way.get(container_id) is task:
                del self._under_way[container_id]

    async def cancel(self, container_id: ContainerId) -> None:
        """End the create of a container that is under way, if there is one, and forget what was being done."""
        self._doing.pop(container_id, None)
        await self._end(container_id)

    async def _end(self, container_id: ContainerId) -> None:
        task = self._under_way.pop(container_id, None)
        if task is not None:
            await _ended(task)

    def is_under_way(self, container_id: ContainerId) -> bool:
        """Whether a create of the container is under way."""
        return container_id in self._under_way

    def note(self, container_id: ContainerId, doing: str) -> None:
        """Note what is being done for a container's start, for people."""
        self._doing[container_id] = doing

    def doing(self, container_id: ContainerId) -> str:
        """Say what is being done."""
        return self._doing.get(container_id, "")


async def _ended(task: asyncio.Task[LocalAnswer]) -> None:
    task.cancel()
    await asyncio.wait([task])
