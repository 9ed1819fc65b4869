"""Pauses between tries of something that fails, each twice as long as the one before, up to a bound."""

from __future__ import annotations

import asyncio


class Backoff:
    """The pauses of one loop."""

    def __init__(self, first_seconds: float, longest_seconds: float) -> None:
        self._first_seconds = first_seconds
        self._longest_seconds = longest_seconds
        self.next_seconds = first_seconds
        """How long the next one is."""

    def reset(self) -> None:
        """Begin with the shortest again: it went well."""
        self.next_seconds = self._first_seconds

    def step(self) -> float:
        """Return how long the pause is that begins now, and have the next one be longer."""
        seconds = self.next_seconds
        self.next_seconds = min(2 * seconds, self._longest_seconds)
        return seconds

    async def sleep(self) -> None:
        """Pause."""
        await asyncio.sleep(self.step())
