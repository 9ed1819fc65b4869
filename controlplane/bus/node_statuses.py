"""What each node's worker said of itself last, for people: kept in memory only, by every control plane, leading or not.

Heartbeats go to whoever listens, so a control plane that stands by has the same answer as the one that leads. They are read when
somebody asks: thousands of nodes each say something every two seconds, and hardly anybody looks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Final

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg

from controlplane.bus.heartbeats import read_heartbeat
from controlplane.log.records import utc_now
from woodfrog.protocol import subjects, wire
from woodfrog.protocol.ids import InvalidIdError, NodeName, WorkerId
from woodfrog.protocol.node_status import NodeStatus, is_sound

_MOST_NODES: Final = 20_000
_LARGEST_BYTES: Final = 64 * 1024


class NodeNow(msgspec.Struct, frozen=True):
    """What a node's worker said last."""

    heard_at: datetime
    """The control plane's clock."""
    worker_id: WorkerId
    """Of a worker whose self-test failed, which never registers, its own."""
    status: NodeStatus | None
    """``None`` if the worker is of a version that does not say it."""


class NodeStatuses:
    """The newest heartbeat of each node."""

    def __init__(self, client: Client, *, clock: Callable[[], datetime] = utc_now) -> None:
        self._client = client
        self._clock = clock
        self._heard: dict[str, tuple[bytes, datetime]] = {}
        """By subject, the one that was heard of longest ago first."""

    async def run(self) -> None:
        """Listen until cancelled."""
        subscription = await self._client.subscribe(subjects.HEARTBEATS_ALL, cb=self._hear)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            if self._client.is_connected:
                await subscription.unsubscribe()

    async def _hear(self, message: Msg) -> None:
        self.hear(message.subject, message.data)

    def hear(self, subject: str, data: bytes) -> None:
        """Keep a heartbeat in the place of the one before."""
        if len(data) > _LARGEST_BYTES:
            return
        self._heard.pop(subject, None)
        self._heard[subject] = data, self._clock()
        if len(self._heard) > _MOST_NODES:
            del self._heard[next(iter(self._heard))]

    def of(self, node: NodeName) -> NodeNow | None:
        """Return what a node's worker said last; ``None`` if it was not heard since this control plane began."""
        subject = subjects.heartbeats(node)
        data, at = self._heard.get(subject, (b"", None))
        if at is None:
            return None
        try:
            heartbeat = read_heartbeat(subject, data)
        except (wire.MalformedMessageError, InvalidIdError):  # whoever decides by heartbeats has logged that
            return None
        status = heartbeat.status
        return NodeNow(at, heartbeat.worker_id, status if status is not None and is_sound(status) else None)

    def nodes(self) -> list[NodeName]:
        """Return the names of the nodes that were heard, in order."""
        return sorted(map(subjects.node_of_heartbeats, self._heard))
