"""Copies of the streams in a cluster of NATS servers: one server's death must not take a stream away.

A stream is made with one copy, which is all that a single server can keep, by whoever first finds it missing. Where
there are several servers, this gives it more once they can be given, and again after the broker was wiped. Copies that an operator
gave are never taken away.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from controlplane.bus.streams import BROKER_ERRORS
from protocol import subjects

_log = structlog.get_logger(component="streams")

_STREAMS: Final = (subjects.REPORTS_STREAM, subjects.PODS_STREAM, subjects.COMMANDS_STREAM, subjects.AUDIT_STREAM)
_LOOK_SECONDS: Final = 60.0
_SOON_SECONDS: Final = 2.0


async def keep_replicated(jetstream: JetStreamContext, replicas: int) -> None:
    """See to it until cancelled that every stream that is there has at least ``replicas`` copies."""
    while True:
        try:
            whole = [await _replicate(jetstream, stream, replicas) for stream in _STREAMS]
        except BROKER_ERRORS as problem:
            await _log.awarning("streams cannot be given their copies yet", error=repr(problem))
            whole = [False]
        await asyncio.sleep(_LOOK_SECONDS if all(whole) else _SOON_SECONDS)


async def _replicate(jetstream: JetStreamContext, stream: str, replicas: int) -> bool:
    try:
        found = await jetstream.stream_info(stream)
    except NotFoundError:
        return False
    if (found.config.num_replicas or 1) >= replicas:
        return True
    await jetstream.update_stream(found.config.evolve(num_replicas=replicas))
    await _log.ainfo("stream given copies", stream=stream, replicas=replicas)
    return True
