"""Which reports a worker need not keep any more, because the log or the dead letters hold them.

A broker may lose what it has confirmed: its disk is replaced, its stream purged, a backup put back. So a worker keeps confirmed
reports and names them, now and then, in a heartbeat that wants an answer. Told is what SQL holds, never what some sequence
number promises. A report that is in neither place is called missing only once everything was taken in that REPORTS held after
the question came: so it lies in no stream, and the worker sends it again under its old id.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final
from uuid import UUID

import structlog
from nats.aio.client import Client

from controlplane.bus.streams import BROKER_ERRORS, REQUEST_SECONDS
from controlplane.core.watermark import Watermark
from controlplane.log.deadletters import FORGOTTEN, Kind
from controlplane.log.eventlog import EventLog
from controlplane.log.records import LogUnavailableError
from woodfrog.protocol import subjects
from woodfrog.protocol.ids import event_id
from woodfrog.protocol.reports import Vouched

_log = structlog.get_logger(component="vouching")

_CATCH_UP_SECONDS: Final = 2.0
"""With those of the questions before it, less than a worker waits for an answer."""

PutAsideBefore = Callable[[Iterable[UUID]], Awaitable[Mapping[UUID, Kind]]]
"""Tells which of the reports were refused, and as what; raises as :meth:`controlplane.log.deadletters.DeadLetters.hold`."""


class ReportReconciliation:
    """Answers for the log."""

    def __init__(self, client: Client, log: EventLog, refused: PutAsideBefore, taken_in: Watermark) -> None:
        self._jetstream = client.jetstream(timeout=REQUEST_SECONDS)
        self._log = log
        self._refused = refused
        self._taken_in = taken_in

    async def vouch(self, asked: Sequence[UUID]) -> Vouched | None:
        """Say what became of the reports, of however many questions; ``None`` while that cannot be known.

        Only if there are reports of which nothing is known is the broker asked, and waited for.
        """
        try:
            settled = await self._settled(asked)
            unknown = [report for report in asked if report not in settled]
            level = bool(unknown) and await self._level()
            if level:
                settled |= await self._settled(unknown)
            forgotten = [report for report, kind in settled.items() if kind == FORGOTTEN]
        except (*BROKER_ERRORS, LogUnavailableError) as problem:
            await _log.awarning("reports cannot be confirmed now", error=problem)
            return None
        missing = [report for report in unknown if report not in settled] if level else []
        if missing:
            await _log.awarning(
                "confirmed reports are missing and are asked for again", reports=list(map(str, missing))
            )
        return Vouched(tuple(settled), tuple(missing), forgotten=tuple(forgotten))

    async def _settled(self, reports: Sequence[UUID]) -> dict[UUID, Kind | None]:
        """Find those that are in the log, or as what they were refused."""
        ids = {report: event_id(str(report), 0) for report in reports}
        held = await self._log.held(list(ids.values()))
        settled: dict[UUID, Kind | None] = {report: None for report, event in ids.items() if event in held}
        return {**settled, **await self._refused(ids.keys() - settled.keys())}

    async def _level(self) -> bool:
        """Take in what REPORTS holds now; False if that takes too long."""
        held = (await self._jetstream.stream_info(subjects.REPORTS_STREAM)).state.last_seq
        return await self._taken_in.reached(held, _CATCH_UP_SECONDS)
