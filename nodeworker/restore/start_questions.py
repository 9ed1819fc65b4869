"""Questions to the control plane about how containers start, each heard out although nobody waits for its answer any more.

The log opens a start when it hears of it, and cannot know that it was given up meanwhile: a person pressed Ctrl-C, an engine's time
was up. A start that stayed open would hold back what the container before it still does. So its worker finds out which start it was,
and says that it came to nothing. Until then the container's record stays in the journal, so that the next life of a worker
that is killed meanwhile asks again. It asks as somebody who has given up: that opens no start.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from typing import Final

import structlog
from msgspec.structs import replace

from nodeworker.bus import Bus
from nodeworker.journal import ContainerRecord, Journal
from nodeworker.restore.container_lifecycle import ContainerLifecycle
from woodfrog.protocol.failures import REPEATED_CODES
from woodfrog.protocol.ids import ContainerId, IncarnationNumber
from woodfrog.protocol.requests import GIVEN_UP_VERSION, Refusal, Resolution, ResolveRequest

_log = structlog.get_logger(component="restore")

Question = Callable[[int], ResolveRequest]
"""Builds a question from the stream sequence of the last confirmed report."""

_ASK_EVERY_SECONDS: Final = 0.5
_NOTE_EVERY_SECONDS: Final = 5.0


class StartQuestions:
    """The questions of one worker."""

    def __init__(self, bus: Bus, journal: Journal, lifecycle: ContainerLifecycle) -> None:
        self._bus = bus
        self._journal = journal
        self._lifecycle = lifecycle
        self._hearing: dict[asyncio.Task[None], ContainerId] = {}

    async def ask(self, record: ContainerRecord, question: Question) -> Resolution:
        """Ask until somebody answers; the caller bounds the time."""
        may_be_heard = asyncio.Event()
        asking = asyncio.create_task(self._bus.resolve(question, may_be_heard))
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            if record.incarnation or not may_be_heard.is_set():
                asking.cancel()
            else:
                self.hear_out(record, question, asking)
            raise

    def is_hearing(self, container_id: ContainerId) -> bool:
        """Whether it is not known yet which start a question about this container has opened, which nobody waits for any more."""
        return container_id in self._hearing.values()

    async def give_up(self, record: ContainerRecord, question: Question) -> None:
        """Note that nobody starts a container any more of which the log may have opened a start, and find out which."""
        await asyncio.to_thread(self._journal.save_container, replace(record, given_up=True))
        if not self.is_hearing(record.container_id):
            self.hear_out(record, question)

    async def close(self) -> None:
        """Hear nothing out any more: the process ends."""
        for hearing in (given_up := set(self._hearing)):
            hearing.cancel()
        await asyncio.gather(*given_up, return_exceptions=True)

    def hear_out(
        self, record: ContainerRecord, question: Question, asking: asyncio.Task[Resolution] | None = None
    ) -> None:
        """Find out which start of a container that is given up the log has opened; ``asking`` may tell, and is not cancelled."""
        hearing = asyncio.create_task(self._find_out(record, question, asking))
        self._hearing[hearing] = record.container_id
        hearing.add_done_callback(self._hearing.pop)

    async def _find_out(
        self, record: ContainerRecord, question: Question, asking: asyncio.Task[Resolution] | None
    ) -> None:
        """Find out which start the log has opened, from the answer that is awaited or else by asking for that alone."""
        number = IncarnationNumber(0) if asking is None else (await asking).incarnation
        while not number:
            answer = await self._bus.resolve(_given_up(question))
            number = answer.incarnation
            if not (isinstance(answer, Refusal) and answer.failure.code in REPEATED_CODES):
                break
            await asyncio.sleep(_ASK_EVERY_SECONDS)
        while True:
            try:
                return await asyncio.to_thread(self._end, replace(record, incarnation=number))
            except (OSError, sqlite3.Error) as problem:  # a full disk has room again some day
                await _log.awarning("an end cannot be noted", container_id=record.container_id, error=problem)
            await asyncio.sleep(_NOTE_EVERY_SECONDS)

    def _end(self, numbered: ContainerRecord) -> None:
        """Report that the start came to nothing; of a container that is created again, only note the number: it is the same start."""
        with self._journal.transaction():
            known = self._journal.container(numbered.container_id)
            if known is None or (known.key, known.create_id) != (numbered.key, numbered.create_id):
                self._lifecycle.end_given_up(numbered)
            elif known.given_up:
                self._lifecycle.end(replace(known, incarnation=known.incarnation or numbered.incarnation), None)
            elif not known.incarnation:
                self._journal.save_container(replace(known, incarnation=numbered.incarnation))


def _given_up(question: Question) -> Question:
    return lambda reports_sequence: replace(question(reports_sequence), given_up=True, version=GIVEN_UP_VERSION)
