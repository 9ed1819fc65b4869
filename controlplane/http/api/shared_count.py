"""A count of everything, made once for all who want it at about the same time.

On a machine that is busy, or where the log is not in memory, it takes longer than anybody waits for it. Begun again by everybody who asks
again, it would never end, and would keep the log's readers from all other questions.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from controlplane.log.summary import Overview

_HELD_SECONDS: Final = 2.0


class SharedCount:
    """One count, under way or made a moment ago."""

    def __init__(self, task: asyncio.Task[Overview]) -> None:
        self.task = task
        self._old_at: float | None = None
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Overview]) -> None:
        failed = task.cancelled() or task.exception() is not None
        self._old_at = time.monotonic() + (0.0 if failed else _HELD_SECONDS)

    def is_old(self) -> bool:
        """Return whether it says nothing about now any more."""
        return self._old_at is not None and time.monotonic() >= self._old_at
