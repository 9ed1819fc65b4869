"""Whose fetch comes first: a container that is being created waits for its own; what is fetched ahead can wait.

A node that is sent many prefetches at once would otherwise share its network, disk and threads among all of them, and the
containers that are starting meanwhile would wait longest.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager


class FetchGate:
    """Lets restores fetch at once, and prefetches a few at a time while no restore does. Used in the event loop only."""

    def __init__(self, prefetches: int) -> None:
        """At most so many ``prefetches`` run at the same time."""
        self._free = asyncio.Semaphore(prefetches)
        self._restores = 0
        self._quiet = asyncio.Event()
        self._quiet.set()
        self.waiting = 0
        """How many prefetches wait."""

    @contextmanager
    def restore(self) -> Iterator[None]:
        """Hold prefetches up that have not begun."""
        self._restores += 1
        self._quiet.clear()
        try:
            yield
        finally:
            self._restores -= 1
            if not self._restores:
                self._quiet.set()

    @asynccontextmanager
    async def prefetch(self) -> AsyncIterator[None]:
        """Wait for a place, and until no restore fetches."""
        self.waiting += 1
        try:
            await self._free.acquire()
            try:
                await self._quiet.wait()
            except BaseException:
                self._free.release()
                raise
        finally:
            self.waiting -= 1
        try:
            yield
        finally:
            self._free.release()
