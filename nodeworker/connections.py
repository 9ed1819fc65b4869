"""TCP connections on their way from one container to the next: which are kept, and what is done where that fails.

Those inside of a container are, if the dump held what they were. A dump or a restore that fails because of that is done once more
without it: a closed connection costs less than a snapshot.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import structlog

from nodeworker.bundle import Bundle
from nodeworker.capture import image_files, network
from nodeworker.capture.rendezvous import Rendezvous
from nodeworker.capture.spool import Spool
from nodeworker.domain.criu_images import MalformedImageError, connections, watches
from nodeworker.domain.criu_images.connections import Network
from nodeworker.preflight import Plan
from protocol.failures import FailureError

_log = structlog.get_logger(component="connections")
FAILED: Final = "tcp-state"
GIVEN_UP: Final = "the TCP connections inside of the container were closed: they could not be restored"
"""A warning of the start."""
_Files = TypeVar("_Files")


def dump(plan: Plan, spool: Spool, checkpoint: Callable[[], None], copy: Callable[[], _Files]) -> _Files:
    """Let CRIU write the images of a frozen container, and copy its files while CRIU waits.

    Raises:
        FailureError: as :meth:`Runc.checkpoint`, or as ``copy`` does.
    """
    if plan.watches:
        (spool.work / watches.NAME).write_bytes(watches.paths_image(plan.watches))
    keep = plan.criu.keeps_connections and network.has_inner_connections(plan.freezer.pids())
    try:
        return _attempt(plan, spool, checkpoint, copy, keep=keep)
    except FailureError as problem:
        if not keep or problem.failure.code != FAILED:
            raise
        _log.warning("connections could not be dumped, so they are closed", detail=problem.failure.detail)
        spool.empty_images()
        return _attempt(plan, spool, checkpoint, copy, keep=False)


def _attempt(
    plan: Plan, spool: Spool, checkpoint: Callable[[], None], copy: Callable[[], _Files], *, keep: bool
) -> _Files:
    meeting = Rendezvous(spool.folder / ("meeting" if keep else "meeting-closing"))
    plan.criu_config.write_text(plan.criu.for_dump(keep=keep) + meeting.config())
    return meeting.hold(checkpoint, copy)


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore does with the connections of a snapshot."""

    keep: bool = False
    """Whether CRIU is to bring back those that its images have."""
    kept: int = 0
    warnings: tuple[str, ...] = ()


def prepare(images: Path, live: Bundle) -> Restored:
    """Put into the images what the new container's network has a place for; in images that are not understood CRIU closes all.

    Raises:
        OSError: an image could not be read or written.
    """
    found = image_files.ImageFiles(images)
    try:
        keep = not connections.were_closed(found)
        settled = connections.settle(found, _network(live), keep=keep)
    except MalformedImageError as problem:
        _log.warning("connections were not looked at", folder=str(images), problem=str(problem))
        return Restored()
    image_files.replace(images, settled.changed)
    _log.info("connections", kept=settled.kept, closed=settled.closed)
    return Restored(keep, settled.kept, settled.closed)


def _network(live: Bundle) -> Network:
    if live.network is not None:
        return (
            network.of(live.network)
            or (network.of(network.OURS) if live.network == network.HOST else None)
            or Network()
        )
    return network.LOOPBACK if live.has_hooks else Network()
