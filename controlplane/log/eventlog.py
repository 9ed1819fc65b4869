"""The event log as the rest of the control plane sees it: append, read, query, wait.

Everything is in the database; an :class:`EventLog` holds connections and the newest position that it has heard of. Several may be
open on one database, in one process or many: positions and epochs are settled there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Self
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from controlplane.log import append, chain, projections, read
from controlplane.log.engine import make_ready, open_engine, reading, writing
from controlplane.log.records import NewEvent, Recorded
from controlplane.log.upcast import UPCASTS, Upcasts
from process import faultpoints
from protocol.ids import CheckpointKey, CommandId, Epoch, Position, Version
from protocol.requests import View

_POLL_SECONDS = 1.0
_REBUILD_EVENTS = 1000


def _utc_now() -> datetime:
    return datetime.now(UTC)


class EventLog:
    """One open log. Made by :meth:`open`; used from one event loop; closed with :meth:`close`.

    Every method raises :class:`~controlplane.log.records.LogUnavailableError` while the database cannot be used (as
    :class:`~controlplane.log.records.LogFullError` if its disk is full), after which it may simply be tried again.
    """

    def __init__(self, engine: AsyncEngine, *, clock: Callable[[], datetime], upcasts: Upcasts) -> None:
        self._engine = engine
        self._clock = clock
        self._upcasts = upcasts
        self._appending = asyncio.Lock()
        self._grown = asyncio.Condition()
        self._heard_of = Position(0)

    @classmethod
    async def open(cls, url: str, *, clock: Callable[[], datetime] = _utc_now, upcasts: Upcasts = UPCASTS) -> Self:
        """Open a migrated database; ``clock`` gives ``recorded_at``.

        Projections that were written by another version of the code are rebuilt first, which takes about a minute for a
        million events.

        Raises:
            LogSchemaError: if the database was not migrated (:func:`controlplane.log.migrate.upgrade`).
        """
        log = cls(open_engine(url), clock=clock, upcasts=upcasts)
        try:
            await make_ready(log._engine)
            await log.head()
            async with reading(log._engine) as connection:
                stale = await projections.version(connection) != projections.VERSION
            if stale:
                await log.rebuild()
        except BaseException:
            await log.close()
            raise
        return log

    async def append(
        self, batch: Sequence[NewEvent], *, epoch: Epoch, expected: Mapping[str, Version] | None = None
    ) -> list[Recorded]:
        """Record a batch and update the projections, all or nothing, in one transaction that is on disk when this returns.

        Answers one record for each event, in order. An event id that is recorded already, with the same payload, is
        answered with what is recorded and written no second time: an append whose fate is unknown is simply repeated.
        ``expected`` gives versions that streams must have before the batch (0: no event yet).

        Raises:
            StaleEpochError: another control plane took the lead.
            ExpectedVersionError: a stream moved on.
            EventConflictError: an event id is recorded with another payload.
            ValueError: ``occurred_at`` has no offset from UTC.
        """
        if not batch:
            return []
        async with self._appending, writing(self._engine) as connection:
            recorded = await append.append(
                connection,
                batch,
                epoch=epoch,
                expected=expected or {},
                recorded_at=self._clock(),
                upcasts=self._upcasts,
            )
        faultpoints.reach("log.append.after-commit")
        await self._hear_of(max(record.position for record in recorded))
        return recorded

    async def take_lead(self) -> Epoch:
        """Begin a new leadership; every earlier epoch is fenced off from now on."""
        async with self._appending, writing(self._engine) as connection:
            return await append.take_lead(connection)

    async def check_lead(self, epoch: Epoch) -> None:
        """Make sure that ``epoch`` still leads, for an answer that is given without an append.

        Raises:
            StaleEpochError: another control plane took the lead.
        """
        async with reading(self._engine) as connection:
            await append.check_lead(connection, epoch)

    async def read(self, after: Position, limit: int) -> list[Recorded]:
        """Read up to ``limit`` events behind position ``after`` (0: from the start), in order and without gaps.

        Raises:
            UnreadableEventError: if an event is of a newer release's type, or damaged.
        """
        async with reading(self._engine) as connection:
            return await read.read(connection, after, limit, self._upcasts)

    async def recorded(self, event_ids: Sequence[UUID]) -> dict[UUID, Recorded]:
        """Find those of the events that are in the log, by their ids: how a redelivered report is recognised."""
        async with reading(self._engine) as connection:
            return await append.recorded_before(connection, event_ids, self._upcasts)

    async def head(self) -> Position:
        """Tell the position of the newest event, 0 if there is none."""
        async with reading(self._engine) as connection:
            position = await read.head(connection)
        await self._hear_of(position)
        return position

    async def query(
        self, view: View, *, key: CheckpointKey | None = None, command_id: CommandId | None = None, limit: int = 1000
    ) -> list[dict[str, Any]]:
        """Read a view: the newest ``limit`` rows, oldest first, values fit for JSON (docs/reference/sql.md).

        Raises:
            ViewFilterError: the view's rows have no key, or no command.
        """
        async with reading(self._engine) as connection:
            return await read.query(connection, view, key=key, command_id=command_id, limit=limit)

    async def wait_for(self, position: Position, timeout: float) -> bool:  # noqa: ASYNC109 - a bound, not a cancellation
        """Wait until the log has reached ``position``; False if it has not within ``timeout`` seconds.

        An append through this object wakes at once; those of others are found by looking once a second.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while self._heard_of < position:
            left = deadline - loop.time()
            if left <= 0:
                return False
            try:
                async with asyncio.timeout(min(left, _POLL_SECONDS)), self._grown:
                    await self._grown.wait_for(lambda: self._heard_of >= position)
            except TimeoutError:
                await self.head()
        return True

    async def verify(self) -> chain.Verification:
        """Check that the log is as it was written: positions, versions and the hash chain of every stream."""
        async with reading(self._engine) as connection:
            return await chain.verify(connection)

    async def rebuild(self) -> None:
        """Fold the projections anew from the first event, in one transaction; views show the old rows until its end."""
        async with self._appending, writing(self._engine) as connection:
            await self._rebuild(connection)

    async def close(self) -> None:
        """Give back every connection."""
        await self._engine.dispose()

    async def _rebuild(self, connection: AsyncConnection) -> None:
        await projections.forget(connection)
        position = Position(0)
        while records := await read.read(connection, position, _REBUILD_EVENTS, self._upcasts):
            await projections.project(connection, records)
            position = records[-1].position

    async def _hear_of(self, position: Position) -> None:
        if position > self._heard_of:
            async with self._grown:
                self._heard_of = max(self._heard_of, position)
                self._grown.notify_all()
