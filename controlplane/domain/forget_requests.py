"""Forgetting an id because somebody wants it: every snapshot of it is deleted, whatever retention says, and then the id is known no more.

It takes as long as the nodes take to remove the bytes. So whoever wants it asks again until nothing is left; what was decided stands if
they stop asking, and the id is then as one without a snapshot.
"""

from __future__ import annotations

from datetime import datetime

from controlplane.domain.decision_builder import DecisionBuilder, refuse
from controlplane.domain.inputs import Decision, ForgetAsked
from controlplane.domain.retention import Expiry, expired, latest_valid
from controlplane.domain.state import State
from controlplane.domain.under_way import under_way
from woodfrog.protocol.events import CheckpointForgotten, CommandFinished, Outcome
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import CheckpointKey
from woodfrog.protocol.requests import Forgetting, Refusal


def forget(state: State, asked: ForgetAsked, now: datetime) -> Decision:
    """Have deleted what is stored of the id, or forget it if nothing is; or say what speaks against it."""
    request = asked.request
    name, key = request.key, state.keys.get(request.key)
    if key is None:
        return refuse(
            "unknown-id",
            f"Nothing is known of {name}",
            "`woodfrog get ids` lists the ids; one without a snapshot may have been forgotten already.",
        )
    if (busy := under_way(state, name, key, now, advice="forget the id then")) is not None:
        return Decision(answer=Refusal(failure=busy))
    for snapshot in key.snapshots.values():
        if snapshot.pinned and snapshot.takes_room:
            return refuse(
                "snapshot-pinned",
                f"Snapshot {snapshot.snapshot_id} of {name} is pinned",
                f"`woodfrog unpin {snapshot.snapshot_id}` first, if it is not needed any more.",
            )
    latest = latest_valid(key)
    if latest is not None and not request.force:
        return refuse(
            "latest-snapshot",
            f"The next start of {name} would resume from snapshot {latest.snapshot_id}",
            "Use --force to delete it with all others; the next start of the id is then cold.",
        )
    course = DecisionBuilder(key, now)
    stored = [snapshot for snapshot in key.snapshots.values() if snapshot.takes_room]
    for snapshot in stored:
        if not snapshot.is_due(now):
            expiry = Expiry(snapshot, request.because or "the id is to be forgotten")
            course.record(expired(name, expiry, now, grace_seconds=0.0))
    if not stored:
        _end_commands(state, course, name)
        course.record(CheckpointForgotten(key=name, incarnation=key.newest, idle_seconds=0.0, reason=request.because))
    return course.decision(Forgetting(key=name, left=len(stored)))


def _end_commands(state: State, course: DecisionBuilder, name: CheckpointKey) -> None:
    """End what is open: there is nothing left that it is about, and its end would make the id known again."""
    failure = Failure("command-expired", "The id was forgotten before anything was heard of the command", "")
    for command in state.commands.values():
        if command.key == name:
            course.record(
                CommandFinished(
                    key=name,
                    incarnation=command.incarnation,
                    command_id=command.command_id,
                    outcome=Outcome.EXPIRED,
                    failure=failure,
                )
            )
