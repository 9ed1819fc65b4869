"""What time brings: commands whose time is up, snapshots that expire, bytes to be removed, dumps that are due.

A tick comes about once a second. It looks after every open command and a share of the ids, so that what it costs is bounded
however many there are; with no more ids than that share, each of them is looked after by every tick.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import islice

from controlplane.domain.drain import to_be_dumped
from controlplane.domain.id_expiry import forgotten, is_idle, last_expiries
from controlplane.domain.inputs import Decision, Policy, Tick
from controlplane.domain.quotas import over_bytes
from controlplane.domain.retention import expired, expiries
from controlplane.domain.schedule import due_at
from controlplane.domain.state import KeyState, Snapshot, SnapshotStatus, State
from controlplane.domain.stores import remover
from controlplane.domain.user_requests import demand
from woodfrog.protocol.commands import Command, DeleteCommand, DumpCommand
from woodfrog.protocol.events import CommandFinished, CommandIssued, Event, Outcome
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import CheckpointKey, CommandId, event_id

KEYS_A_TICK = 2000
"""Over how many ids a tick looks."""
_MOST_A_TICK = 200
"""How many events one tick may lead to; what is left over, the next ticks see to."""


def upkeep(state: State, tick: Tick, now: datetime, policy: Policy) -> Decision:
    """Say what has come due."""
    events: list[Event] = list(_overdue(state, now))
    commanded = {command.key for command in state.commands.values()}
    for name, key in _share(state, tick.turn):
        idle_seconds = policy.forgetting.of(name)
        if idle_seconds is not None and name not in commanded and is_idle(key, state.nodes, idle_seconds, now):
            events += _of_idle_key(state, name, key, idle_seconds, tick.source, now, policy)
        else:
            events += _of_key(state, name, key, tick.source, now, policy)
        if len(events) >= _MOST_A_TICK:
            break
    deadline = now + timedelta(seconds=policy.schedule.dump_seconds)
    asked = {event.key for event in events if isinstance(event, CommandIssued)}
    for name, start in to_be_dumped(state, _share(state, tick.turn), now, policy.dumps_per_node):
        if name not in asked:
            events.append(demand(name, start, _command_id(tick.source, f"{name}/ending"), now, deadline))
    return Decision(events=tuple(events))


def _share(state: State, turn: int) -> Iterator[tuple[CheckpointKey, KeyState]]:
    shares = -(-len(state.keys) // KEYS_A_TICK) or 1
    first = turn % shares * KEYS_A_TICK
    return islice(state.keys.items(), first, first + KEYS_A_TICK)


def _of_idle_key(
    state: State, name: CheckpointKey, key: KeyState, idle_seconds: float, source: str, now: datetime, policy: Policy
) -> Iterator[Event]:
    for expiry in last_expiries(key, idle_seconds):
        yield expired(name, expiry, now, policy.retention.grace_seconds)
    yield from _deletions(state, name, key, source, now, policy)
    end = forgotten(name, key, state.nodes, idle_seconds, now)
    if end is not None:
        yield end


def _of_key(
    state: State, name: CheckpointKey, key: KeyState, source: str, now: datetime, policy: Policy
) -> Iterator[Event]:
    retention = policy.retention
    for expiry in expiries(key, retention, retention.of(name), now):
        yield expired(name, expiry, now, retention.grace_seconds)
    yield from _deletions(state, name, key, source, now, policy)
    due = due_at(name, key, state.nodes, policy.schedule)
    if due is not None and now >= due and over_bytes(state, name, policy.quotas) is None:
        start = key.running
        assert start is not None
        assert start.node is not None
        assert start.container_id is not None
        yield _issued(
            DumpCommand(
                command_id=_command_id(source, str(name)),
                node=start.node,
                key=name,
                incarnation=start.number,
                container_id=start.container_id,
                issued_at=now,
                deadline=now + timedelta(seconds=policy.schedule.dump_seconds),
                scheduled=True,
            )
        )


def _deletions(
    state: State, name: CheckpointKey, key: KeyState, source: str, now: datetime, policy: Policy
) -> Iterator[Event]:
    """Have removed what has expired. Nothing that was in use did, and what has expired is not chosen any more."""
    for snapshot in key.snapshots.values():
        if not _to_be_deleted(snapshot, now):
            continue
        node = remover(state.nodes, snapshot)
        if node is not None:
            yield _issued(
                DeleteCommand(
                    command_id=_command_id(source, snapshot.snapshot_id),
                    node=node,
                    key=name,
                    incarnation=snapshot.incarnation,
                    snapshot_id=snapshot.snapshot_id,
                    issued_at=now,
                    deadline=now + timedelta(seconds=policy.delete_seconds),
                    store=snapshot.taken_on.store,
                )
            )


def _to_be_deleted(snapshot: Snapshot, now: datetime) -> bool:
    return (
        snapshot.status is SnapshotStatus.EXPIRED
        and snapshot.deleting is None
        and (snapshot.delete_after is None or now >= snapshot.delete_after)
        and (snapshot.delete_again_at is None or now >= snapshot.delete_again_at)
    )


def _command_id(source: str, about: str) -> CommandId:
    """Name a command after the tick that led to it, so that the same tick decided twice gives the same command."""
    return CommandId(str(event_id(f"{source}/{about}", 0)))


def _issued(command: Command) -> CommandIssued:
    return CommandIssued(key=command.key, incarnation=command.incarnation, command=command)


def _overdue(state: State, now: datetime) -> Iterator[CommandFinished]:
    failure = Failure(
        code="command-expired",
        cause="Nothing was heard of the command before its deadline",
        advice="Check that the node's worker runs, then ask again, with more time if the container is large.",
    )
    for command in state.commands.values():
        if now >= command.deadline:
            yield CommandFinished(
                key=command.key,
                incarnation=command.incarnation,
                command_id=command.command_id,
                outcome=Outcome.EXPIRED,
                failure=failure,
            )
