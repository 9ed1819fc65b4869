"""How many of the same refusals are recorded: a node that asks for what it has no right to would else fill the log."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from woodfrog.protocol.ids import CheckpointKey, NodeName

_AGAIN_SECONDS: Final = 600.0
"""After so long the same refusal is recorded once more."""
_MOST_OF_A_NODE: Final = 20
"""How many different ones of a node are recorded in that time."""
_REMEMBERED: Final = 10_000


class RefusalBudget:
    """Remembers what was recorded of late."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._recorded: OrderedDict[tuple[NodeName, CheckpointKey], float] = OrderedDict()

    def take(self, node: NodeName, key: CheckpointKey) -> bool:
        """Say whether a refusal of ``node`` about ``key`` is to be recorded now."""
        now = self._clock()
        while self._recorded and now - next(iter(self._recorded.values())) >= _AGAIN_SECONDS:
            self._recorded.popitem(last=False)
        if (node, key) in self._recorded or len(self._recorded) >= _REMEMBERED:
            return False
        if sum(other == node for other, _ in self._recorded) >= _MOST_OF_A_NODE:
            return False
        self._recorded[node, key] = now
        return True
