"""Forgetting an id: refused while something of it is needed, and complete once the store holds nothing of it."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest
from support.world import KEY, World

from controlplane.domain import Decision, ForgetAsked, SnapshotStatus
from woodfrog.protocol.commands import DeleteCommand
from woodfrog.protocol.events import CheckpointForgotten, CommandFinished, Outcome, SnapshotDeleted, SnapshotStored
from woodfrog.protocol.ids import IncarnationNumber
from woodfrog.protocol.requests import CommandAccepted, ForgetRequest, Forgetting, Refusal, RestoreFrom, StartCold

pytestmark = pytest.mark.timeout(5)


def forget(world: World, *, force: bool = True) -> Decision:
    return world.give(ForgetAsked(ForgetRequest(KEY, "a test", force=force), world.source()))


def used() -> World:
    """A world in which two snapshots of an id are stored, and nothing of it runs."""
    world = World("a")
    world.run("c1", "a")
    world.snapshot(1, "s1", final=False)
    world.snapshot(1, "s2")
    world.ended(1)
    return world


def remove(world: World) -> int:
    """Carry out what nodes are commanded to delete; return how much that was."""
    commands = [command for command in world.state.commands.values() if isinstance(command, DeleteCommand)]
    for command in commands:
        about = {"key": command.key, "incarnation": command.incarnation, "snapshot_id": command.snapshot_id}
        world.report(SnapshotDeleted(**about, node=command.node, command_id=command.command_id), node=command.node)
    return len(commands)


def test_every_snapshot_is_deleted_at_once_and_then_the_id_is_known_no_more() -> None:
    world = used()
    assert forget(world).answer == Forgetting(KEY, 2)
    assert {each.status for each in world.state.keys[KEY].snapshots.values()} == {SnapshotStatus.EXPIRED}
    assert forget(world) == Decision(answer=Forgetting(KEY, 2)), "asked again, it changes nothing"
    world.later(1.0)
    assert remove(world) == 2
    decision = forget(world)
    assert decision.answer == Forgetting(KEY, 0)
    (event,) = decision.events
    assert isinstance(event, CheckpointForgotten)
    assert (event.idle_seconds, event.reason) == (0.0, "a test")
    assert KEY not in world.state.keys
    answer = world.ask("c2", "a").answer
    assert isinstance(answer, StartCold)
    assert answer.incarnation == 2, "a number stands for one start"


@pytest.mark.parametrize(
    ("code", "force"),
    [
        ("latest-snapshot", False),
        ("snapshot-pinned", True),
        ("id-in-use", True),
        ("dump-in-flight", True),
        ("unknown-id", True),
    ],
)
def test_it_is_refused_with_a_reason_and_changes_nothing(code: str, force: bool) -> None:
    world = World("a") if code == "unknown-id" else used()
    if code == "snapshot-pinned":
        world.wish("pin", "s2")
    if code == "id-in-use":
        world.run("c2", "a")
    if code == "dump-in-flight":
        world.run("c2", "a")
        world.dump(2, "s3")
        world.captured(2, "s3")
        world.ended(2)
    decision = forget(world, force=force)
    assert isinstance(decision.answer, Refusal)
    assert decision.answer.failure.code == code
    assert decision.events == ()


def test_an_id_whose_container_was_on_a_lost_node_can_be_forgotten() -> None:
    world = used()
    world.register("b")
    world.run("c2", "b")
    world.silent("b")
    world.later(timedelta(hours=1).total_seconds())
    assert forget(world).answer == Forgetting(KEY, 2)


def test_what_a_lost_node_stores_of_a_forgotten_id_is_refused_as_that_until_the_id_is_started_anew() -> None:
    world = used()
    world.register("b")
    world.run("c2", "b")
    world.captured(2, "s3")
    event = stored_later(world)
    world.silent("b")
    world.later(timedelta(hours=1).total_seconds())
    forget(world)
    world.later(1.0)
    remove(world)
    assert forget(world).answer == Forgetting(KEY, 0)
    world.heard("b")
    late = world.report(event, node="b")
    assert (late.events, late.rejected, late.forgotten) == ((), f"{KEY} was forgotten", True)
    for other in (
        msgspec.structs.replace(event, incarnation=IncarnationNumber(3)),
        msgspec.structs.replace(event, key=msgspec.structs.replace(KEY, namespace="another")),
    ):
        unknown = world.report(other, node="b")
        assert (unknown.rejected is not None, unknown.forgotten) == (True, False), (
            "nothing proves that it was forgotten"
        )
    for node in ("a", "unknown"):
        unknown = world.report(event, node=node)
        assert (unknown.rejected is not None, unknown.forgotten) == (True, False), "another node's word proves nothing"
    world.ask("c3", "a")
    again = world.report(event, node="b")
    assert (again.rejected is not None, again.forgotten) == (True, False)


def stored_later(world: World) -> SnapshotStored:
    """What a node would say of a snapshot that it stores, and has not said yet."""
    another = World("a")
    another.register("b")
    another.run("c1", "a")
    another.run("c2", "b")
    another.captured(2, "s3")
    another.stored(2, "s3")
    (event,) = [event for event, _ in another.log if isinstance(event, SnapshotStored)]
    return event


@pytest.mark.parametrize("lost", [True, False], ids=["its node is lost", "nothing was heard of it"])
def test_an_id_whose_restore_never_ended_can_be_forgotten(lost: bool) -> None:
    world = used()
    world.register("b")
    assert isinstance(world.ask("c2", "b").answer, RestoreFrom)
    if lost:
        world.silent("b")
    world.later(timedelta(hours=1).total_seconds())
    assert forget(world).answer == Forgetting(KEY, 2)
    world.later(1.0)
    assert remove(world) == 2, "nothing waits for that restore"
    assert forget(world).answer == Forgetting(KEY, 0)


def test_commands_that_are_open_end_with_the_id_and_do_not_make_it_known_again() -> None:
    world = used()
    world.run("c2", "a")
    assert isinstance(world.checkpoint("wanted", timeout_seconds=600.0).answer, CommandAccepted)
    world.ended(2)
    forget(world)
    world.later(1.0)
    remove(world)
    command_finished, forgotten = forget(world).events
    assert isinstance(command_finished, CommandFinished)
    assert (command_finished.command_id, command_finished.outcome) == ("wanted", Outcome.EXPIRED)
    assert isinstance(forgotten, CheckpointForgotten)
    world.later(timedelta(hours=1).total_seconds())
    assert KEY not in world.state.keys
    assert not world.state.commands
