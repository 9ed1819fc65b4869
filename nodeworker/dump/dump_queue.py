"""The queue in which dumps wait for their turn; nothing is frozen, noted or told of one that waits.

It lives in memory only. What is lost with it was not begun: whoever asked for a stop sees the connection break and passes the
signal on, and a command comes again to the worker's next life.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from enum import Enum, auto

from nodeworker.domain.dump_scheduling import Waiting, next_turns
from woodfrog.protocol.ids import ContainerId


class EarlierDumpError(Exception):
    """Another dump of the same container is still under way."""


class GoneError(Exception):
    """The container was gone before its turn came."""


class _Word(Enum):
    """What one that waits is told."""

    BEGIN = auto()
    GONE = auto()


class DumpQueue:
    """Lets at most ``at_once`` dumps capture at the same time, and one of each container."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._arrivals = 0
        self._waiting: dict[Waiting, asyncio.Future[_Word]] = {}
        self._came: dict[Waiting, datetime] = {}
        self._capturing: dict[ContainerId, Waiting] = {}
        self._closed = False

    @property
    def capturing(self) -> int:
        """How many have their turn."""
        return len(self._capturing)

    @property
    def waiting(self) -> int:
        """How many wait for it."""
        return len(self._waiting)

    @property
    def waiting_stops(self) -> list[tuple[ContainerId, datetime]]:
        """The containers whose last dump waits for its turn, each with when it came."""
        return [(one.container_id, self._came[one]) for one in self._waiting if one.final]

    def is_capturing(self, container_id: ContainerId) -> bool:
        """Say whether a dump of the container has its turn."""
        return container_id in self._capturing

    @asynccontextmanager
    async def turn(
        self,
        container_id: ContainerId,
        *,
        final: bool,
        deadline: datetime,
        namespace: str = "",
        own_limit_seconds: float | None = None,
    ) -> AsyncIterator[None]:
        """Wait for a turn, and hold it until the end of the block. Who is cancelled gives its place up.

        Raises:
            EarlierDumpError: if after ``own_limit_seconds`` it is an earlier dump of the container that is waited for.
            GoneError: if the container left meanwhile.
        """
        self._arrivals += 1
        mine = Waiting(
            container_id=container_id,
            final=final,
            deadline=deadline,
            arrival=self._arrivals,
            namespace=namespace,
        )
        word = self._waiting[mine] = asyncio.get_running_loop().create_future()
        self._came[mine] = datetime.now(UTC)
        try:
            self._call()
            await asyncio.wait([word], timeout=own_limit_seconds)
            if not word.done() and self.is_capturing(container_id):
                raise EarlierDumpError
            # Shielded, so that a word that came together with a cancellation is still there to be given back.
            if await asyncio.shield(word) is _Word.GONE:
                raise GoneError
            yield
        finally:
            self._waiting.pop(mine, None)
            del self._came[mine]
            if word.done() and word.result() is _Word.BEGIN:
                self._capturing.pop(container_id, None)
            self._call()

    def leave(self, container_id: ContainerId) -> None:
        """Let all that wait for a container that is gone leave the queue."""
        for one in [one for one in self._waiting if one.container_id == container_id]:
            self._waiting.pop(one).set_result(_Word.GONE)

    def close(self) -> None:
        """Give turns to final dumps only: what can be taken later as well is left to the worker's next life."""
        self._closed = True

    def _call(self) -> None:
        for one in next_turns(self._waiting, self._capturing.values(), self._at_once, only_final=self._closed):
            self._capturing[one.container_id] = one
            self._waiting.pop(one).set_result(_Word.BEGIN)
