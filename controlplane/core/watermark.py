"""A number that only whoever makes the progress moves, and that others wait for.

Two of them tie the loops together: the log position up to which events are committed (the relay follows it), and the REPORTS
sequence up to which reports are taken in (a resolve waits for it, so that no worker overtakes its own words).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Watermark:
    """A counter with waiters."""

    def __init__(self, value: int = 0) -> None:
        self._value = value
        self._moved = asyncio.Condition()

    @property
    def value(self) -> int:
        """How far it has got."""
        return self._value

    async def set(self, value: int) -> None:
        """Move to ``value``: forwards with the work, backwards when what was counted has been wiped."""
        async with self._moved:
            self._value = value
            self._moved.notify_all()

    async def reached(self, value: int, limit_seconds: float) -> bool:
        """Wait until ``value`` is reached; False if that takes longer than ``limit_seconds``."""
        return await self._until(lambda: self._value >= value, limit_seconds)

    async def fallen_below(self, value: int, limit_seconds: float) -> bool:
        """Wait until it is back below ``value``; False if that takes longer than ``limit_seconds``."""
        return await self._until(lambda: self._value < value, limit_seconds)

    async def _until(self, holds: Callable[[], bool], limit_seconds: float) -> bool:
        try:
            async with asyncio.timeout(limit_seconds), self._moved:
                await self._moved.wait_for(holds)
        except TimeoutError:
            return False
        return True
