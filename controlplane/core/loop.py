"""The one way in: every input is decided here, one after the other, and its outcome is durable before anybody hears of it.

Whatever waits in the queue is decided as one batch and appended in one transaction (group commit): each input against a
state that already holds what the inputs before it led to. Should the log refuse the batch, that state was a fiction; it is
thrown away and folded anew from the log, which alone is true.

This loop is the only writer of the log and the only owner of the state, so nothing here is locked.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec
import structlog

from controlplane.core import state_cache
from controlplane.core.event_lines import note
from controlplane.core.input_queue import InputResult, UndecidableError
from controlplane.core.key_waiters import KeyWaiters
from controlplane.core.watermark import Watermark
from controlplane.domain.catalogue.commands import follow
from controlplane.domain.decide import decide
from controlplane.domain.event_time import believed
from controlplane.domain.evolve import Replay, evolve
from controlplane.domain.inputs import Decision, Input, JobActed, PodSeen, Policy, ReportReceived
from controlplane.domain.state import KeyState, NodeState, State
from controlplane.log.eventlog import EventLog
from controlplane.log.records import (
    ArchivedRangeError,
    EventConflictError,
    LogUnavailableError,
    Metadata,
    NewEvent,
    StaleEpochError,
    UnstorableEventError,
)
from woodfrog.protocol.commands import Command
from woodfrog.protocol.events import AnyEvent, command_of
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import CheckpointKey, CommandId, Epoch, NodeName, Position, event_id
from woodfrog.service import faultpoints, tracing

_log = structlog.get_logger(component="loop")

_LONGEST_QUEUE: Final = 1024
_LARGEST_BATCH: Final = 256
_PAGE: Final = 2000
_COPY_EVENTS: Final = 50_000
"""After so many events a copy of the state is taken: a restart folds no more than that, in about a second."""
_COPY_AT_STOP_EVENTS: Final = 1000
_LOG_PATIENCE_SECONDS: Final = 60.0
"""How long the log may be unavailable before the process gives up and is started anew."""
_LOG_RETRY_SECONDS: Final = 0.5
_CLOSING_SECONDS: Final = 5.0


@contextmanager
def _no_collections() -> Iterator[None]:
    """Keep Python's cyclic collector away while millions of objects are made of which none is garbage."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class _Pending(msgspec.Struct, frozen=True):
    asked: Input
    actor: str
    future: asyncio.Future[InputResult]
    trace: str = ""


class _Decided(msgspec.Struct, frozen=True):
    pending: _Pending
    settled: InputResult
    step: tracing.Span | None = None


