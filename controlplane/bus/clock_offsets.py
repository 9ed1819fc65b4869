"""How far nodes' clocks are from this one, as their heartbeats show.

A heartbeat that was held up makes its node's clock look slow, never fast, so the largest of several offsets is nearest to the truth.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from datetime import datetime
from typing import Final

_HEARTBEATS: Final = 5
"""So many are compared: ten seconds of them."""


class ClockOffsets:
    """The last offsets of every worker."""

    def __init__(self) -> None:
        self._last: dict[Hashable, deque[float]] = {}

    def measured(self, worker: Hashable, at: datetime | None, now: datetime) -> float | None:
        """Take in the time of a heartbeat; return by how many seconds its clock is ahead, ``None`` until that is known."""
        if at is None or at.tzinfo is None:
            return None
        last = self._last.setdefault(worker, deque(maxlen=_HEARTBEATS))
        last.append((at - now).total_seconds())
        return max(last) if len(last) == _HEARTBEATS else None

    def forget(self, worker: Hashable) -> None:
        """Drop a worker that is gone."""
        self._last.pop(worker, None)
