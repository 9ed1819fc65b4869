"""What of an id is under way and may still be stored: whatever would make that too late, or undo it, has to wait for it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from controlplane.domain.state import KeyState, State
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import CheckpointKey, NodeName

_START_SECONDS: Final = 600.0
"""A container that has not started so long after it was to be created does not start any more."""


def lost_nodes(state: State) -> frozenset[NodeName]:
    """Name the nodes that have not been heard of: whoever wants something done does not wait for what is there."""
    return frozenset(node for node, known in state.nodes.items() if known.lost)


def under_way(state: State, name: CheckpointKey, key: KeyState, now: datetime, *, advice: str) -> Failure | None:
    """Describe the container of the id that runs or is being started, or its last dump while that is not stored; but on no lost node."""
    lost = lost_nodes(state)
    for start in key.incarnations.values():
        recent = start.opened_at is not None and now < start.opened_at + timedelta(seconds=_START_SECONDS)
        if start.number < key.latest_start or start.ended or start.node in lost or not (start.started or recent):
            continue
        what = "runs" if start.started else "is being started"
        cause = f"A container of {name} {what} on node {start.node} (incarnation {start.number})"
        return Failure("id-in-use", cause, f"Stop it and {advice}.")
    for snapshot in key.snapshots.values():
        if snapshot.status.in_flight and key.has_a_future(snapshot) and snapshot.node not in lost:
            cause = f"The dump {snapshot.snapshot_id} of {name} is not stored yet"
            return Failure("dump-in-flight", cause, f"Wait until it is stored and {advice}.")
    return None
