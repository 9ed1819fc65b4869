"""Whether the work of a pod that was ended from outside is kept."""

from __future__ import annotations

from msgspec.structs import replace
from support.world import KEY, World

from controlplane.domain import Policy, evolve
from controlplane.domain.captures import Capture, capture_of, together
from controlplane.domain.state import KeyState, SnapshotStatus
from woodfrog.protocol.events import PodTerminating, SnapshotInvalidated
from woodfrog.protocol.facts import ContainerFacts
from woodfrog.protocol.ids import IncarnationNumber, SnapshotId
from woodfrog.protocol.pods import Why

FIRST = ContainerFacts(pod="train-1", pod_uid="u1")
SECOND = ContainerFacts(pod="train-2", pod_uid="u2")


def running() -> World:
    world = World("a", "b")
    world.run("c1", container=FIRST)
    return world


def capture(world: World, uid: str = "u1", *, has_run: bool = True) -> Capture:
    return capture_of(world.state.keys.get(KEY, KeyState()), world.state.nodes, uid, "", has_run=has_run)


def test_a_container_that_runs_may_still_be_dumped() -> None:
    assert capture(running()) is Capture.OPEN


def test_a_dump_that_was_begun_is_open_and_one_that_lies_on_the_node_is_kept() -> None:
    world = running()
    world.dump(1, "s1")
    assert capture(world) is Capture.OPEN
    world.captured(1, "s1")
    assert capture(world) is Capture.KEPT
    world.stored(1, "s1")
    world.ended(1)
    assert capture(world) is Capture.KEPT


def test_an_end_without_a_dump_is_lost() -> None:
    world = running()
    world.ended(1)
    assert capture(world) is Capture.LOST


def test_a_dump_that_failed_is_lost_once_the_container_has_ended() -> None:
    world = running()
    world.dump(1, "s1")
    world.dump_failed(1, "s1")
    assert capture(world) is Capture.OPEN
    world.ended(1)
    assert capture(world) is Capture.LOST


def test_a_lost_node_loses_what_was_never_dumped_and_keeps_what_was() -> None:
    world = running()
    world.silent("a")
    assert capture(world) is Capture.LOST
    world = running()
    world.snapshot(1, "s1")
    world.silent("a")
    assert capture(world) is Capture.KEPT


def test_a_dump_in_flight_on_a_lost_node_is_lost() -> None:
    world = running()
    world.dump(1, "s1")
    world.silent("a")
    assert capture(world) is Capture.LOST


def test_a_pod_that_was_restored_and_ended_undumped_goes_back_to_where_it_was_restored_from() -> None:
    world = running()
    world.snapshot(1, "s1", final=True)
    world.ended(1)
    world.run("c2", "b", container=SECOND)
    world.ended(2)
    assert capture(world, "u2") is Capture.KEPT


def test_a_snapshot_that_served_and_has_expired_was_there() -> None:
    world = running()
    world.snapshot(1, "s1", final=True)
    world.ended(1)
    world.run("c2", "b", container=SECOND)
    world.snapshot(2, "s2")
    key = world.key
    gone = replace(key.snapshots[next(iter(key.snapshots))], status=SnapshotStatus.EXPIRED)
    key = replace(key, snapshots={gone.snapshot_id: gone})
    assert capture_of(key, world.state.nodes, "u1", "", has_run=True) is Capture.KEPT
    assert capture_of(key, world.state.nodes, "u2", "", has_run=True) is Capture.OPEN


def test_a_snapshot_that_proved_unusable_keeps_nothing() -> None:
    world = running()
    world.snapshot(1, "s1", final=True)
    world.ended(1)
    about = {"key": KEY, "incarnation": IncarnationNumber(1), "snapshot_id": SnapshotId("s1")}
    evolve(world.state, SnapshotInvalidated(**about, reason="a chunk differs"), world.now)
    assert capture(world) is Capture.LOST


def test_a_container_that_was_never_started_lost_nothing_and_one_that_nobody_knows_has() -> None:
    world = World("a")
    assert capture(world, has_run=False) is Capture.KEPT
    assert capture(world, has_run=True) is Capture.LOST
    world.ask("c1", container=FIRST)
    assert capture(world) is Capture.KEPT


def test_a_start_that_was_given_up_before_it_ran_lost_nothing() -> None:
    world = running()
    world.ask("c2", "b", container=SECOND)
    world.ended(2, exit_code=None, never_ran=True)
    assert capture(world, "u2") is Capture.KEPT


def test_a_container_whose_owner_wants_no_dump_at_its_stop_is_lost_at_once() -> None:
    world = running()
    event = PodTerminating(
        key=KEY, incarnation=IncarnationNumber(1), pod="train-1", uid="u1", why=Why.DELETED, dumps_at_stop=False
    )
    evolve(world.state, event, world.now)
    assert capture(world) is Capture.LOST


def test_once_a_later_start_runs_no_dump_of_the_earlier_one_is_waited_for() -> None:
    world = World("a", "b", policy=Policy(handover_seconds=0.0))
    world.run("c1", container=FIRST)
    world.run("c2", "b", container=SECOND)
    assert capture(world) is Capture.LOST
    assert capture(world, "u2") is Capture.OPEN


def test_of_several_containers_the_worst_counts() -> None:
    assert together([]) is Capture.KEPT
    assert together([Capture.KEPT, Capture.OPEN]) is Capture.OPEN
    assert together([Capture.OPEN, Capture.LOST, Capture.KEPT]) is Capture.LOST
