"""How much of the broker's disk each stream may take, and how much all of them take.

A broker has one limit for all its streams. A stream without a limit of its own grows until that one is reached, and from then on
the broker takes nothing into *any* stream: no report, so that no worker is sure of what it said, and no command. So each
stream has a share, and gives up its oldest messages when the share is used up. AUDIT, which holds nothing that the log does
not hold, is the one that would fill the disk: it gets half. The shares leave an eighth to whatever else the broker keeps.

What a stream's operator has set is left: a limit is ours to change where the stream's metadata says that we set it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

import msgspec
import structlog
from nats.js import JetStreamContext
from nats.js.errors import APIError, NotFoundError

from controlplane.bus.streams import BROKER_ERRORS
from woodfrog.protocol import subjects
from woodfrog.service.cancellation import end_if_cancelled
from woodfrog.service.nats import NO_ROOM

_log = structlog.get_logger(component="streams")

STANDARD_BYTES: Final = 4 << 30
"""What the broker has for the streams where neither a setting nor the account's limit says it: as in the shipped configurations."""
SCARCE: Final = 0.95
"""Of the limit, from which on the streams need their operator."""

_SHARES: Final = {
    # AUDIT first: where the disk is full already, its oldest messages make room for the others' reservations.
    subjects.AUDIT_STREAM: 1 / 2,
    subjects.REPORTS_STREAM: 1 / 4,
    subjects.COMMANDS_STREAM: 1 / 16,
    subjects.PODS_STREAM: 1 / 16,
}
_NOTE: Final = "woodfrog.io/max-bytes"
_NOTE_OF_NODES: Final = "woodfrog.io/max-msgs-per-subject"
REPORTS_PER_NODE: Final = 50_000
"""Messages of a node in REPORTS. A node with a hundred pods that are dumped every ten minutes makes as many in half a day."""
_LOOK_SECONDS: Final = 30.0
_SOON_SECONDS: Final = 2.0
_LEAST_BYTES: Final = 1 << 20
"""A broker with less than this for all streams is not tried with still smaller shares."""


class Use(msgspec.Struct, frozen=True):
    """What the streams take of what there is for them."""

    bytes: int
    """All that the account stores."""
    limit_bytes: int
    streams: dict[str, tuple[int, int]] = {}
    """Bytes and limit of each; the limit is 0 where there is none."""

    @property
    def scarce(self) -> str | None:
        """Return what is to be said when there is hardly any room left; ``None`` while there is."""
        if self.bytes < SCARCE * self.limit_bytes:
            return None
        return f"the streams take {self.bytes >> 20} of {self.limit_bytes >> 20} MiB of NATS's storage"


async def keep_within(
    jetstream: JetStreamContext,
    storage_bytes: int | None,
    seen: Callable[[Use], None],
    *,
    reports_per_node: int = REPORTS_PER_NODE,
) -> None:
    """See to it until cancelled that every stream has its limit, and show what they use to ``seen``.

    ``storage_bytes``: what the broker has for them; ``None``: what the account's limit says, or the standard. Where the broker
    turns out to have less, smaller shares are tried.
    """
    total = storage_bytes
    while True:
        whole = False
        try:
            total = total or await _of_account(jetstream)
            seen(await look(jetstream, total))
            whole = await limit_streams(jetstream, total, reports_per_node)
        except BROKER_ERRORS as problem:
            if isinstance(problem, APIError) and problem.err_code in NO_ROOM and total and total > _LEAST_BYTES:
                total //= 2
                continue
            await _log.awarning("streams cannot be given their limits yet", error=problem, bytes=total)
        end_if_cancelled()
        await asyncio.sleep(_LOOK_SECONDS if whole else _SOON_SECONDS)


async def _of_account(jetstream: JetStreamContext) -> int:
    limit = (await jetstream.account_info()).limits.max_storage
    return limit if limit > 0 else STANDARD_BYTES


async def limit_streams(
    jetstream: JetStreamContext, storage_bytes: int, reports_per_node: int = REPORTS_PER_NODE
) -> bool:
    """Give every stream that is there its share, and every node its part of REPORTS; return whether all are there.

    Raises:
        nats.errors.Error: the broker is away, or has less than that.
    """
    there = [await _limit(jetstream, stream, int(storage_bytes * share)) for stream, share in _SHARES.items()]
    return await _limit_reports(jetstream, reports_per_node) and all(there)


async def _limit(jetstream: JetStreamContext, stream: str, limit_bytes: int) -> bool:
    try:
        config = (await jetstream.stream_info(stream)).config
    except NotFoundError:
        return False
    notes = config.metadata or {}
    held = config.max_bytes or 0
    if held == limit_bytes or (held > 0 and notes.get(_NOTE) != str(held)):
        return True
    noted = {key: value for key, value in notes.items() if not key.startswith("_nats.")} | {_NOTE: str(limit_bytes)}
    await jetstream.update_stream(config.evolve(max_bytes=limit_bytes, metadata=noted))
    await _log.ainfo("stream given a limit", stream=stream, bytes=limit_bytes)
    return True


async def _limit_reports(jetstream: JetStreamContext, most: int) -> bool:
    """Bound what one node has in REPORTS: its own oldest messages go. What the log does not have yet its worker sends again."""
    try:
        config = (await jetstream.stream_info(subjects.REPORTS_STREAM)).config
    except NotFoundError:
        return False
    notes = config.metadata or {}
    held = max(config.max_msgs_per_subject or 0, 0)
    if held == most or (held > 0 and notes.get(_NOTE_OF_NODES) != str(held)):
        return True
    noted = {key: value for key, value in notes.items() if not key.startswith("_nats.")} | {_NOTE_OF_NODES: str(most)}
    await jetstream.update_stream(config.evolve(max_msgs_per_subject=most, metadata=noted))
    await _log.ainfo("nodes given a limit", stream=subjects.REPORTS_STREAM, messages_of_a_node=most)
    return True


async def look(jetstream: JetStreamContext, storage_bytes: int) -> Use:
    """Ask the broker what the streams use.

    Raises:
        nats.errors.Error: the broker is away.
    """
    streams = {}
    for stream in _SHARES:
        with contextlib.suppress(NotFoundError):
            found = await jetstream.stream_info(stream)
            streams[stream] = (found.state.bytes, max(found.config.max_bytes or 0, 0))
    return Use((await jetstream.account_info()).storage, storage_bytes, streams)
