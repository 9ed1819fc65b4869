"""The control plane put together: one log, one input loop, and the bus around them.

Every part is a task of one group: the death of any is the death of the process, which whoever started it starts again. All
that is needed to go on is in the log.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import structlog
from nats.aio.client import Client

from controlplane.bus.ingest import Ingest
from controlplane.bus.presence import Presence
from controlplane.bus.relay import Relay
from controlplane.bus.services import Services
from controlplane.bus.streams import REQUEST_SECONDS
from controlplane.domain.inputs import Policy
from controlplane.log.eventlog import EventLog
from controlplane.loop import DecisionLoop
from controlplane.settings import Settings
from process.nats import connect

_log = structlog.get_logger(component="controlplane")

_CLOSING_SECONDS: Final = 5.0


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _policy(settings: Settings) -> Policy:
    said = settings.policies
    return Policy(handover_seconds=settings.handover_seconds, retention=said.retention, schedule=said.schedule)


class ControlPlane:
    """One control plane, leading from :meth:`run` on."""

    def __init__(self, settings: Settings, *, clock: Callable[[], datetime] = _utc_now) -> None:
        self._settings = settings
        self._clock = clock
        self.ready = asyncio.Event()
        """Set once the state is folded and requests are heard."""

    async def run(self) -> None:
        """Take the lead, then serve until cancelled. The database must have been migrated.

        Raises:
            StaleEpochError: another control plane has taken the lead.
            FailureError: the log or the AUDIT stream cannot be worked with.
        """
        log = await EventLog.open(self._settings.database_url)
        try:
            epoch = await log.take_lead()
            loop = DecisionLoop(log, epoch=epoch, policy=_policy(self._settings), clock=self._clock)
            await loop.load()
            gc.freeze()  # the state lives as long as the process: no collection need walk through it
            await _log.ainfo("leading", epoch=epoch, position=loop.committed.value)
            client = await connect(self._settings.nats_url, name="woodfrog control plane")
            try:
                await self._serve(log, loop, client)
            finally:
                await _close(client)
        finally:
            await log.close()

    async def _serve(self, log: EventLog, loop: DecisionLoop, client: Client) -> None:
        ingest = Ingest(client, loop)
        services = Services(client, loop, log, ingest.taken_in)
        relay = Relay(
            client.jetstream(timeout=REQUEST_SECONDS),
            log,
            committed=loop.committed,
            open_commands=loop.open_commands,
            cluster=self._settings.cluster,
        )
        presence = Presence(client, loop, loop.nodes, lost_seconds=self._settings.node_lost_seconds)
        async with asyncio.TaskGroup() as group:
            group.create_task(loop.run())
            group.create_task(log.refreshed())
            group.create_task(relay.run())
            group.create_task(ingest.run())
            group.create_task(presence.run())
            group.create_task(services.run())
            await ingest.ready.wait()
            await services.listening.wait()
            await _log.ainfo("control plane ready", cluster=self._settings.cluster, position=loop.committed.value)
            self.ready.set()


async def _close(client: Client) -> None:
    try:
        async with asyncio.timeout(_CLOSING_SECONDS):
            await client.close()
    except TimeoutError:
        await _log.awarning("the connection to NATS did not close in time")
