"""A NATS connection with the options that matter set.

nats-py's defaults give up for ever after 60 reconnects, notice a half-open connection after minutes, and drop messages of
a slow subscription with no word but the error callback's. A control plane must outlive its broker instead.
"""

from __future__ import annotations

import structlog
from nats.aio.client import Client

_log = structlog.get_logger(component="nats")


async def connect(url: str, *, name: str) -> Client:
    """Connect to ``url`` (credentials may be part of it) and keep reconnecting for as long as the process lives.

    ``name`` shows in the server's connection list. The first connection is retried as well, so that start order does not
    matter.
    """

    async def on_error(problem: Exception) -> None:
        await _log.awarning("nats error", error=repr(problem))

    async def on_disconnect() -> None:
        await _log.awarning("nats disconnected")

    async def on_reconnect() -> None:
        await _log.ainfo("nats reconnected")

    client = Client()
    await client.connect(
        servers=[url],
        name=name,
        error_cb=on_error,
        disconnected_cb=on_disconnect,
        reconnected_cb=on_reconnect,
        max_reconnect_attempts=-1,
        reconnect_time_wait=1,
        ping_interval=10,
        max_outstanding_pings=2,
        connect_timeout=2,
        pending_size=16 * 1024 * 1024,
    )
    return client