class DecisionLoop:
    """Decides, appends, and then lets the outcome out. It satisfies :class:`controlplane.core.input_queue.InputQueue`."""

    def __init__(
        self,
        log: EventLog,
        *,
        epoch: Epoch,
        policy: Policy,
        clock: Callable[[], datetime],
        patience_seconds: float = _LOG_PATIENCE_SECONDS,
    ) -> None:
        self._log = log
        self._epoch = epoch
        self._policy = policy
        self._clock = clock
        self._patience_seconds = patience_seconds
        self._queue: asyncio.Queue[_Pending] = asyncio.Queue(_LONGEST_QUEUE)
        self._refusal: LogUnavailableError | None = None
        """Why reports were last refused; another object each time."""
        self._state = State()
        self._copied = Position(0)
        self._copying: asyncio.Task[None] | None = None
        self.committed = Watermark()
        """The position up to which events are in the log *and* in :attr:`open_commands`."""
        self.open_commands: dict[CommandId, Command] = {}
        """Commands issued and not finished, in the order of the log; the state is ahead of it while a batch is written."""
        self.waiters = KeyWaiters()
        """Told of every event that is in the log *and* in the state."""
        self.on_appended: Callable[[Sequence[AnyEvent], float], None] = lambda _events, _seconds: None
        """Called with events that are in the log now, and the seconds that it took to write them."""

    async def load(self) -> None:
        """Fold the log: from the newest copy of the state that this code made, if there is one, else from its start.

        Raises:
            LogUnavailableError: if it cannot be read.
            ArchivedRangeError: if it would have to be folded from events that are archived, and their files are not at hand.
            ArchiveUnusableError: if these files are not what was archived.
        """
        try:
            await self._fold()
        except ArchivedRangeError as problem:
            raise ArchivedRangeError(
                Failure(
                    code="log-archived",
                    cause=f"no copy of the state is there that this version can resume from, and {problem.failure.cause}",
                    advice="Set WOODFROG_LOG_ARCHIVE to the directory of the archive's files; or run the version that ran before.",
                )
            ) from problem

    async def _fold(self) -> None:
        with _no_collections():
            position, state = await self._newest_copy()
            self._copied = position
            replay = Replay(state)
            while True:
                position, told = await self._log.tell(position, _PAGE)
                if not told:
                    break
                for event, at in told:
                    replay.take(event, at)
        self._state = replay.end()
        self.open_commands.clear()
        self.open_commands.update(self._state.commands)
        await self.committed.set(position)

    async def _newest_copy(self) -> tuple[Position, State]:
        found = await self._log.load_state(state_cache.fingerprint())
        if found is not None:
            try:
                return found[0], state_cache.decode(found[1])
            except msgspec.DecodeError as problem:
                await _log.awarning("a copy of the state cannot be read", position=found[0], error=str(problem))
        return Position(0), State()

    async def _copy_state(self) -> None:
        """Keep a copy of the state as it is now; a log that cannot take it costs the next start some time, nothing else."""
        position = Position(self.committed.value)
        state = state_cache.copy(self._state)
        try:
            await self._log.save_state(
                position, state_cache.fingerprint(), state_cache.encode(state), epoch=self._epoch
            )
        except (LogUnavailableError, StaleEpochError) as problem:
            await _log.awarning("no copy of the state was taken", position=position, error=str(problem))
        else:
            self._copied = position

    def keys(self) -> Iterable[KeyState]:
        """Tell what is known of every key; none of what is handed out changes any more."""
        return list(self._state.keys.values())

    @property
    def waiting(self) -> int:
        """How many inputs wait to be decided."""
        return self._queue.qsize()

    def key(self, name: CheckpointKey) -> KeyState | None:
        """Show one key, as last decided."""
        return self._state.keys.get(name)

    def over_quota(self) -> int:
        """Count the namespaces that hold as much as they may."""
        return self._policy.quotas.reached(self._state)

    def nodes(self) -> Mapping[NodeName, NodeState]:
        """Show every node, as last decided."""
        return self._state.nodes

    async def enqueue(self, source_input: Input, *, actor: str) -> asyncio.Future[InputResult]:
        """See :meth:`controlplane.core.input_queue.InputQueue.enqueue`; waits while the queue is full.

        A report that waited here while those before it were refused is refused as well: it would overtake them.
        """
        future: asyncio.Future[InputResult] = asyncio.get_running_loop().create_future()
        pending = _Pending(source_input, actor, future, tracing.traceparent())
        before = self._refusal
        await self._queue.put(pending)
        if self._refusal is not None and self._refusal is not before and isinstance(source_input, ReportReceived):
            _fail(pending, self._refusal)
        return future

    async def run(self) -> None:
        """Take inputs until cancelled; a batch that was begun is ended first.

        Raises:
            StaleEpochError: another control plane has taken the lead.
            LogUnavailableError: the log has been unavailable for too long.
        """
        try:
            while True:
                batch = [await self._queue.get()]
                while len(batch) < _LARGEST_BATCH and not self._queue.empty():
                    batch.append(self._queue.get_nowait())
                work = asyncio.ensure_future(self._append_batch(batch))
                try:
                    await asyncio.shield(work)
                except asyncio.CancelledError:
                    await asyncio.wait({work}, timeout=_CLOSING_SECONDS)
                    raise
                self._copy_now_and_then()
        except asyncio.CancelledError:
            if self.committed.value - self._copied >= _COPY_AT_STOP_EVENTS:
                await self._copy_at_stop()
            raise
        finally:
            if self._copying is not None:
                self._copying.cancel()
                await asyncio.wait({self._copying})

    def _copy_now_and_then(self) -> None:
        due = self.committed.value - self._copied >= _COPY_EVENTS
        if due and (self._copying is None or self._copying.done()):
            self._copying = asyncio.create_task(self._copy_state())

    async def _copy_at_stop(self) -> None:
        if self._copying is not None:
            await asyncio.wait({self._copying}, timeout=_CLOSING_SECONDS)
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSING_SECONDS):
                await self._copy_state()

    async def _append_batch(self, batch: list[_Pending]) -> None:
        """Decide and append a batch; if the log does not take it as a whole, every input by itself."""
        if len(batch) == 1:
            await self._append_one_by_one(batch)
            return
        try:
            await self._commit([pending for pending in batch if not _has_failed(pending)])
        except LogUnavailableError as problem:
            await self._unavailable(batch, problem)
        except (EventConflictError, UnstorableEventError):
            await self._reload()
            await self._append_one_by_one(batch)

    async def _append_one_by_one(self, batch: list[_Pending]) -> None:
        """Append each input of a batch by itself, so that the one which the log cannot take stops no other.

        Once the log is unavailable, reports behind it fail: recorded now, they would overtake it.
        """
        refused: LogUnavailableError | None = None
        for pending in batch:
            if refused is not None and isinstance(pending.asked, ReportReceived):
                _fail(pending, refused)
                continue
            try:
                await self._commit([] if _has_failed(pending) else [pending])
            except LogUnavailableError as problem:
                refused = problem
                await self._unavailable([pending], problem)
            except (EventConflictError, UnstorableEventError) as problem:
                await _log.aerror("the log cannot take an event", error=str(problem), source=pending.asked.source)
                await self._reload()
                _fail(pending, UndecidableError(str(problem)))

    async def _unavailable(self, batch: list[_Pending], problem: LogUnavailableError) -> None:
        self._refusal = problem
        await _log.aerror("the log is unavailable", error=str(problem), inputs=len(batch))
        for pending in [*batch, *self._reports_behind()]:
            _fail(pending, problem)
        await self._reload()

    def _reports_behind(self) -> list[_Pending]:
        """Take the reports that wait out of the queue: recorded now, they would overtake those that were just refused.

        Whoever brought them brings all of them again, in their order.
        """
        waiting = [self._queue.get_nowait() for _ in range(self._queue.qsize())]
        for pending in waiting:
            if not isinstance(pending.asked, ReportReceived):
                self._queue.put_nowait(pending)
        return [pending for pending in waiting if isinstance(pending.asked, ReportReceived)]

    async def _commit(self, batch: list[_Pending]) -> None:
        now = self._clock()
        known = await self._known_reports(batch)
        events: list[NewEvent] = []
        decided: list[_Decided] = []
        for pending in batch:
            source = pending.asked.source
            if isinstance(pending.asked, ReportReceived):
                first = event_id(source, 0)
                if first in known:
                    same = known[first] == pending.asked.report.event
                    rejected = None if same else "its report id was used for another event"
                    decided.append(_Decided(pending, InputResult(rejected=rejected, repeated=same)))
                    continue
            elif isinstance(pending.asked, PodSeen | JobActed) and event_id(source, 0) in known:
                decided.append(_Decided(pending, InputResult(repeated=True)))
                continue
            began_ns = time.time_ns()
            try:
                decision = decide(self._state, pending.asked, now, self._policy)
            except Exception as problem:  # noqa: BLE001 - a defect met by one input must not stop the others
                await _log.aexception("an input cannot be decided", source=source, input=type(pending.asked).__name__)
                _fail(pending, UndecidableError(repr(problem)))
                continue
            kind = type(pending.asked).__name__
            step = tracing.begun("decide", pending.trace, began_ns, alone=bool(decision.events), input=kind)
            for new in _new_events(pending, decision, now, tracing.context_of(step)):
                evolve(self._state, new.event, believed(new.occurred_at, now))
                events.append(new)
                known[new.event_id] = new.event
            silent = isinstance(pending.asked, ReportReceived) and not decision.events and decision.rejected is None
            settled = InputResult(decision.answer, decision.rejected, forgotten=decision.forgotten, overtaken=silent)
            decided.append(_Decided(pending, settled, step))
        if events:
            await self._append(events, now)
        else:  # an answer out of a state that somebody else has moved on from would be a lie
            await self._log.check_lead(self._epoch)
        for one in decided:
            tracing.ended(one.step)
            if not one.pending.future.done():
                one.pending.future.set_result(one.settled)

    async def _known_reports(self, batch: Iterable[_Pending]) -> dict[UUID, AnyEvent]:
        """Find what the batch tells and the log holds already, by the id of the first event that it led to.

        The log would not write a repetition a second time, but the state would take it in a second time.
        """
        ids = [
            event_id(pending.asked.source, 0)
            for pending in batch
            if isinstance(pending.asked, ReportReceived | PodSeen | JobActed)
        ]
        found = await self._log.recorded(ids) if ids else {}
        return {recorded.event_id: recorded.event for recorded in found.values()}

    async def _append(self, events: list[NewEvent], now: datetime) -> None:
        began = time.monotonic()
        recorded = await self._log.append(events, epoch=self._epoch, recorded_at=now)
        appended = [one.event for one in recorded]
        self.on_appended(appended, time.monotonic() - began)
        note(recorded)
        faultpoints.reach("app.after-append")
        for one in recorded:
            follow(self.open_commands, one.event)
        self.waiters.tell(appended)
        await self.committed.set(max(one.position for one in recorded))

    async def _reload(self) -> None:
        """Fold anew after a refused batch, waiting for a log that is unavailable, but not for ever."""
        deadline = asyncio.get_running_loop().time() + self._patience_seconds
        while True:
            try:
                await self.load()
            except LogUnavailableError:
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(_LOG_RETRY_SECONDS)
            else:
                return


def _new_events(pending: _Pending, decision: Decision, now: datetime, trace: str) -> list[NewEvent]:
    """Name, date and attribute the events of a decision. What a report asserts happened when its witness says."""
    reported_at = pending.asked.report.at if isinstance(pending.asked, ReportReceived) else now
    return [
        NewEvent(
            event_id=event_id(pending.asked.source, ordinal),
            event=event,
            metadata=Metadata(
                actor=pending.actor
                if ordinal == 0 or not isinstance(pending.asked, ReportReceived)
                else "controlplane",
                causation=pending.asked.source,
                correlation=command_of(event),
                trace=trace,
            ),
            occurred_at=reported_at if ordinal == 0 else now,
        )
        for ordinal, event in enumerate(decision.events)
    ]


def _has_failed(pending: _Pending) -> bool:
    """Tell an input that was refused while it waited from one whose asker merely does not wait any more."""
    return pending.future.done() and not pending.future.cancelled()


def _fail(pending: _Pending, problem: Exception) -> None:
    if not pending.future.done():
        pending.future.set_exception(problem)
