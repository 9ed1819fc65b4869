"""How fast something was, by the clock and by processor time: what shares its machine is slow by the clock alone."""

from __future__ import annotations

import time
from typing import NamedTuple


class Rates(NamedTuple):
    """So many a second, of the clock and of this process's processor time."""

    by_clock: float
    by_processor: float


class Timer:
    """Runs from when it is made."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._used = time.process_time()

    def rates(self, count: int) -> Rates:
        """Tell how fast so many were done."""
        return Rates(count / (time.perf_counter() - self._began), count / (time.process_time() - self._used))
