"""A snapshot's TCP connections in the container that is restored from it: which are kept, and how many were closed.

Those inside of a container are kept, if the dump held what they were. A restore that fails because of that is done once more
without it: a closed connection costs less than a snapshot.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from nodeworker.bundle import Bundle
from nodeworker.capture import network
from nodeworker.capture.criu import image_files
from nodeworker.domain.criu_images import MalformedImageError, connections
from nodeworker.domain.criu_images.connections import Network

_log = structlog.get_logger(component="connections")
FAILED: Final = "tcp-state"
GIVEN_UP: Final = "the TCP connections inside of the container were closed: they could not be restored"
"""A warning of the start."""


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
