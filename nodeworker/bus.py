"""The worker's side of NATS: reports out, commands in, questions asked, signs of life.

Everything here works while the broker or the control plane is away: reports wait in the journal's outbox, commands wait in
their stream, a question is repeated until whoever asks gives up. Nothing that happens to the connection may stop a dump.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import msgspec
import nats.errors
import nats.js.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import APIError

from nodeworker.domain.plane_clock import PlaneClock
from nodeworker.journal import Journal
from woodfrog.protocol import subjects, wire
from woodfrog.protocol.commands import Command
from woodfrog.protocol.ids import CheckpointKey, NodeName
from woodfrog.protocol.reports import Heartbeat, Vouched
from woodfrog.protocol.requests import Resolution, ResolveRequest
from woodfrog.service import tracing
from woodfrog.service.backoff import Backoff
from woodfrog.service.nats import NO_ROOM, connect
from woodfrog.service.natstls import Trust

_log = structlog.get_logger(component="bus")

HEARTBEAT_SECONDS = 2.0
_VOUCH_SECONDS = 30.0
_VOUCH_REPLY_SECONDS = 6.0
_CLOCK_SECONDS = 600.0
"""After so long the control plane's time is asked for again."""
_FRESH_CLOCK_SECONDS = 5.0
_ACK_WAIT_SECONDS = 30.0
_PROGRESS_SECONDS = 10.0
_RETRY_SECONDS = 0.5
_RETRY_LIMIT_SECONDS = 5.0
_PUBLISH_SECONDS = 5.0
_FETCH_SECONDS = 5.0
_REPLY_SECONDS = 15.0
"""More than the control plane may take to catch up with the asker's own reports before it answers."""
_ALL = -1
_NOT_FOR_THIS_ACCOUNT = 10039
"""JSNotEnabledForAccountErr in nats-server's server/errors.json."""

RemoveForgotten = Callable[[Sequence[UUID]], set[UUID]]
Obey = Callable[[Command], Awaitable[None]]


