"""The way out: commands and audit messages are sent from the log, so a crash between deciding and sending loses nothing.

The relay keeps no cursor of its own. It resumes from what the broker holds, because only the broker knows what it stored:

* AUDIT holds every event once and in order, so its last sequence *is* the log position to resume from. Each message is
  accepted only directly behind the one before (``Nats-Expected-Last-Sequence``).
* A command is sent before the AUDIT message of its event, and each AUDIT message notes the last sequence of COMMANDS. If COMMANDS
  has grown since the last note, the next command was sent already and is left out, even if its worker took it and the
  duplicate window is long over. If COMMANDS has shrunk it was wiped, and the commands still open are sent again.

* A node's command queue is a consumer of COMMANDS. It is made here, before the node's first command, so that a worker needs no
  right to make any: one that may say how messages are delivered to it may have them delivered to others.

Each message is sent only under a valid lease. A leader that is stopped between that look and the sending, and goes on after
its successor has begun, is refused by the broker: AUDIT and COMMANDS have grown meanwhile. If they have not, then what it
sends is what its successor would send next, read from the same log.

A wiped broker is thereby the same as a slow one: everything is published again from where it stands.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import nats.js.api
import structlog
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from controlplane.bus.audit import COMMANDS_SEQUENCE_HEADER, headers, payload
from controlplane.bus.streams import BROKER_ERRORS, REQUEST_SECONDS, command_queue, ensure_streams
from controlplane.core.watermark import Watermark
from controlplane.election.candidate import LeaseLapsedError
from controlplane.log.eventlog import EventLog
from controlplane.log.records import LogUnavailableError, Recorded
from woodfrog.protocol import subjects, wire
from woodfrog.protocol.commands import Command
from woodfrog.protocol.events import CommandIssued, NodeRegistered
from woodfrog.protocol.failures import Failure, FailureError
from woodfrog.protocol.ids import CommandId, NodeName, Position
from woodfrog.service import faultpoints, tracing
from woodfrog.service.backoff import Backoff
from woodfrog.service.cancellation import end_if_cancelled

_log = structlog.get_logger(component="relay")

_PAGE: Final = 256
_AT_A_STRETCH: Final = 8
"""So many messages are written in one go, about a millisecond's work."""
_QUEUES_AT_ONCE: Final = 32
_IDLE_SECONDS: Final = 5.0
"""How often a broker to which nothing is sent is asked whether it still holds what was sent."""
_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 5.0


class _Cursor(NamedTuple):
    position: Position
    """The last event that AUDIT holds."""
    commands_sequence: int
    """The last sequence of COMMANDS."""
    sent_already: int
    """How many of the next commands behind ``position`` are in COMMANDS, or were."""


class _OutOfStepError(Exception):
    """The broker stored something else than expected: look again what it holds."""


