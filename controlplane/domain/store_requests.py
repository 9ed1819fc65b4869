"""A capture that the store did not take, and somebody who does not want to wait for its next try: the store is mended, say.

Only the node that captured it holds it, so that node's worker is asked. What it does by itself, it goes on doing: the request makes
one try come sooner, and the pauses after it begin with the shortest again.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from controlplane.domain.decision_builder import refuse
from controlplane.domain.inputs import Decision, SnapshotAsked
from controlplane.domain.state import Snapshot, State
from woodfrog.protocol.commands import StoreCommand
from woodfrog.protocol.events import CommandIssued, SnapshotRetried
from woodfrog.protocol.ids import CheckpointKey, CommandId, event_id
from woodfrog.protocol.requests import Noted

STORE_SECONDS = 600.0
"""How long one try may take until nobody waits for what becomes of it."""


def store_now(state: State, name: CheckpointKey, snapshot: Snapshot, asked: SnapshotAsked, now: datetime) -> Decision:
    """Ask the node that holds a capture to store it at once. While it is being asked, a second request is the same request."""
    for command in state.commands.values():
        if isinstance(command, StoreCommand) and command.snapshot_id == snapshot.snapshot_id and now < command.deadline:
            return Decision(answer=_noted(name, snapshot, command.command_id))
    node = None if snapshot.node is None else state.nodes.get(snapshot.node)
    if snapshot.node is None or node is None or node.lost:
        return refuse(
            "node-lost",
            f"Snapshot {snapshot.snapshot_id} is on node {snapshot.node} only, which has not been heard of",
            "Check the node and its worker; once it is back, it tries by itself until the capture is stored.",
        )
    number, reason = snapshot.incarnation, asked.request.because
    command = StoreCommand(
        command_id=CommandId(str(event_id(f"{asked.source}/store", 0))),
        node=snapshot.node,
        key=name,
        incarnation=number,
        snapshot_id=snapshot.snapshot_id,
        issued_at=now,
        deadline=now + timedelta(seconds=STORE_SECONDS),
    )
    return Decision(
        events=(
            SnapshotRetried(key=name, incarnation=number, snapshot_id=snapshot.snapshot_id, reason=reason),
            CommandIssued(key=name, incarnation=number, command=command),
        ),
        answer=_noted(name, snapshot, command.command_id),
    )


def _noted(name: CheckpointKey, snapshot: Snapshot, command_id: CommandId) -> Noted:
    return Noted(key=name, snapshot_id=snapshot.snapshot_id, command_id=command_id)
