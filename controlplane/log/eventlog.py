"""The event log as the rest of the control plane sees it: append, read, query, wait.

Everything is in the database; an :class:`EventLog` holds connections and the newest position that it has heard of. Several may be
open on one database, in one process or many: positions and epochs are settled there.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Self
from uuid import UUID

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from controlplane.log import append, cached_states, chain, heads, read
from controlplane.log.append import Answer, Request
from controlplane.log.archive.tiered import TieredLog
from controlplane.log.pages import Page
from controlplane.log.progress import Progress
from controlplane.log.projections import fold
from controlplane.log.projections import rebuild as generations
from controlplane.log.projections import verify as comparison
from controlplane.log.projections.fold import Rows
from controlplane.log.records import (
    ArchivedRangeError,
    ArchiveUnusableError,
    LogUnavailableError,
    NewEvent,
    Recorded,
    utc_now,
)
from controlplane.log.sql.database import Database
from controlplane.log.sql.engine import CONTRADICTIONS, make_ready
from controlplane.log.sql.write_cache import WriteCache
from controlplane.log.upcast import UPCASTS, Upcasts
from woodfrog.protocol.events import AnyEvent, LogHeadSigned
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import CheckpointKey, CommandId, Epoch, Position, Version
from woodfrog.protocol.requests import View
from woodfrog.service import faultpoints

_TOGETHER_EVENTS = 1000
"""A commit takes no further batch once it has this many events."""
_EVERYTHING = 2**31 - 1
"""More rows than one key can have."""
_POLL_SECONDS = 1.0
_RETRY_SECONDS = 1.0


class EventLog:
    """One open log. Made by :meth:`open`; used from one event loop; closed with :meth:`close`.

    Every method raises :class:`~controlplane.log.records.LogUnavailableError` while the database cannot be used (as
    :class:`~controlplane.log.records.LogFullError` if its disk is full), after which it may simply be tried again.
    """

    def __init__(
        self, database: Database, *, clock: Callable[[], datetime], upcasts: Upcasts, archive: Path | None = None
    ) -> None:
        self._database = database
        self._whole = TieredLog(database, archive)
        self._clock = clock
        self._upcasts = upcasts
        self._waiting: deque[tuple[Request, asyncio.Future[list[Recorded]]]] = deque()
        self._committing: asyncio.Task[None] | None = None
        self._grown = asyncio.Condition()
        self._heard_of = Position(0)
        self._recall = WriteCache()
        self._refreshing: asyncio.Task[Failure | None] | None = None

    @property
    def _engine(self) -> AsyncEngine:
        return self._database.engine

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        clock: Callable[[], datetime] = utc_now,
        upcasts: Upcasts = UPCASTS,
        archive: Path | None = None,
    ) -> Self:
        """Open a migrated database; ``clock`` gives ``recorded_at``.

        With ``archive``, the directory of the archive's files, archived events are read from there wherever the log is read
        in order; without, whoever needs one is refused (:class:`~controlplane.log.records.ArchivedRangeError`).

        Projections that were written by another version of the code are rebuilt from then on, beside appends and readers;
        :meth:`refreshed` waits for that.

        Raises:
            LogSchemaError: if the database was not migrated (:func:`controlplane.log.admin.migrate.upgrade`).
        """
        log = cls(Database(url), clock=clock, upcasts=upcasts, archive=archive)
        try:
            await make_ready(log._engine)
            await log.head()
            if await log._database.read(generations.stale):
                log._refreshing = asyncio.create_task(log._refresh())
        except BaseException:
            await log.close()
            raise
        return log

    async def append(
        self,
        batch: Sequence[NewEvent],
        *,
        epoch: Epoch,
        expected: Mapping[str, Version] | None = None,
        recorded_at: datetime | None = None,
    ) -> list[Recorded]:
        """Record a batch and update the projections, all or nothing, in one transaction that is on disk when this returns.

        Batches that wait at the same time share a transaction, in the order of their calls; each is judged by itself.

        Answers one record for each event, in order. An event id that is recorded already, with the same payload, is
        answered with what is recorded and written no second time: an append whose fate is unknown is simply repeated.
        ``expected`` gives versions that streams must have before the batch (0: no event yet). ``recorded_at`` is the moment with
        which the batch was decided, so that a fold of the log sees the same; by default it is the clock's.

        Raises:
            StaleEpochError: another control plane took the lead.
            ExpectedVersionError: a stream moved on.
            EventConflictError: an event id is recorded with another payload.
            ValueError: ``occurred_at`` has no offset from UTC.
        """
        if not batch:
            return []
        prepared = [append.Prepared.of(new) for new in batch]

        future: asyncio.Future[list[Recorded]] = asyncio.get_running_loop().create_future()
        self._waiting.append((Request(prepared, epoch, expected or {}, recorded_at), future))
        if self._committing is None or self._committing.done():
            self._committing = asyncio.create_task(self._commit_waiting())
        recorded = await future
        faultpoints.reach("log.append.after-commit")
        await self._hear_of(max(record.position for record in recorded))
        return recorded

    async def _commit_waiting(self) -> None:
        """Commit what waits, together, until nothing does: the more wait, the less each pays for the disk's sync."""
        while self._waiting:
            taken: list[tuple[Request, asyncio.Future[list[Recorded]]]] = []
            events = 0
            while self._waiting and events < _TOGETHER_EVENTS:
                taken.append(self._waiting.popleft())
                events += len(taken[-1][0].batch)
            requests = [request for request, _ in taken]

            try:
                answers: Sequence[Answer | Exception] = await self._commit(requests)
            except Exception as problem:  # noqa: BLE001 - it is handed to those who wait
                self._recall.forget()
                answers = [problem] * len(taken)
            for (_, future), answer in zip(taken, answers, strict=True):
                if future.done():  # its caller has gone
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)

    async def _commit(self, requests: Sequence[Request]) -> list[Answer]:
        def act(connection: Connection, *, looking: bool) -> list[Answer]:
            return append.append(
                connection,
                requests,
                recorded_at=self._clock(),
                upcasts=self._upcasts,
                recall=self._recall,
                looking=looking,
            )

        try:
            return await self._database.write(partial(act, looking=any(request.expected for request in requests)))
        except CONTRADICTIONS:
            self._recall.forget()
            return await self._database.write(partial(act, looking=True))

    async def take_lead(self) -> Epoch:
        """Begin a new leadership; every earlier epoch is fenced off from now on."""
        return await self._database.write(append.take_lead)

    async def check_lead(self, epoch: Epoch) -> None:
        """Make sure that ``epoch`` still leads, for an answer that is given without an append.

        Raises:
            StaleEpochError: another control plane took the lead.
        """
        await self._database.read(lambda connection: append.check_lead(connection, epoch))

    async def read(self, after: Position, limit: int) -> list[Recorded]:
        """Read up to ``limit`` events behind position ``after`` (0: from the start), in order and without gaps.

        Raises:
            UnreadableEventError: if an event is damaged.
            ArchivedRangeError: if the events there are archived, and their files are not at hand.
            ArchiveUnusableError: if these files are not what was archived.
        """
        return await self._whole.in_order(
            after,
            limit,
            lambda connection: read.read(connection, after, limit, self._upcasts),
            lambda rows: [read.record_of_row(row, self._upcasts) for row in rows],
        )

    async def tell(self, after: Position, limit: int) -> tuple[Position, list[tuple[AnyEvent, datetime]]]:
        """Read as :meth:`read` does, but only what a fold asks for: each event and when it occurred.

        Answers the position of the last one, too (``after`` if there is none). Raises as :meth:`read` does.
        """
        return await self._whole.in_order(
            after,
            limit,
            lambda connection: read.tell(connection, after, limit, self._upcasts),
            lambda rows: (Position(rows[-1]["position"]), read.tell_rows(rows, self._upcasts)),
        )

    async def recorded(self, event_ids: Sequence[UUID]) -> dict[UUID, Recorded]:
        """Find those of the events that are in the log, by their ids: how a redelivered report is recognised."""
        wanted = [str(event_id) for event_id in event_ids]
        return await self._database.read(lambda connection: append.recorded_before(connection, wanted, self._upcasts))

    async def held(self, event_ids: Sequence[UUID]) -> set[UUID]:
        """Find those of the ids that the log knows, archived events included, without reading what happened."""
        wanted = [str(event_id) for event_id in event_ids]
        return await self._database.read(lambda connection: append.held_before(connection, wanted))

    async def chain_heads(self) -> tuple[int, str]:
        """Tell the newest position, and the digest of where every chain stands there."""
        return await self._database.read(heads.current)

    async def signed_heads(self) -> list[LogHeadSigned]:
        """Read the signed heads that the log holds."""
        return await self._database.read(heads.recorded)

    async def head_problems(self, signed: Sequence[LogHeadSigned], *, public: str | None) -> list[chain.Problem]:
        """Compare the log with signed heads; ``public`` is the key whose signatures are believed."""
        return await self._database.read(lambda connection: list(heads.problems(connection, signed, public=public)))

    async def head(self) -> Position:
        """Tell the position of the newest event, 0 if there is none."""
        position = await self._database.read(read.head)
        await self._hear_of(position)
        return position

    async def query(
        self,
        view: View,
        *,
        key: CheckpointKey | None = None,
        command_id: CommandId | None = None,
        limit: int = 1000,
        before: int | None = None,
    ) -> list[dict[str, Any]]:
        """Read a view: the newest ``limit`` rows, oldest first, values fit for JSON (docs/reference/sql.md).

        Raises:
            ViewFilterError: the view's rows have no key, or no command.
        """
        return await self._database.read(
            partial(read.query, view=view, key=key, command_id=command_id, limit=limit, before=before)
        )

    async def page(self, act: Callable[[Connection], Page]) -> Page:
        """Read a page of the log (:mod:`controlplane.log.pages`)."""
        return await self._database.read(act)

    async def history(self, key: CheckpointKey) -> list[dict[str, Any]]:
        """Read every event of a key, archived ones, too, as :meth:`query` gives them. Raises as :meth:`read` does."""
        rows = await self.query("events", key=key, limit=_EVERYTHING)
        stream = f"checkpoint/{key}"
        if (rows and rows[0]["version"] == 1) or not await self._database.read(
            partial(read.is_archived, stream=stream)
        ):
            return rows
        first = rows[0]["version"] if rows else None
        earlier = [read.plain(row) for row in await self._whole.of_stream(stream)]
        return [row for row in earlier if first is None or row["version"] < first] + rows

    async def save_state(self, position: Position, form: str, parts: Iterable[bytes], *, epoch: Epoch) -> None:
        """Keep a copy of the state folded up to ``position``, in parts of bytes; older copies but one are dropped.

        ``form`` names how it was folded and encoded; ``parts`` are asked for one after the other, in another thread.

        Raises:
            StaleEpochError: another control plane took the lead.
        """

        def put(connection: Connection, number: int, data: bytes) -> None:
            append.check_lead(connection, epoch)
            cached_states.put(connection, position, number, data)

        def end(connection: Connection, count: int) -> None:
            append.check_lead(connection, epoch)
            cached_states.end(connection, position, form, count)

        count = 0
        rest = iter(parts)
        while (part := await asyncio.to_thread(next, rest, None)) is not None:
            await self._database.write(partial(put, number=count, data=part))
            count += 1
        await self._database.write(partial(end, count=count))

    async def load_state(self, form: str) -> tuple[Position, list[bytes]] | None:
        """Find the newest copy of the state of this ``form`` that was taken of this very log."""
        return await self._database.read(lambda connection: cached_states.newest(connection, form))

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

    async def verify(self, progress: Progress | None = None) -> chain.Verification:
        """Check that the log is as it was written: positions, versions and the hash chain of every stream."""
        return await self._database.read(lambda connection: chain.verify(connection, progress))

    async def differences(self, progress: Progress | None = None) -> tuple[chain.Problem, ...]:
        """Name every row behind the views that is not what follows from the events; none if all is well.

        Raises as :meth:`read` does.
        """
        folded, position = Rows(), Position(0)
        counted = progress or Progress()
        await self._whole.learn()
        while page := await self._filed(position):
            for record in page:
                fold.fold(folded, record)
            position = page[-1].position
            counted.done += len(page)
        return await self._database.read(
            lambda connection: comparison.differences(connection, self._upcasts, folded, position, counted)
        )

    async def count_streams(self) -> int:
        """Tell how many streams have events."""
        return await self._database.read(read.count_streams)

    async def rows(self, after: Position, limit: int) -> list[dict[str, Any]]:
        """Read up to ``limit`` rows of ``events`` behind a position, in order, as :meth:`query` gives them.

        Raises as :meth:`read` does.
        """
        return await self._whole.in_order(
            after,
            limit,
            lambda connection: read.rows(connection, after, limit),
            lambda rows: [read.plain(row) for row in rows],
        )

    async def rebuild(self, progress: Progress | None = None) -> None:
        """Fold the projections anew from the first event, beside appends; views show the old rows until the end.

        Raises:
            UnreadableEventError: if an event is damaged.
            ArchivedRangeError: if events are archived and their files are not at hand; nothing was begun.
            ArchiveUnusableError: if these files are not what was archived; the rebuild goes on when they are.
        """
        through, counted = await self._whole.learn(), progress or Progress()
        await self._database.write(lambda connection: generations.begin(connection, through))
        counted.begin(await self.head())
        while await self._build():  # an append that waits has its turn between two slices
            position = await self._database.read(generations.built)
            counted.done = counted.total if position is None else position
        counted.done = counted.total
        while await self._database.write(generations.sweep):
            pass

    async def _build(self) -> bool:
        position = await self._database.read(generations.built)
        page = [] if position is None else await self._filed(position)
        return await self._database.write(lambda connection: generations.build(connection, self._upcasts, page))

    async def refreshed(self) -> Failure | None:
        """Wait until projections of another version of the code are rebuilt; at once if there were none.

        Answers why they could not be, if that takes files of the archive that are not at hand or damaged. Everything else goes
        on; the views stand still if another version folded them.

        Raises:
            UnreadableEventError: if the log cannot be folded.
        """
        return None if self._refreshing is None else await asyncio.shield(self._refreshing)

    async def close(self) -> None:
        """Give back every connection. A rebuild under way goes on when the log is next opened."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.wait({self._refreshing})
        if self._committing is not None:
            await asyncio.wait({self._committing})
        self._whole.close()
        await self._database.close()

    async def _refresh(self) -> Failure | None:
        while True:
            try:
                try:
                    await self.rebuild()
                except (ArchivedRangeError, ArchiveUnusableError) as problem:
                    return await self._database.read(partial(generations.not_rebuilt, why=problem.failure))
            except LogUnavailableError:
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                return None

    async def _filed(self, after: Position) -> list[Recorded]:
        rows = await self._whole.filed_page(after, generations.SLICE_EVENTS)
        return [read.record_of_row(row, self._upcasts) for row in rows]

    async def _hear_of(self, position: Position) -> None:
        if position > self._heard_of:
            async with self._grown:
                self._heard_of = max(self._heard_of, position)
                self._grown.notify_all()
