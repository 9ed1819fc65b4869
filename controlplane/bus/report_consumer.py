"""The way in for reports: taken from REPORTS in order, acknowledged only once they are in the log.

A report that cannot be read, or not be believed, is *refused*: put aside in SQL with the reason
(:mod:`controlplane.log.deadletters`), logged, counted and only then terminated at the broker (whose ``MSG_TERMINATED`` advisory
carries the reason too), so that it never blocks those behind it. It stays in REPORTS under its sequence for a person to look at.

Order is what makes a story of the reports, and :mod:`controlplane.bus.ordered_consumer` keeps it. Repetitions this leads to are recognised
by their report id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple
from urllib.parse import unquote

import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg

from controlplane.bus.message_validation import check_names
from controlplane.bus.ordered_consumer import OrderedConsumer
from controlplane.bus.streams import MAX_MESSAGE_BYTES
from controlplane.core.input_queue import InputQueue, InputResult, UndecidableError
from controlplane.core.watermark import Watermark
from controlplane.domain.free_text import for_the_log
from controlplane.domain.inputs import ReportReceived
from controlplane.log.deadletters import FORGOTTEN, DeadLetter, Kind
from controlplane.log.records import LogUnavailableError
from woodfrog.protocol import subjects, wire
from woodfrog.protocol.events import NodeRegistered, event_type
from woodfrog.protocol.ids import CheckpointKey, InvalidIdError
from woodfrog.protocol.reports import Report
from woodfrog.service import faultpoints, tracing

_log = structlog.get_logger(component="ingest")

_LOG_RETRY_SECONDS: Final = 0.5


class RefusedReportError(ValueError):
    """A report that may not be taken in; the message says why, naming the field."""


class _Outcome(NamedTuple):
    """What became of a message: taken in, or refused as ``kind`` for a reason."""

    report: Report | None
    kind: Kind | None = None
    reason: str = ""


PutAside = Callable[[Sequence[DeadLetter]], Awaitable[None]]
"""Keeps refused reports for people to see; raises as :meth:`controlplane.log.deadletters.DeadLetters.put_aside`."""


class ReportConsumer:
    """Feeds the input loop from REPORTS."""

    def __init__(self, client: Client, intake: InputQueue, put_aside: PutAside, *, details: bool = False) -> None:
        """``details``: whether the log takes the lines of tools' logs that failures carry."""
        self._put_aside = put_aside
        self._reports = OrderedConsumer(
            client,
            stream=subjects.REPORTS_STREAM,
            durable=subjects.INGEST_CONSUMER,
            subjects=subjects.REPORTS_ALL,
            description="The control plane; acknowledges what is in the log",
        )
        self._intake = intake
        self._details = details
        self.taken_in = Watermark()
        """The REPORTS sequence up to which every report is in the log, or refused."""
        self.ready = asyncio.Event()
        """Set once the consumer is bound."""
        self.refused = 0
        """How many reports this process refused."""

    async def run(self) -> None:
        """Take reports in until cancelled, however often the broker goes away."""
        await self._reports.follow(self._take, self._opened)

    async def _opened(self, floor: int) -> None:
        await self.taken_in.set(floor)
        self.ready.set()

    async def _take(self, messages: list[Msg]) -> None:
        """Take messages in, in order, and acknowledge each when what became of it is durable."""
        outcomes: list[_Outcome] = []
        while len(outcomes) < len(messages):
            outcomes += await self._settle(messages[len(outcomes) :])
        taken = list(zip(messages, outcomes, strict=True))
        await self._bury([_dead_letter(message, outcome) for message, outcome in taken if outcome.kind is not None])
        faultpoints.reach("ingest.before-ack")
        for message, outcome in taken:
            if outcome.kind is None:
                await message.ack()
            else:
                await self._refuse(message, outcome)
        last = messages[-1].metadata.sequence.stream
        await self.taken_in.set(max(last, self.taken_in.value))

    async def _settle(self, messages: list[Msg]) -> list[_Outcome]:
        """Find out what becomes of the messages, up to the first that the log could not take."""
        waiting: list[tuple[Report, asyncio.Future[InputResult]] | _Outcome] = []
        for message in messages:
            try:
                report = for_the_log(read_report(message.subject, message.data), details=self._details)
            except RefusedReportError as problem:
                waiting.append(_Outcome(None, "unreadable", str(problem)))
            else:
                carried = tracing.of_message(message.headers)
                with tracing.span("report", parent=carried, type=event_type(report.event), node=report.node):
                    future = await self._intake.enqueue(ReportReceived(report), actor=f"worker/{report.node}")
                waiting.append((report, future))
                if future.done():  # refused with those before it, which have to be told again first
                    break
        outcomes: list[_Outcome] = []
        unavailable = False
        for one in waiting:
            try:
                outcome = one if isinstance(one, _Outcome) else _outcome(one[0], await one[1])
            except UndecidableError as problem:
                outcome = _Outcome(one[0], "undecidable", str(problem))
            except LogUnavailableError:
                unavailable = True
                continue
            if not unavailable:
                outcomes.append(outcome)
        if unavailable:
            await asyncio.sleep(_LOG_RETRY_SECONDS)
        return outcomes

    async def _bury(self, letters: list[DeadLetter]) -> None:
        """Put refused reports aside, however long the database is away: nothing may be terminated that left no trace."""
        while letters:
            try:
                await self._put_aside(letters)
            except LogUnavailableError as problem:
                await _log.awarning("refused reports wait for the database", error=str(problem), reports=len(letters))
                await asyncio.sleep(_LOG_RETRY_SECONDS)
            else:
                return

    async def _refuse(self, message: Msg, outcome: _Outcome) -> None:
        self.refused += 1
        await _log.awarning(
            "report refused",
            subject=message.subject,
            sequence=message.metadata.sequence.stream,
            kind=outcome.kind,
            reason=outcome.reason,
            refused_reports=self.refused,
        )
        await self._reports.refuse(message, outcome.reason)


