"""What a node loses when its worker's journal is not the one that it had: the node was reinstalled under its name, or its state was removed.

Captures that were not stored, and dumps that had begun, were known to that journal alone, so no worker will ever report how they end.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from controlplane.domain.decision_builder import DecisionBuilder
from controlplane.domain.state import SnapshotStatus, State
from woodfrog.protocol.events import DumpFailed, DumpStage, KeyEvent, NodeRegistered
from woodfrog.protocol.failures import NODE_RESET, Failure


def lost_captures(state: State, event: NodeRegistered, now: datetime) -> Iterator[KeyEvent]:
    """End what was in flight on the node, if its journal is known not to be the one that it had."""
    node = state.nodes.get(event.node)
    if node is None or not node.journal or not event.journal or node.journal == event.journal:
        return
    for name, key in state.keys.items():
        course = DecisionBuilder(key, now)
        for snapshot in key.snapshots.values():
            if snapshot.status.in_flight and snapshot.node == event.node:
                is_captured = snapshot.status is SnapshotStatus.CAPTURED
                course.record(
                    DumpFailed(
                        key=name,
                        incarnation=snapshot.incarnation,
                        snapshot_id=snapshot.snapshot_id,
                        node=event.node,
                        stage=DumpStage.STORE if is_captured else DumpStage.CAPTURE,
                        failure=_failure(
                            event, what="this capture, which was not stored" if is_captured else "this dump"
                        ),
                    )
                )
        yield from course.events


def _failure(event: NodeRegistered, what: str) -> Failure:
    return Failure(
        NODE_RESET,
        f"the state of the node worker on {event.node} was removed, and with it {what}",
        "Before a node is reinstalled, wait until `woodfrog get snapshots` shows none of it as captured.",
    )
