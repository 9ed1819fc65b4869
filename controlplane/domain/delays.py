"""Captures that the store did not take: each waits on its node, and the next dump of its container need not wait for it.

Its own node can restore it, so it is worth replacing by a newer one: what a container did since would be lost if it crashed while
the store is away. So the command that asked for its dump holds up no other dump from then on, and it did not fail.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from msgspec.structs import replace

from controlplane.domain.draft import Draft, shared, with_shared_privileges
from controlplane.domain.state import SnapshotStatus
from woodfrog.protocol.events import SnapshotStoreDelayed
from woodfrog.protocol.facts import ContainerFacts
from woodfrog.protocol.ids import IncarnationNumber


def note_delayed(draft: Draft, event: SnapshotStoreDelayed, at: datetime) -> None:
    """Fold that a capture waits for its store. It can be reported again, for another reason, after the next dump was asked for."""
    known = draft.snapshots.get(event.snapshot_id)
    is_first = known is None or not known.is_delayed
    draft.start(event.incarnation, **({"dump_command": None, "dumps_failed": 0} if is_first else {}))
    changes: dict[str, Any] = {"note": f"not stored: {event.failure.code} since {event.since:%H:%M}"}
    if event.manifest_digest and event.taken_on is not None and event.taken_from is not None:
        changes["local_digest"] = event.manifest_digest
        changes["taken_on"] = shared(event.taken_on)
        changes["taken_from"] = with_shared_privileges(as_opened(draft, event.incarnation, event.taken_from))
    draft.move(event, at, SnapshotStatus.CAPTURED, node=event.node, **changes)


def as_opened(draft: Draft, number: IncarnationNumber, taken_from: ContainerFacts) -> ContainerFacts:
    """Take from its start what the API said of the pod; the rest is the worker's word."""
    start = draft.incarnations[number].container
    if start.service_account is None:
        return taken_from
    names = ("pod", "pod_uid", "service_account", "owner_kind")
    return replace(taken_from, **{name: getattr(start, name) for name in names})
