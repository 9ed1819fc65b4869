"""Which image a pod's container was created from: a tag may name another one by now, and config.json has nothing but the tag.

The engine is asked over its CRI while it waits for ``create``. Its socket is looked for above the bundle, where containerd has its
state directory, whatever that is called. An engine that does not answer leaves the image unknown, and holds nothing up for long.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from nodeworker.host import cri
from woodfrog.protocol.facts import ContainerFacts
from woodfrog.protocol.runtime_api import CreateRequest

_CRIO: Final = Path("/run/crio/crio.sock")
_SECONDS: Final = 2.0
_LEVELS: Final = 6


def known(facts: ContainerFacts, sandbox: str, ask: CreateRequest, *, bounded: bool) -> ContainerFacts:
    """Add the image to the facts of a pod's container; leave its privileges out where restores are not ``bounded`` by them."""
    if not bounded:
        facts = msgspec.structs.replace(facts, privileges=None)
    if sandbox and facts.image_digest is None:
        digest = image_id(Path(ask.bundle), ask.container_id)
        facts = msgspec.structs.replace(facts, image_digest=digest)
    return facts


def image_id(bundle: Path, container_id: str) -> str | None:
    """Return the id of a container's image, ``sha256:`` and the digest of its configuration; ``None`` if it is unknown."""
    address = _socket(bundle)
    if address is None:
        return None
    try:
        return cri.image_id(address, container_id, _SECONDS)
    except cri.CriError:
        return None


def _socket(bundle: Path) -> Path | None:
    places = [*(parent / "containerd.sock" for parent in list(bundle.parents)[:_LEVELS]), _CRIO]
    return next((place for place in places if place.is_socket()), None)