class Relay:
    """Publishes the log."""

    def __init__(
        self,
        jetstream: JetStreamContext,
        log: EventLog,
        *,
        committed: Watermark,
        open_commands: Mapping[CommandId, Command],
        nodes: Callable[[], Mapping[NodeName, object]],
        cluster: str,
        check_lease: Callable[[], None],
    ) -> None:
        """``open_commands`` and ``nodes`` are live and never behind ``committed``.

        ``check_lease`` raises :class:`~controlplane.election.candidate.LeaseLapsedError`.
        """
        self._jetstream = jetstream
        self._log = log
        self._committed = committed
        self._open_commands = open_commands
        self._nodes = nodes
        self._cluster = cluster
        self._check_lease = check_lease
        self._queues: set[NodeName] = set()

    async def run(self) -> None:
        """Publish until cancelled, however often the broker goes away.

        Raises:
            FailureError: AUDIT does not belong to this log.
        """
        backoff = Backoff(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
        while True:
            try:
                await ensure_streams(self._jetstream)
                await self._find_queues()
                cursor = await self._resume()
                backoff.reset()
                while True:
                    end_if_cancelled()
                    cursor = await self._publish_next(cursor)
            except (*BROKER_ERRORS, _OutOfStepError, LogUnavailableError, LeaseLapsedError) as problem:
                await _log.awarning("the relay starts over", error=problem, pause_seconds=backoff.next_seconds)
                await backoff.sleep()

    async def _resume(self) -> _Cursor:
        audit = (await self._jetstream.stream_info(subjects.AUDIT_STREAM)).state
        commands_sequence = (await self._jetstream.stream_info(subjects.COMMANDS_STREAM)).state.last_seq
        position = Position(audit.last_seq)
        noted = commands_sequence
        if audit.messages:
            noted = await self._check_last(position)
        await _log.ainfo("relaying", after=position, commands_noted=noted, commands_held=commands_sequence)
        if commands_sequence < noted:
            return await self._send_open_again(_Cursor(position, commands_sequence, 0))
        return _Cursor(position, commands_sequence, await self._sent_beyond(position, noted, commands_sequence))

    async def _sent_beyond(self, position: Position, noted: int, held: int) -> int:
        """Tell how many of the next commands were sent before their events came into AUDIT, or before AUDIT forgot its end.

        Each is sent by itself, in order, so one that is found was sent and all before it. That COMMANDS has grown proves
        nothing alone: whoever else may write there must not make a command look sent. Where it cannot be told, the command
        is sent again, which its worker's journal makes harmless.
        """
        issued = await self._next_commands(position, held - noted)
        if not issued:
            return 0
        sent, others = 0, 0
        for sequence in range(noted + 1, min(held, noted + _PAGE) + 1):
            try:
                message = await self._jetstream.get_msg(subjects.COMMANDS_STREAM, seq=sequence)
            except NotFoundError:
                continue  # its worker took it
            name = (message.headers or {}).get(nats.js.api.Header.MSG_ID.value)
            if name in issued:
                sent = max(sent, issued.index(name) + 1)
            else:
                others += 1
        return sent or int(held - noted - others == 1)

    async def _next_commands(self, position: Position, most: int) -> list[str]:
        found: list[str] = []
        after = position
        while len(found) < most and (page := await self._log.read(after, _PAGE)):
            found += [record.event.command.command_id for record in page if isinstance(record.event, CommandIssued)]
            after = page[-1].position
        return found[: max(most, 0)]

    async def _check_last(self, position: Position) -> int:
        """Make sure that AUDIT's last message is this log's event at that position; answer its note on COMMANDS."""
        try:
            message = await self._jetstream.get_msg(subjects.AUDIT_STREAM, seq=position)
        except NotFoundError as problem:
            raise _OutOfStepError("AUDIT's last message went away") from problem
        held = message.headers or {}
        events = await self._log.read(Position(position - 1), 1)
        if not events or held.get(nats.js.api.Header.MSG_ID.value) != str(events[0].event_id):
            raise FailureError(
                Failure(
                    code="audit-of-another-log",
                    cause=f"the stream AUDIT ends at position {position} with an event that this database does not hold there",
                    advice="Check WOODFROG_DATABASE_URL and WOODFROG_NATS_URL. If the log was to come along into this database, carry it "
                    "over: `python -m controlplane move URL`. If this database is to be the truth from now on, because it starts empty or "
                    "was put back from a backup, run `python -m controlplane forget-audit`: AUDIT is then filled from it, and "
                    "snapshots that only the other log knows are not used.",
                )
            )
        return int(held.get(COMMANDS_SEQUENCE_HEADER, "0"))

    async def _send_open_again(self, cursor: _Cursor) -> _Cursor:
        """Fill a wiped COMMANDS with the commands that were sent and are still open."""
        await self._committed.reached(cursor.position, REQUEST_SECONDS)
        for command in await self._issued_up_to(cursor.position):
            cursor = await self._send_command(cursor, command)
        return cursor

    async def _issued_up_to(self, position: Position) -> list[Command]:
        later: set[CommandId] = set()
        after = position
        while page := await self._log.read(after, _PAGE):
            later |= {record.event.command.command_id for record in page if isinstance(record.event, CommandIssued)}
            after = page[-1].position
        return [command for command in self._open_commands.values() if command.command_id not in later]

    async def _find_queues(self) -> None:
        """Find out whose command queues are there, and make those of all other known nodes."""
        self._queues.clear()
        found: set[str] = set()
        while page := await self._jetstream.consumers_info(subjects.COMMANDS_STREAM, offset=len(found)):
            before = len(found)
            found |= {consumer.name for consumer in page}
            if len(found) == before:
                break
        known = list(self._nodes())
        self._queues |= {node for node in known if subjects.commands_consumer(node) in found}
        for first in range(0, len(known), _QUEUES_AT_ONCE):
            made = await asyncio.gather(
                *map(self._make_queue, known[first : first + _QUEUES_AT_ONCE]), return_exceptions=True
            )
            for problem in made:
                if problem is not None:
                    raise problem

    async def _make_queue(self, node: NodeName) -> None:
        if node in self._queues:
            return
        self._check_lease()
        await self._jetstream.add_consumer(subjects.COMMANDS_STREAM, command_queue(node))
        self._queues.add(node)

    async def _publish_next(self, cursor: _Cursor) -> _Cursor:
        """Publish the next events, as many as are there, and wait for the broker's word on every one."""
        if not await self._committed.reached(cursor.position + 1, _IDLE_SECONDS):
            await self._check_held(cursor)
            return cursor
        limit = min(_PAGE, self._committed.value - cursor.position)
        flight: list[Recorded] = []
        for recorded in await self._log.read(cursor.position, limit):
            if isinstance(recorded.event, CommandIssued):
                cursor = await self._land(cursor, flight)
                flight = []
                cursor = await self._dispatch(cursor, recorded.event.command, recorded.metadata.trace)
            elif isinstance(recorded.event, NodeRegistered):
                await self._make_queue(recorded.event.node)
            flight.append(recorded)
        return await self._land(cursor, flight)

    async def _check_held(self, cursor: _Cursor) -> None:
        audit = (await self._jetstream.stream_info(subjects.AUDIT_STREAM)).state.last_seq
        commands = (await self._jetstream.stream_info(subjects.COMMANDS_STREAM)).state.last_seq
        if (audit, commands) != (cursor.position, cursor.commands_sequence):
            raise _OutOfStepError(f"AUDIT ends at {audit} and COMMANDS at {commands}, not as published")

    async def _dispatch(self, cursor: _Cursor, command: Command, trace: str) -> _Cursor:
        if cursor.sent_already:
            return cursor._replace(sent_already=cursor.sent_already - 1)
        if command.command_id not in self._open_commands:
            return cursor  # the broker was wiped and what was asked is long done, or void
        with tracing.span("send command", parent=trace, command_id=command.command_id, node=command.node):
            return await self._send_command(cursor, command)

    async def _send_command(self, cursor: _Cursor, command: Command) -> _Cursor:
        self._check_lease()
        faultpoints.reach("relay.before-command")
        acknowledged = await self._jetstream.publish(
            subjects.commands(command.node),
            wire.encode(command),
            timeout=REQUEST_SECONDS,
            stream=subjects.COMMANDS_STREAM,
            headers={
                nats.js.api.Header.MSG_ID.value: command.command_id,
                nats.js.api.Header.EXPECTED_LAST_SEQUENCE.value: str(cursor.commands_sequence),
                **tracing.headers(),
            },
        )
        faultpoints.reach("relay.after-command")
        await _log.ainfo("command sent", command_id=command.command_id, node=command.node, key=str(command.key))
        return cursor._replace(commands_sequence=max(acknowledged.seq, cursor.commands_sequence))

    async def _land(self, cursor: _Cursor, flight: list[Recorded]) -> _Cursor:
        """Publish AUDIT messages without waiting in between, then wait for all; on any failure the order still holds."""
        if flight:
            self._check_lease()
            faultpoints.reach("relay.before-audit")
        acknowledgements: list[asyncio.Future[nats.js.api.PubAck]] = []
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                for number, recorded in enumerate(flight):
                    if number % _AT_A_STRETCH == 0:
                        await asyncio.sleep(0)  # sending alone never waits, and decisions are more urgent
                    future = await self._jetstream.publish_async(
                        subjects.audit(recorded.event),
                        payload(recorded),
                        stream=subjects.AUDIT_STREAM,
                        headers=headers(recorded, cluster=self._cluster, commands_sequence=cursor.commands_sequence),
                    )
                    acknowledgements.append(future)
                for recorded, future in zip(flight, acknowledgements, strict=True):
                    acknowledged = await future
                    if acknowledged.seq != recorded.position:
                        raise _OutOfStepError(f"position {recorded.position} was stored as {acknowledged.seq}")
                    faultpoints.reach("relay.after-audit")
                    cursor = cursor._replace(position=recorded.position)
        finally:
            for future in acknowledgements:
                if not future.cancel() and not future.cancelled():
                    future.exception()  # seen: the first failure speaks for those behind it
        return cursor
