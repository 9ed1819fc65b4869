"""What only the control plane that leads knows: when an interval has an id dumped next."""

from __future__ import annotations

from datetime import datetime

from controlplane.core.loop import DecisionLoop
from controlplane.domain.schedule import Schedule, due_at
from woodfrog.protocol.ids import CheckpointKey


class Live:
    """Empty until this control plane leads."""

    def __init__(self) -> None:
        self._loop: DecisionLoop | None = None
        self._schedule = Schedule()

    def leads(self, loop: DecisionLoop, schedule: Schedule) -> None:
        """Answer from now on out of the state that ``loop`` owns."""
        self._loop = loop
        self._schedule = schedule

    def next_dump(self, key: CheckpointKey) -> datetime | None:
        """Say when a key is dumped next; ``None`` if it is not, or nobody here knows."""
        if self._loop is None or (state := self._loop.key(key)) is None:
            return None
        return due_at(key, state, self._loop.nodes(), self._schedule)
