"""The pages of a control plane, and what they say of its health.

A standby is as ready as the leader: it answers queries. So a rollout goes on without waiting for the lead to change hands,
and a probe never makes two of them leaders.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from nats.aio.client import Client

from controlplane.bus.stream_storage import Use
from controlplane.http.metrics import Metrics
from woodfrog.service.http import Answerer, Page

_PATIENCE_SECONDS: Final = 90.0
"""How long NATS may be away before a new process is worth a try; the connection itself is tried every second."""


class Health:
    """What probes are told. The event loop lives if it answers; the death of any part of it is the process's death."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._client: Client | None = None
        self._connected_at = clock()
        self._scarce: str | None = None

    def answers(self, client: Client) -> None:
        """Note that queries are answered from now on, over ``client``."""
        self._client = client

    def streams_use(self, use: Use) -> None:
        """Note what the streams take of the broker's storage."""
        self._scarce = use.scarce

    def unready(self) -> str | None:
        """Say why this process needs somebody; ``None`` if it can be asked and there is room for what it is told."""
        return self._away() or self._scarce

    def _away(self) -> str | None:
        if self._client is None:
            return "not listening yet"
        if not self._client.is_connected:
            return "not connected to NATS"
        self._connected_at = self._clock()
        return None

    def sick(self) -> str | None:
        """Say why this process had better be started anew; ``None`` if it had not."""
        problem = self._away()
        away_seconds = self._clock() - self._connected_at
        return None if problem is None or away_seconds < _PATIENCE_SECONDS else f"{problem} for {away_seconds:.0f} s"


def pages(health: Health, metrics: Metrics) -> dict[str, Answerer]:
    """Put the pages together, by their paths."""

    async def live() -> Page:
        return Page.verdict(health.sick())

    async def ready() -> Page:
        return Page.verdict(health.unready())

    return {"/healthz": live, "/readyz": ready, "/metrics": metrics.page}
