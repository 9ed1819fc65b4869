"""The four streams, and what to expect of a broker that may lose them.

REPORTS carries what workers say, COMMANDS what they are asked, AUDIT every event of the log in its order, and PODS what
happens to pods. A stream that is
missing is made; one that is there is left as it is, because its operator may have given it replicas or limits. Whoever
works with a stream calls :func:`ensure_streams` before it starts and again after every error: that is the whole recovery
from a wiped broker, since the log can fill AUDIT and COMMANDS again and workers repeat what was not confirmed.

A broker that syncs every message (``sync_interval: always``, as REPORTS needs it: a report that was confirmed and lost is nowhere
else) takes no more of them than its disk takes syncs. AUDIT holds nothing that the log does not hold, so it alone is written behind
(``persist_mode: async``, servers before 2.12 do not know it): what a dying broker loses of it is sent again.
"""

from __future__ import annotations

import contextlib
from typing import Final

import nats.errors
import structlog
from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DiscardPolicy,
    PersistMode,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)
from nats.js.errors import APIError, NotFoundError

from woodfrog.protocol import subjects
from woodfrog.protocol.ids import NodeName

_log = structlog.get_logger(component="streams")

BROKER_ERRORS: Final = (nats.errors.Error, TimeoutError, OSError)
"""What a broker that is away, restarting or wiped makes nats-py raise. Its JetStream errors are ``nats.errors.Error`` too."""

MAX_MESSAGE_BYTES: Final = 512 * 1024
"""The longest report or request that is taken in: half the server's default max_payload, so that the events decided from it
fit into AUDIT with their headers."""

REQUEST_SECONDS: Final = 5.0
"""How long the broker may take to answer."""

WRONG_LAST_SEQUENCE: Final = 10071
"""JSStreamWrongLastSequenceErrF in nats-server's server/errors.json."""
_NAME_IN_USE: Final = 10058
"""JSStreamNameExistErr, also there: made meanwhile by somebody else, in another configuration."""

_DAY_SECONDS = 86400.0
_DUPLICATE_WINDOW_SECONDS = 120.0
_MOST_NODES = 100_000
"""Each has a queue of its own. From 2.15 on, a server allows 1,000 consumers of a stream that says nothing (default_max_consumers)."""

_CONFIGURATIONS = (
    StreamConfig(
        name=subjects.REPORTS_STREAM,
        description="What node workers report, kept for a week to look things up; the log holds what was believed",
        subjects=[subjects.REPORTS_ALL],
        retention=RetentionPolicy.LIMITS,
        discard=DiscardPolicy.OLD,
        storage=StorageType.FILE,
        max_age=7 * _DAY_SECONDS,
        duplicate_window=_DUPLICATE_WINDOW_SECONDS,
    ),
    StreamConfig(
        name=subjects.PODS_STREAM,
        description="What happens to pods with protected containers, published by the watcher or by whatever creates them",
        subjects=[subjects.PODS_ALL],
        retention=RetentionPolicy.LIMITS,
        discard=DiscardPolicy.OLD,
        storage=StorageType.FILE,
        max_age=_DAY_SECONDS,
        max_msgs_per_subject=100,
        duplicate_window=_DUPLICATE_WINDOW_SECONDS,
    ),
    StreamConfig(
        name=subjects.COMMANDS_STREAM,
        description="Commands waiting for their worker; each is removed once its worker acknowledged it",
        subjects=[subjects.COMMANDS_ALL],
        retention=RetentionPolicy.WORK_QUEUE,
        max_consumers=_MOST_NODES,
        discard=DiscardPolicy.OLD,
        storage=StorageType.FILE,
        max_age=7 * _DAY_SECONDS,
        duplicate_window=_DUPLICATE_WINDOW_SECONDS,
    ),
    StreamConfig(
        name=subjects.AUDIT_STREAM,
        description="Every event of the log in order; stream sequence and log position are the same number",
        subjects=[subjects.AUDIT_ALL],
        retention=RetentionPolicy.LIMITS,
        discard=DiscardPolicy.OLD,
        storage=StorageType.FILE,
        deny_delete=True,
        deny_purge=True,
        allow_direct=True,
        persist_mode=PersistMode.ASYNC,
        duplicate_window=_DUPLICATE_WINDOW_SECONDS,
    ),
)


_COMMAND_WAIT_SECONDS = 30.0
_MOST_COMMANDS_AT_ONCE = 1000


def command_queue(node: NodeName) -> ConsumerConfig:
    """Describe the consumer through which a node's worker takes its commands; the worker makes the same one where it may."""
    return ConsumerConfig(
        durable_name=subjects.commands_consumer(node),
        filter_subject=subjects.commands(node),
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=_COMMAND_WAIT_SECONDS,
        max_ack_pending=_MOST_COMMANDS_AT_ONCE,
    )


async def ensure_streams(jetstream: JetStreamContext) -> None:
    """Make every stream that is not there.

    Raises:
        nats.errors.Error: while the broker is away or has no JetStream.
    """
    for configuration in _CONFIGURATIONS:
        assert configuration.name is not None
        try:
            await jetstream.stream_info(configuration.name)
        except NotFoundError:
            try:
                await jetstream.add_stream(configuration)
            except APIError as problem:
                if problem.err_code != _NAME_IN_USE:
                    raise
            else:
                await _log.ainfo("stream made", stream=configuration.name)


async def forget_audit(jetstream: JetStreamContext) -> None:
    """Delete AUDIT, so that a control plane on another log may fill it; whoever reads it makes their consumers anew."""
    with contextlib.suppress(NotFoundError):
        await jetstream.delete_stream(subjects.AUDIT_STREAM)
