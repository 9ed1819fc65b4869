"""What people ask for: a dump now, or that a snapshot be pinned, set aside or deleted. Granted, or refused with an advice.

A wish that is fulfilled already is granted again and changes nothing, so whoever is in doubt may repeat it.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from controlplane.domain.decision_builder import refuse
from controlplane.domain.inputs import CheckpointAsked, Decision, Policy, SnapshotAsked
from controlplane.domain.quotas import over_bytes
from controlplane.domain.retention import Expiry, expired, in_use, latest_valid
from controlplane.domain.state import RULED_OUT, Incarnation, KeyState, Snapshot, SnapshotStatus, State
from controlplane.domain.store_requests import store_now
from controlplane.domain.under_way import lost_nodes
from woodfrog.protocol.commands import CheckCommand, DumpCommand
from woodfrog.protocol.events import (
    CommandIssued,
    Event,
    SnapshotInvalidated,
    SnapshotPinned,
    SnapshotRetried,
    SnapshotUnpinned,
)
from woodfrog.protocol.ids import CheckpointKey, CommandId
from woodfrog.protocol.requests import CheckpointRequest, CommandAccepted, Noted, Refusal, SnapshotRequest


def decide_about(state: State, asked: SnapshotAsked, now: datetime, policy: Policy) -> Decision:
    """Decide about one snapshot as its people wish, unless something speaks against it."""
    wish = asked.request
    found = _find(state, wish)
    if found is None:
        return refuse(
            "unknown-snapshot",
            f"No snapshot {wish.snapshot_id} is known in namespace {wish.namespace}",
            "`woodfrog get snapshots` lists them; failed and deleted ones are forgotten after a while.",
        )
    name, key, snapshot = found
    match wish.wish:
        case "pin":
            return _pin(name, snapshot, wish)
        case "unpin":
            return _unpin(name, snapshot, wish)
        case "invalidate":
            return _invalidate(name, snapshot, wish)
        case "retry":
            return _retry(state, name, snapshot, asked, now)
        case "delete":
            return _delete(state, name, key, snapshot, asked, now, policy)


def _find(state: State, wish: SnapshotRequest) -> tuple[CheckpointKey, KeyState, Snapshot] | None:
    for name, key in state.keys.items():
        if (name.cluster, name.namespace) == (wish.cluster, wish.namespace) and wish.snapshot_id in key.snapshots:
            return name, key, key.snapshots[wish.snapshot_id]
    return None


def _noted(name: CheckpointKey, snapshot: Snapshot, *events: Event) -> Decision:
    return Decision(events=events, answer=Noted(key=name, snapshot_id=snapshot.snapshot_id))


def _recorded(
    name: CheckpointKey,
    snapshot: Snapshot,
    reason: str,
    *kinds: type[SnapshotPinned | SnapshotUnpinned | SnapshotInvalidated | SnapshotRetried],
) -> Decision:
    number, snapshot_id = snapshot.incarnation, snapshot.snapshot_id
    events = (kind(key=name, incarnation=number, snapshot_id=snapshot_id, reason=reason) for kind in kinds)
    return _noted(name, snapshot, *events)


def _pin(name: CheckpointKey, snapshot: Snapshot, wish: SnapshotRequest) -> Decision:
    if snapshot.status is SnapshotStatus.SUPERSEDED and snapshot.takes_room:
        return _recorded(name, snapshot, wish.because, SnapshotRetried, SnapshotPinned)
    if snapshot.pinned:
        return _noted(name, snapshot)
    if snapshot.status is not SnapshotStatus.VALID:
        return _not_valid(snapshot)
    return _recorded(name, snapshot, wish.because, SnapshotPinned)


def _unpin(name: CheckpointKey, snapshot: Snapshot, wish: SnapshotRequest) -> Decision:
    if not snapshot.pinned:
        return _noted(name, snapshot)
    return _recorded(name, snapshot, wish.because, SnapshotUnpinned)


def _invalidate(name: CheckpointKey, snapshot: Snapshot, wish: SnapshotRequest) -> Decision:
    if snapshot.status is SnapshotStatus.INVALIDATED:
        return _noted(name, snapshot)
    if snapshot.status is not SnapshotStatus.VALID:
        return _not_valid(snapshot)
    return _recorded(name, snapshot, wish.because or "it was requested", SnapshotInvalidated)


def _retry(state: State, name: CheckpointKey, snapshot: Snapshot, asked: SnapshotAsked, now: datetime) -> Decision:
    if snapshot.status is SnapshotStatus.CAPTURED:
        return store_now(state, name, snapshot, asked, now)
    is_there = snapshot.status is SnapshotStatus.VALID or snapshot.status in RULED_OUT
    if not is_there or not snapshot.takes_room:
        return _not_valid(snapshot)
    return _recorded(name, snapshot, asked.request.because, SnapshotRetried)


def _not_valid(snapshot: Snapshot) -> Decision:
    return refuse(
        "snapshot-not-valid",
        f"Snapshot {snapshot.snapshot_id} is {snapshot.status}, not valid",
        "A valid snapshot can be pinned, retried and invalidated; a superseded one pinned and retried; one that was invalidated and is still stored, or was captured and is not stored yet, retried.",
    )


def _delete(
    state: State,
    name: CheckpointKey,
    key: KeyState,
    snapshot: Snapshot,
    asked: SnapshotAsked,
    now: datetime,
    policy: Policy,
) -> Decision:
    """Have a snapshot deleted at once: without the grace that an expiry by policy gives."""
    wish, status = asked.request, snapshot.status
    if status is SnapshotStatus.DELETED or snapshot.is_due(now):
        return _noted(name, snapshot)
    if status.in_flight or not snapshot.takes_room:
        return refuse(
            "snapshot-not-stored",
            f"Snapshot {snapshot.snapshot_id} is {status}; the store holds nothing of it",
            "Delete it once it is stored." if status.in_flight else "There is nothing to delete.",
        )
    if snapshot.pinned:
        return refuse(
            "snapshot-pinned",
            f"Snapshot {snapshot.snapshot_id} is pinned",
            f"`woodfrog unpin {snapshot.snapshot_id}` first, if it is not needed any more.",
        )
    if snapshot.snapshot_id in in_use(key, now, policy.retention.grace_seconds, lost_nodes(state)):
        return refuse(
            "snapshot-in-use",
            f"A container of {name} is being restored from snapshot {snapshot.snapshot_id}",
            "Delete it once the container runs.",
        )
    if snapshot is latest_valid(key) and not wish.force:
        return refuse(
            "latest-snapshot",
            f"Snapshot {snapshot.snapshot_id} is the latest valid one of {name}: the next start would resume from it",
            "Delete an older one; or use --force, and the next start goes back to the one before, or starts cold.",
        )
    expiry = Expiry(snapshot, wish.because or "its deletion was requested")
    return _noted(name, snapshot, expired(name, expiry, now, grace_seconds=0.0))


def checkpoint(state: State, asked: CheckpointAsked, now: datetime, policy: Policy) -> Decision:
    """Ask the key's running container for a dump. While one is under way, a second wish is the same wish."""
    request = asked.request
    key = state.keys.get(request.key, KeyState())
    if not 0 < request.timeout_seconds <= policy.longest_command_seconds:
        return refuse(
            "invalid-timeout",
            f"A checkpoint cannot be given {request.timeout_seconds:g} seconds",
            f"Give it more than 0 and at most {policy.longest_command_seconds:g} seconds.",
        )
    quota = over_bytes(state, request.key, policy.quotas)
    if quota is not None:
        return Decision(answer=Refusal(failure=quota))
    incarnation = key.running
    if incarnation is None or incarnation.node is None or incarnation.container_id is None:
        return refuse("not-running", _why_not_running(request.key, key.current), "Ask again while its container runs.")
    node = state.nodes.get(incarnation.node)
    if node is not None and node.lost:
        return refuse(
            "node-lost",
            f"Node {incarnation.node}, where {request.key} runs, has not been heard of",
            "Check the node and its worker; ask again when it is back.",
        )
    if request.only_check:
        return _checked(request, incarnation, asked.command_id, now)
    for command in state.commands.values():
        same = isinstance(command, DumpCommand) and command.key == request.key
        if same and command.command_id == incarnation.dump_command and now < command.deadline:
            return Decision(answer=CommandAccepted(command_id=command.command_id))
    if any(s.incarnation == incarnation.number and s.is_under_way for s in key.snapshots.values()):
        return refuse(
            "dump-in-flight",
            f"{request.key} is being dumped already",
            "Wait for that dump; it will be the latest snapshot.",
        )
    deadline = now + timedelta(seconds=request.timeout_seconds)
    issued = demand(request.key, incarnation, asked.command_id, now, deadline)
    return Decision(events=(issued,), answer=CommandAccepted(command_id=asked.command_id))


