"""Copies of the streams in a cluster of NATS servers: one server's death must not take a stream away.

A stream is made with one copy, which is all that a single server can keep, by whoever first finds it missing. Where
there are several servers, this gives it more once they can be given, and again after the broker was wiped. Copies that an operator
gave are never taken away.

A server copies no stream that is written behind, and changes no stream's way of writing. AUDIT was made so for a single server; it
gives way to an empty one that is copied, and the relay fills that from the log, as after a wiped broker.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog
from nats.js import JetStreamContext
from nats.js.api import PersistMode
from nats.js.errors import NotFoundError

from controlplane.bus.streams import BROKER_ERRORS
from woodfrog.protocol import subjects
from woodfrog.service.cancellation import end_if_cancelled

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
            await _log.awarning("streams cannot be given their copies yet", error=problem)
            whole = [False]
        end_if_cancelled()
        await asyncio.sleep(_LOOK_SECONDS if all(whole) else _SOON_SECONDS)


async def _replicate(jetstream: JetStreamContext, stream: str, replicas: int) -> bool:
    try:
        found = await jetstream.stream_info(stream)
    except NotFoundError:
        return False
    if (found.config.num_replicas or 1) >= replicas:
        return True
    wanted = found.config.evolve(num_replicas=replicas)
    if stream == subjects.AUDIT_STREAM and found.config.persist_mode == PersistMode.ASYNC:  # nats-py leaves it a string
        await jetstream.delete_stream(stream)
        await jetstream.add_stream(wanted.evolve(persist_mode=None))
    else:
        await jetstream.update_stream(wanted)
    await _log.ainfo("stream given copies", stream=stream, replicas=replicas)
    return True
