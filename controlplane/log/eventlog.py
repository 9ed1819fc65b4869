"""The event log as the rest of the control plane sees it: append, read, query, wait."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Self

from controlplane.log.records import NewEvent, Recorded
from protocol.ids import CheckpointKey, CommandId, Epoch, Position, Version
from protocol.requests import View


def _utc_now() -> datetime:
    return datetime.now(UTC)


class EventLog:
    """One open log."""

    @classmethod
    async def open(cls, url: str, *, clock: Callable[[], datetime] = _utc_now) -> Self:
        """Open a migrated database."""
        raise NotImplementedError

    async def append(
        self, batch: Sequence[NewEvent], *, epoch: Epoch, expected: Mapping[str, Version] | None = None
    ) -> list[Recorded]:
        """Record a batch and update the projections, all or nothing, in one transaction."""
        raise NotImplementedError

    async def take_lead(self) -> Epoch:
        """Begin a new leadership; every earlier epoch is fenced off from now on."""
        raise NotImplementedError

    async def read(self, after: Position, limit: int) -> list[Recorded]:
        """Read up to ``limit`` events behind position ``after`` (0: from the start)."""
        raise NotImplementedError

    async def head(self) -> Position:
        """Tell the position of the newest event, 0 if there is none."""
        raise NotImplementedError

    async def query(
        self, view: View, *, key: CheckpointKey | None = None, command_id: CommandId | None = None, limit: int = 1000
    ) -> list[dict[str, Any]]:
        """Read a view: the newest ``limit`` rows, oldest first, values fit for JSON."""
        raise NotImplementedError

    async def wait_for(self, position: Position, timeout: float) -> bool:  # noqa: ASYNC109 - a bound, not a cancellation
        """Wait until the log has reached ``position``; False if it has not within ``timeout`` seconds."""
        raise NotImplementedError

    async def close(self) -> None:
        """Give back every connection."""
        raise NotImplementedError
