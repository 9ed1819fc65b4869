"""Questions to the control plane about how containers start, each heard out although nobody waits for its answer any more.

The log opens a start when it hears of it, and cannot know that it was given up meanwhile: a person pressed Ctrl-C, an engine's time
was up. A start that stayed open would hold back what the container before it still does. So its worker waits for the answer,
and says that the start came to nothing. Until the control plane answers, that is known to this worker's process alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from nodeworker.bus import Bus
from nodeworker.journal import ContainerRecord, Journal
from nodeworker.restore.container_lifecycle import ContainerLifecycle
from woodfrog.protocol.requests import Resolution, ResolveRequest


class StartQuestions:
    """The questions of one worker."""

    def __init__(self, bus: Bus, journal: Journal, lifecycle: ContainerLifecycle) -> None:
        self._bus = bus
        self._journal = journal
        self._lifecycle = lifecycle
        self._given_up: set[asyncio.Task[None]] = set()

    async def ask(self, record: ContainerRecord, question: Callable[[int], ResolveRequest]) -> Resolution:
        """Ask until somebody answers; the caller bounds the time."""
        may_be_heard = asyncio.Event()
        asking = asyncio.create_task(self._bus.resolve(question, may_be_heard))
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            if record.incarnation or not may_be_heard.is_set():
                asking.cancel()
                raise
            hearing = asyncio.create_task(self._hear_out(record, asking))
            self._given_up.add(hearing)
            hearing.add_done_callback(self._given_up.discard)
            raise

    async def close(self) -> None:
        """Hear nothing out any more: the process ends."""
        for hearing in (given_up := set(self._given_up)):
            hearing.cancel()
        await asyncio.gather(*given_up, return_exceptions=True)

    async def _hear_out(self, record: ContainerRecord, asking: asyncio.Task[Resolution]) -> None:
        answer = await asking
        if answer.incarnation:
            await asyncio.to_thread(self._end, msgspec.structs.replace(record, incarnation=answer.incarnation))

    def _end(self, given_up: ContainerRecord) -> None:
        """Report that a start came to nothing; of a container that is still there, or again, only note the number, which is the same start's."""
        with self._journal.transaction():
            known = self._journal.container(given_up.container_id)
            if known is None or known.key != given_up.key:
                self._lifecycle.end_given_up(given_up)
            elif not known.incarnation:
                self._journal.save_container(msgspec.structs.replace(known, incarnation=given_up.incarnation))
