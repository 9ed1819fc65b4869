"""Rules that only a fault of Woodfrog breaks, found in the log."""

from __future__ import annotations

import pytest
from support.world import BROKEN, KEY, World

from controlplane.domain import KeyState
from controlplane.domain.invariants import Rule, found_in, violated
from protocol.events import ColdStartChosen, ContainerStarted, DumpFailed, DumpStage, RestoreFailed, RestoreStage
from protocol.failures import Failure
from protocol.ids import ContainerId, IncarnationNumber, NodeName, SnapshotId

pytestmark = pytest.mark.timeout(10)


def rules(world: World) -> list[Rule]:
    """Which rules are broken in a world's log."""
    return [each.rule for each in found_in(world.log)]


def restored() -> World:
    """An id whose second container continues from the snapshot of the first."""
    world = World("a", "b")
    world.run("c1")
    world.snapshot(1, "s1")
    world.ended(1, exit_code=137)
    world.ask("c2", "b")
    world.started(2, restored_from="s1")
    return world


def restore_failed(code: str) -> RestoreFailed:
    failure = Failure(code, "cause", "advice")
    return RestoreFailed(
        key=KEY, incarnation=IncarnationNumber(2), snapshot_id=SnapshotId("s1"), node=NodeName("b"), stage=RestoreStage.CRIU, failure=failure
    )  # fmt: skip


def test_an_ordinary_life_breaks_no_rule() -> None:
    assert rules(restored()) == []


def test_a_cold_start_that_leaves_work_behind_must_say_so() -> None:
    world = restored()
    cold = ColdStartChosen(key=KEY, incarnation=IncarnationNumber(3), reason="no snapshot is usable")
    assert found_in([*world.log, (cold, world.now)])[0].rule is Rule.SILENT_COLD_START
    said = ColdStartChosen(key=KEY, incarnation=IncarnationNumber(3), reason="no snapshot is usable", left=1)
    assert found_in([*world.log, (said, world.now)]) == []


@pytest.mark.parametrize(("code", "broken"), [("criu-failed", [Rule.UNRESTORABLE]), ("address-taken", [])])
def test_a_valid_snapshot_that_cannot_be_restored_breaks_one_unless_the_place_was_at_fault(
    code: str, broken: list[Rule]
) -> None:
    world = restored()
    assert [each.rule for each in found_in([*world.log, (restore_failed(code), world.now)])] == broken


def test_the_last_capture_of_a_container_must_be_stored() -> None:
    world = World("a")
    world.run("c1")
    world.dump(1, "s1")
    world.captured(1, "s1")
    failed = DumpFailed(
        key=KEY, incarnation=IncarnationNumber(1), snapshot_id=SnapshotId("s1"), node=NodeName("a"), stage=DumpStage.STORE, failure=BROKEN
    )  # fmt: skip
    assert [each.rule for each in found_in([*world.log, (failed, world.now)])] == [Rule.LOST_CAPTURE]


def test_a_snapshot_is_restored_in_one_container_at_a_time() -> None:
    world = restored()
    third = ContainerStarted(
        key=KEY, incarnation=IncarnationNumber(3), node=NodeName("a"), container_id=ContainerId("c3"), restored_from=SnapshotId("s1")
    )  # fmt: skip
    assert [each.rule for each in found_in([*world.log, (third, world.now)])] == [Rule.RESTORED_TWICE]


def test_a_container_that_is_about_to_end_is_no_second_one() -> None:
    world = restored()
    world.dump(2, "s2", final=True)
    world.dump_failed(2, "s2")
    world.ask("c3", "a")
    world.started(3, restored_from="s1")
    assert world.key.incarnations[IncarnationNumber(2)].running
    assert rules(world) == []


def test_a_start_that_is_forgotten_when_it_is_looked_at_ends_nothing() -> None:
    world = restored()
    started = next(event for event, _ in reversed(world.log) if isinstance(event, ContainerStarted))
    assert violated(started, KeyState(), world.state.nodes) is None