def _checked(request: CheckpointRequest, start: Incarnation, command_id: CommandId, now: datetime) -> Decision:
    """Ask for a look, which harms nothing however often it is asked for."""
    assert start.node is not None
    assert start.container_id is not None
    command = CheckCommand(
        command_id=command_id,
        node=start.node,
        key=request.key,
        incarnation=start.number,
        container_id=start.container_id,
        issued_at=now,
        deadline=now + timedelta(seconds=request.timeout_seconds),
    )
    issued = CommandIssued(key=request.key, incarnation=start.number, command=command)
    return Decision(events=(issued,), answer=CommandAccepted(command_id=command_id))


def demand(
    key: CheckpointKey, start: Incarnation, command_id: CommandId, now: datetime, deadline: datetime
) -> CommandIssued:
    """Put into words that a running container be dumped and left running."""
    assert start.node is not None
    assert start.container_id is not None
    command = DumpCommand(
        command_id=command_id,
        node=start.node,
        key=key,
        incarnation=start.number,
        container_id=start.container_id,
        issued_at=now,
        deadline=deadline,
    )
    return CommandIssued(key=key, incarnation=start.number, command=command)


def _why_not_running(key: CheckpointKey, incarnation: Incarnation | None) -> str:
    if incarnation is None:
        return f"Nothing was ever started as {key}"
    if incarnation.ended:
        return f"The container of {key} has ended (incarnation {incarnation.number} on node {incarnation.node})"
    return f"The container of {key} has not started yet (incarnation {incarnation.number} on node {incarnation.node})"