def _outcome(report: Report, settled: InputResult) -> _Outcome:
    if settled.rejected is not None:
        return _Outcome(report, FORGOTTEN if settled.forgotten else "rejected", settled.rejected)
    if settled.overtaken:
        return _Outcome(
            report, "overtaken", "it says nothing new: the log has this from another report, or from a later one"
        )
    return _Outcome(report)


def _dead_letter(message: Msg, outcome: _Outcome) -> DeadLetter:
    assert outcome.kind is not None
    return DeadLetter(
        stream=message.metadata.stream,
        sequence=message.metadata.sequence.stream,
        received_at=message.metadata.timestamp,
        subject=message.subject,
        node=unquote(message.subject.rpartition(".")[2]),
        report_id=None if outcome.report is None else str(outcome.report.report_id),
        kind=outcome.kind,
        reason=outcome.reason,
        data=message.data,
    )


def read_report(subject: str, data: bytes) -> Report:
    """Read a report as it came over ``subject``.

    Raises:
        RefusedReportError: naming what is wrong with it.
    """
    if len(data) > MAX_MESSAGE_BYTES:
        raise RefusedReportError(f"{len(data)} bytes are more than a report may have ({MAX_MESSAGE_BYTES})")
    try:
        report: Report = wire.decode(data, Report)
        check_names(report)
        if not isinstance(report.event, NodeRegistered):
            CheckpointKey.checked(report.event.key.cluster, report.event.key.namespace, report.event.key.id)
    except (wire.MalformedMessageError, InvalidIdError) as problem:
        raise RefusedReportError(str(problem)) from problem
    if (problem_of_time := wire.time_problem(report.at)) is not None:
        raise RefusedReportError(f"{problem_of_time} - at `$.at`")
    if subjects.reports(report.node) != subject:
        raise RefusedReportError(f"node {report.node!r} may not report over {subject} - at `$.node`")
    return report
