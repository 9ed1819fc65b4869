"""Random lives under random policies: what retention may never do, it never does."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.world import BROKEN, CORRUPT, World

from controlplane.domain import Keep, KeyState, Policy, Restore, Retention, SnapshotAsked, SnapshotStatus, State, evolve
from woodfrog.protocol.commands import DeleteCommand
from woodfrog.protocol.events import CommandIssued, Event, RestoreChosen, SnapshotDeleted, SnapshotExpired
from woodfrog.protocol.ids import SnapshotId
from woodfrog.protocol.requests import SnapshotRequest

pytestmark = pytest.mark.timeout(120)

GRACE_SECONDS = 50.0
KEEPS = st.builds(
    Keep,
    last=st.none() | st.integers(1, 3),
    seconds=st.none() | st.sampled_from([0.0, 30.0, 200.0]),
    bytes=st.none() | st.sampled_from([0, 500, 1400]),
)
ACTIONS = (
    *("run", "start", "dump", "invalidate", "delete", "obey"),
    *("ask", "store", "fail", "pin", "unpin", "tick") * 3,
)
STEPS = st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 7)), min_size=20, max_size=60)


def wish(world: World, what: str, snapshot: str) -> None:
    request = SnapshotRequest("lab", "default", SnapshotId(snapshot), what)  # type: ignore[arg-type]
    world.give(SnapshotAsked(request, world.source()))


def obey(world: World) -> None:
    for command in list(world.state.commands.values()):
        if isinstance(command, DeleteCommand):
            about = {"key": command.key, "incarnation": command.incarnation, "snapshot_id": command.snapshot_id}
            world.report(SnapshotDeleted(**about, node=command.node, command_id=command.command_id), node=command.node)


def play(world: World, action: str, pick: int) -> None:
    name, node = f"s{len(world.log)}", "ab"[pick % 2]
    if action == "run":
        world.run(f"c{len(world.log)}", node)
    elif action == "ask":
        world.ask(f"c{len(world.log)}", node)
    elif action == "tick":
        world.later(10.0 * pick)
    elif action == "obey":
        obey(world)
    elif world.state.keys:
        play_on_newest(world, action, pick, name)


def play_on_newest(world: World, action: str, pick: int, name: str) -> None:
    newest = world.key.newest
    choice = world.key.incarnations[newest].choice
    known = sorted(world.key.snapshots)
    if action == "start":
        world.started(newest)
    elif action == "dump":
        world.dump(max(1, newest - pick % 2), name, final=False)
    elif action == "store":
        world.snapshot(max(1, newest - (pick == 7)), name)
    elif action == "fail":
        if isinstance(choice, Restore):
            world.restore_failed(newest, choice.snapshot_id, CORRUPT if pick < 2 else BROKEN)
    elif known:
        wish(world, action, known[-1 - pick % len(known)])


def latest(key: KeyState) -> str | None:
    """The model: of the snapshots that are valid and not too late, the last one of the last incarnation."""
    valid = [s for s in key.snapshots.values() if s.status is SnapshotStatus.VALID and s.missed_by is None]
    return max(enumerate(valid), key=lambda item: (item[1].incarnation, item[0]))[1].snapshot_id if valid else None


def restoring(key: KeyState) -> set[str]:
    start = key.incarnations[key.newest]
    return (
        {start.choice.snapshot_id} if isinstance(start.choice, Restore) and not start.started | start.ended else set()
    )


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS, KEEPS)
@example(
    [("run", 0), ("store", 0), ("store", 0), ("pin", 1), ("ask", 0), ("unpin", 1), ("tick", 7)], Keep(seconds=30.0)
)
def test_the_latest_the_pinned_and_the_restoring_never_expire_and_nothing_is_chosen_or_deleted_out_of_turn(
    steps: list[tuple[str, int]], keep: Keep
) -> None:
    world = World("a", "b", policy=Policy(retention=Retention(default=keep, grace_seconds=GRACE_SECONDS)))
    state, seen = State(), 0
    expired_at: dict[str, float] = {}
    for action, pick in steps:
        play(world, action, pick)
        for event, at in world.log[seen:]:
            key = state.keys.get(getattr(event, "key", None))  # type: ignore[arg-type]
            if key is not None:
                check(key, event, expired_at, at.timestamp())
            evolve(state, event, at)
        seen = len(world.log)
    assert state == world.state


def check(key: KeyState, event: Event, expired_at: dict[str, float], now_seconds: float) -> None:
    match event:
        case SnapshotExpired(snapshot_id=name):
            assert not key.snapshots[name].pinned
            assert name not in restoring(key)
            assert name != latest(key)
            expired_at.setdefault(name, event.delete_after.timestamp())
            expired_at[name] = min(expired_at[name], event.delete_after.timestamp())
        case RestoreChosen(snapshot_id=name):
            assert name not in expired_at
        case CommandIssued(command=DeleteCommand(snapshot_id=name)):
            assert now_seconds >= expired_at[name]
            assert key.snapshots[name].status is SnapshotStatus.EXPIRED
            assert name not in restoring(key)
        case SnapshotDeleted(snapshot_id=name):
            assert name in expired_at


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(1, 4), st.integers(1, 12))
def test_keep_last_n_leaves_exactly_the_last_n_of_a_container_that_runs(last: int, count: int) -> None:
    world = World("a", policy=Policy(retention=Retention(default=Keep(last=last))))
    world.run("c1")
    for number in range(count):
        world.now += timedelta(seconds=1)
        world.snapshot(1, f"s{number:02}")
    valid = [name for name, snapshot in world.key.snapshots.items() if snapshot.status is SnapshotStatus.VALID]
    assert valid == [f"s{number:02}" for number in range(count)][-last:]
