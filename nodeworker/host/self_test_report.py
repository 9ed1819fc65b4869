"""Telling the control plane that this node's self-test failed, so that people see it where they look at nodes.

No worker begins on such a node, so nobody else would say so: what there is lies in the log of a container that is started again and
again. One sign of life carries it. A worker that is heard once is never registered, so nothing is decided by it.
"""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import nats.errors
import structlog

from nodeworker.settings import Settings
from woodfrog.protocol import subjects, wire
from woodfrog.protocol.facts import NodeFacts
from woodfrog.protocol.ids import WorkerId
from woodfrog.protocol.node_status import NodeStatus, SelfTest
from woodfrog.protocol.reports import Heartbeat
from woodfrog.service.nats import connect

_log = structlog.get_logger(component="self-test")
_TELL_SECONDS: Final = 10.0


def _sign_of_life(settings: Settings, failed: SelfTest) -> Heartbeat:
    return Heartbeat(
        settings.node,
        WorkerId(str(uuid.uuid4())),
        Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        NodeFacts(),
        at=datetime.now(UTC),
        status=NodeStatus(self_test=failed),
    )


async def tell(settings: Settings, failed: SelfTest) -> None:
    """Say it once, if NATS can be reached within a moment; whoever starts this node's worker again says it again."""
    said = wire.encode(await asyncio.to_thread(_sign_of_life, settings, failed))
    try:
        async with asyncio.timeout(_TELL_SECONDS):
            client = await connect(
                settings.nats_url,
                name=f"woodfrog self-test {settings.node}",
                seed_file=settings.nats_seed_file,
                token_file=settings.nats_token_file,
                trust=settings.nats_trust,
                inbox_prefix=subjects.inbox(settings.node),
            )
            try:
                await client.publish(subjects.heartbeats(settings.node), said)
                await client.flush()
            finally:
                await client.close()
    except (TimeoutError, nats.errors.Error, OSError) as problem:
        _log.warning("a failed self-test could not be reported", error=repr(problem))
