"""Rules that only a fault of Woodfrog breaks, found in the log."""

from __future__ import annotations

import msgspec
import pytest
from support.world import KEY, World

from controlplane.domain import KeyState
from controlplane.domain.invariants import Rule, found_in, violated
from woodfrog.protocol.events import (
    ColdStartChosen,
    ContainerStarted,
    DumpFailed,
    DumpStage,
    RestoreFailed,
    RestoreStage,
)
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import ContainerId, IncarnationNumber, NodeName, SnapshotId

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
    cold = ColdStartChosen(key=KEY, incarnation=IncarnationNumber(3), reason="no snapshot is usable", left=0)
    assert found_in([*world.log, (cold, world.now)])[0].rule is Rule.SILENT_COLD_START
    said = ColdStartChosen(key=KEY, incarnation=IncarnationNumber(3), reason="no snapshot is usable", left=1)
    assert found_in([*world.log, (said, world.now)]) == []


def test_a_start_of_which_it_is_not_recorded_whether_it_left_work_behind_breaks_none() -> None:
    world = restored()
    old = {"type": "incarnation.cold-start-chosen", "reason": "no snapshot is usable", "incarnation": 3}
    old["key"] = {"cluster": KEY.cluster, "namespace": KEY.namespace, "id": KEY.id}
    event = msgspec.convert(old, ColdStartChosen)
    assert found_in([*world.log, (event, world.now)]) == []


@pytest.mark.parametrize(("code", "broken"), [("criu-failed", [Rule.UNRESTORABLE]), ("address-taken", [])])
def test_a_valid_snapshot_that_cannot_be_restored_breaks_one_unless_the_place_was_at_fault(
    code: str, broken: list[Rule]
) -> None:
    world = restored()
    assert [each.rule for each in found_in([*world.log, (restore_failed(code), world.now)])] == broken


def captured(*, final: bool = True) -> World:
    world = World("a", "b")
    world.run("c1")
    world.dump(1, "s1", final=final)
    world.captured(1, "s1")
    return world


@pytest.mark.parametrize(
    ("code", "final", "broken"),
    [
        ("internal", True, [Rule.LOST_CAPTURE]),
        ("spool-lost", True, [Rule.LOST_CAPTURE]),
        ("internal", False, []),
        ("spool-corrupt", True, []),
        ("node-restarted", True, []),
    ],
)
def test_the_last_capture_of_a_container_must_be_stored_unless_its_node_lost_it(
    code: str, final: bool, broken: list[Rule]
) -> None:
    world = captured(final=final)
    failed = DumpFailed(
        key=KEY,
        incarnation=IncarnationNumber(1),
        snapshot_id=SnapshotId("s1"),
        node=NodeName("a"),
        stage=DumpStage.STORE,
        failure=Failure(code, "cause", "advice"),
    )
    assert [each.rule for each in found_in([*world.log, (failed, world.now)])] == broken


def test_a_node_that_never_comes_back_breaks_no_rule_and_the_start_without_its_capture_says_so() -> None:
    world = captured()
    world.ended(1)
    world.silent("a")
    world.ask("c2", "b")
    (cold,) = (event for event, _ in world.log if isinstance(event, ColdStartChosen) and event.incarnation == 2)
    assert cold.left == 1
    assert rules(world) == []


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