class Bus:
    """One worker's connection. :meth:`run` owns all background work; the other methods may be called at any time."""

    def __init__(
        self,
        url: str,
        node: NodeName,
        journal: Journal,
        *,
        heartbeat: Callable[[], Heartbeat],
        seed_file: Path | None = None,
        token_file: Path | None = None,
        trust: Trust | None = None,
    ) -> None:
        """NATS knows the node by the nkey seed in ``seed_file`` or the token in ``token_file``, if the URL does not say it."""
        self._url = url
        self._seed_file = seed_file
        self._token_file = token_file
        self._trust = trust or Trust()
        self._node = node
        self._journal = journal
        self._heartbeat = heartbeat
        self._client: Client | None = None
        self._loop = asyncio.get_running_loop()
        self._written = asyncio.Event()
        self._confirmed = asyncio.Condition()
        self._doubt = True
        """Whether the broker may have lost what it confirmed: not asked since it was away, or had no stream."""
        self._remove_forgotten: RemoveForgotten = set
        self.reports_refused = False
        """Whether the broker has no room for reports: it answered, and keeps none."""
        self._resent: set[UUID] = set()
        self._vouching = asyncio.Lock()
        self._plane_clock = PlaneClock()
        self._obeying: set[asyncio.Task[None]] = set()
        journal.on_report = self._wake

    def _wake(self) -> None:
        """Note, from whatever thread wrote the journal, that there is something to send."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._written.set)

    @property
    def connected(self) -> bool:
        """Whether the broker can be reached right now, as far as the connection knows."""
        return self._client is not None and self._client.is_connected

    async def run(self, obey: Obey, remove_forgotten: RemoveForgotten = set) -> None:
        """Connect, then send, listen and give signs of life until cancelled.

        Args:
            obey: returns when a command has its end.
            remove_forgotten: removes what reports on forgotten ids say was stored; returns those of which something is left, which
                are kept. Without one all are.
        """
        self._remove_forgotten = remove_forgotten
        self._client = await connect(
            self._url,
            name=f"woodfrog worker {self._node}",
            seed_file=self._seed_file,
            token_file=self._token_file,
            trust=self._trust,
            inbox_prefix=subjects.inbox(self._node),
        )
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._send_reports())
                group.create_task(self._have_reports_vouched_for())
                group.create_task(self._give_signs_of_life())
                group.create_task(self._take_commands(obey))
        finally:
            for task in self._obeying:
                task.cancel()
            await self._client.close()

    def _jetstream(self) -> JetStreamContext:
        assert self._client is not None
        return self._client.jetstream(timeout=_PUBLISH_SECONDS)

    async def _send_reports(self) -> None:
        """Send the outbox in order, each report again and again under its id until the broker confirms it."""
        backoff = Backoff(_RETRY_SECONDS, _RETRY_LIMIT_SECONDS)
        while True:
            self._written.clear()
            if self._doubt:  # what was lost goes before what is new
                await self._ask_for_vouchers()
            for place, report in await asyncio.to_thread(self._journal.outbox):
                # The broker may remember the id of a report that it has not got any more, and would confirm it once again.
                again = f"/{uuid.uuid4()}" if report.report_id in self._resent else ""
                headers = {"Nats-Msg-Id": f"{report.report_id}{again}", **tracing.headers(report.trace)}
                try:
                    if not self.connected:
                        raise nats.errors.ConnectionClosedError
                    confirmation = await self._jetstream().publish(
                        subjects.reports(self._node),
                        wire.encode(report),
                        timeout=_PUBLISH_SECONDS,
                        stream=subjects.REPORTS_STREAM,
                        headers=headers,
                    )
                except (nats.errors.Error, OSError) as problem:
                    _heed_cancellation()
                    await _log.awarning("a report waits", report_id=str(report.report_id), error=problem)
                    self.reports_refused = isinstance(problem, APIError) and problem.err_code in NO_ROOM
                    await backoff.sleep()
                    self._doubt = True
                    self._written.set()
                    break
                _heed_cancellation()
                backoff.reset()
                self.reports_refused = False
                await asyncio.to_thread(self._journal.confirm, place, confirmation.seq)
                self._resent.discard(report.report_id)
                async with self._confirmed:
                    self._confirmed.notify_all()
                self._written.set()
            await self._written.wait()

    async def _have_reports_vouched_for(self) -> None:
        """Ask now and then what became of confirmed reports, until none is kept."""
        while True:
            if self._plane_clock.age_seconds(time.monotonic()) > _CLOCK_SECONDS:
                await self._ask_for_vouchers(for_time=True)
            await asyncio.sleep(_VOUCH_SECONDS * random.uniform(0.5, 1.0))  # noqa: S311 -- not all nodes at once
            while await self._ask_for_vouchers():
                pass

    async def _ask_for_vouchers(self, *, for_time: bool = False) -> bool:
        """Name the oldest reports that are kept; let those go that are settled, and take those back that the broker lost.

        The answer gives the control plane's time as well; ``for_time`` asks for the sake of that. Answers whether it was of use
        and there may be more.
        """
        async with self._vouching:
            named = await asyncio.to_thread(self._journal.confirmed)
            if not named:
                self._doubt = False
            if not self.connected or not (named or for_time):
                return False
            assert self._client is not None
            question = msgspec.structs.replace(self._heartbeat(), confirmed=tuple(named))
            try:
                reply = await self._client.request(
                    subjects.heartbeats(self._node), wire.encode(question), timeout=_VOUCH_REPLY_SECONDS
                )
                vouched: Vouched = wire.decode(reply.data, Vouched)
            except (nats.errors.Error, OSError, wire.MalformedMessageError) as problem:
                _heed_cancellation()
                # Nobody is there, and new reports wait in the stream for whoever comes; or whoever is there has no time.
                self._doubt = self._doubt and isinstance(problem, nats.errors.NoRespondersError)
                await _log.adebug("no control plane confirmed reports", error=problem)
                return False
            _heed_cancellation()
            self._doubt = False
            self._plane_clock.hear(vouched.at, time.monotonic())
            kept = await asyncio.to_thread(self._remove_forgotten, vouched.forgotten) if vouched.forgotten else set()
            settled = [report for report in vouched.settled if report not in kept]
            await asyncio.to_thread(self._journal.let_go, settled)
            if vouched.missing:
                await _log.awarning(
                    "the broker lost confirmed reports; they are sent again", reports=len(vouched.missing)
                )
                self._resent.update(vouched.missing)
                await asyncio.to_thread(self._journal.take_back, vouched.missing)
                self._written.set()
            return bool(settled)

    async def flush(self, limit_seconds: float) -> bool:
        """Wait until every report written before this call is confirmed; False if it takes longer, or nobody listens."""
        place = await asyncio.to_thread(self._journal.last_place)
        try:
            async with asyncio.timeout(limit_seconds), self._confirmed:
                while any(first <= place for first, _ in await asyncio.to_thread(self._journal.outbox, 1)):
                    await self._confirmed.wait()
        except TimeoutError:
            return False
        return True

    async def _give_signs_of_life(self) -> None:
        assert self._client is not None
        while True:
            if self._client.is_connected:
                try:
                    await self._client.publish(subjects.heartbeats(self._node), wire.encode(self._heartbeat()))
                except (nats.errors.Error, OSError) as problem:
                    await _log.awarning("no sign of life could be given", error=problem)
            await asyncio.sleep(HEARTBEAT_SECONDS)

    async def _take_commands(self, obey: Obey) -> None:
        """Fetch commands one by one; the stream, the consumer and the broker may come and go."""
        consumer = ConsumerConfig(ack_policy=AckPolicy.EXPLICIT, ack_wait=_ACK_WAIT_SECONDS, max_ack_pending=1000)
        subject, durable = subjects.commands(self._node), subjects.commands_consumer(self._node)
        while True:
            try:
                try:
                    subscription = await self._jetstream().pull_subscribe(
                        subject, durable=durable, stream=subjects.COMMANDS_STREAM, config=consumer
                    )
                except nats.js.errors.ServiceUnavailableError as problem:
                    if problem.err_code != _NOT_FOR_THIS_ACCOUNT:
                        raise
                    # Among isolated nodes the control plane makes the queue, and nobody else may even look at it.
                    subscription = await self._jetstream().pull_subscribe_bind(
                        consumer=durable, stream=subjects.COMMANDS_STREAM
                    )
                try:
                    await self._fetch_commands(subscription, obey)
                finally:
                    await subscription.unsubscribe()
            except (nats.errors.Error, OSError) as problem:
                await _log.adebug("no commands can be taken", error=problem)
            await asyncio.sleep(_RETRY_SECONDS)

    async def _fetch_commands(self, subscription: JetStreamContext.PullSubscription, obey: Obey) -> None:
        while True:
            try:
                messages = await subscription.fetch(1, timeout=_FETCH_SECONDS)
            except TimeoutError:
                if not self.connected:
                    return
                try:
                    await subscription.consumer_info()  # raises if the stream was wiped, which a fetch does not tell
                except nats.js.errors.ServiceUnavailableError as problem:
                    if problem.err_code != _NOT_FOR_THIS_ACCOUNT:
                        raise
                continue
            for message in messages:
                task = asyncio.create_task(self._obey(message, obey))
                self._obeying.add(task)
                task.add_done_callback(self._obeying.discard)

    async def _obey(self, message: Msg, obey: Obey) -> None:
        """Carry one command out and only then acknowledge it; a crash in between brings it back."""
        try:
            command: Command = wire.decode(message.data, Command)
        except wire.MalformedMessageError as problem:
            await _log.aerror("a command cannot be read and is refused", error=str(problem))
            await message.term()
            return
        progress = asyncio.create_task(self._show_progress(message))
        about = {"command_id": command.command_id, "key": command.key, "node": self._node}
        try:
            with tracing.span(
                f"command {command.__struct_config__.tag}", parent=tracing.of_message(message.headers), **about
            ):
                await obey(await self._by_our_clock(command))
        except Exception:  # noqa: BLE001 -- it stays unacknowledged and comes back; the other commands go on
            await _log.aexception("a command failed in an unforeseen way", command_id=command.command_id)
            return
        finally:
            progress.cancel()
        try:
            await message.ack()
        except (nats.errors.Error, OSError) as problem:
            await _log.awarning("a command could not be acknowledged", error=problem)

    async def _by_our_clock(self, command: Command) -> Command:
        """Give a command's deadline as a moment of this node's clock, however wrong that is."""
        left_seconds = self._plane_clock.left_seconds(command, time.monotonic())
        if left_seconds <= 0 and self._plane_clock.age_seconds(time.monotonic()) > _FRESH_CLOCK_SECONDS:
            await self._ask_for_vouchers(for_time=True)  # another control plane may lead by now, with another clock
            left_seconds = self._plane_clock.left_seconds(command, time.monotonic())
        return msgspec.structs.replace(command, deadline=datetime.now(UTC) + timedelta(seconds=left_seconds))

    async def _show_progress(self, message: Msg) -> None:
        while True:
            await asyncio.sleep(_PROGRESS_SECONDS)
            try:
                await message.in_progress()
            except (nats.errors.Error, OSError) as problem:
                await _log.awarning("progress could not be shown", error=problem)

    async def resolve(
        self, ask: Callable[[int], ResolveRequest], may_be_heard: asyncio.Event | None = None
    ) -> Resolution:
        """Ask how to start a container until somebody answers; the caller bounds the time.

        ``may_be_heard`` is set as soon as a control plane may have heard the question, whether it answers or not.
        ``ask`` builds the question from the stream sequence of the last confirmed report. What was reported before is
        sent before. Only a broker that has no room for reports is not waited for, unless a report on this very id is
        among them: its last snapshot might be what the container is to start from.
        """
        key = ask(0).key
        may_be_heard = may_be_heard or asyncio.Event()
        while True:
            if self.connected and (await self.flush(_PUBLISH_SECONDS) or await self._may_overtake(key)):
                assert self._client is not None
                sequence = await asyncio.to_thread(self._journal.reports_sequence)
                asked_before = may_be_heard.is_set()
                may_be_heard.set()
                try:
                    reply = await self._client.request(
                        subjects.resolve(self._node),
                        wire.encode(ask(sequence)),
                        timeout=_REPLY_SECONDS,
                        headers=tracing.headers() or None,
                    )
                    answer: Resolution = wire.decode(reply.data, Resolution)
                except (nats.errors.Error, OSError, wire.MalformedMessageError) as problem:
                    _heed_cancellation()
                    if isinstance(problem, nats.errors.NoRespondersError) and not asked_before:
                        may_be_heard.clear()
                    await _log.awarning("no control plane answered how to start a container", error=problem)
                else:
                    return answer
            await asyncio.sleep(_RETRY_SECONDS)

    async def _may_overtake(self, key: CheckpointKey) -> bool:
        if not self.reports_refused:
            return False
        unsent = await asyncio.to_thread(self._journal.outbox, _ALL)
        concerned = any(getattr(report.event, "key", None) == key for _, report in unsent)
        await _log.awarning(
            "NATS has no room for this node's reports",
            key=str(key),
            reports=len(unsent),
            asks_all_the_same=not concerned,
        )
        return not concerned


def _heed_cancellation() -> None:
    """End a task that was cancelled while the NATS client waited: asyncio.wait_for of Python 3.11 forgets it if the answer comes at that moment.

    Raises:
        asyncio.CancelledError: the task was cancelled, and goes on all the same.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
