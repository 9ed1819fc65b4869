"""The fold: what it keeps, what it forgets, and that nothing in a log can stop it."""

from __future__ import annotations

import pytest
from support.world import ANY_NODE, BROKEN, KEY, NOON, World, stored_event

from controlplane.domain import SnapshotStatus, State, evolve
from controlplane.domain.state import REMEMBERED
from woodfrog.protocol.events import (
    DumpFailed,
    DumpStage,
    NodeLost,
    SnapshotCaptured,
    SnapshotInvalidated,
    SnapshotSuperseded,
    StartDeferred,
)
from woodfrog.protocol.ids import IncarnationNumber, NodeName, SnapshotId, WorkerId

pytestmark = pytest.mark.timeout(5)

ABOUT = {"key": KEY, "incarnation": IncarnationNumber(1), "snapshot_id": SnapshotId("s1")}
CAPTURED = SnapshotCaptured(**ABOUT, node=NodeName("a"), freeze_seconds=0.1, raw_bytes=1)
STORED = stored_event(**ABOUT, node=NodeName("a"))
FAILED = DumpFailed(**ABOUT, node=NodeName("a"), stage=DumpStage.STORE, failure=BROKEN)
SUPERSEDED = SnapshotSuperseded(**ABOUT, by=IncarnationNumber(2))
INVALIDATED = SnapshotInvalidated(**ABOUT, reason="rot")


def folded(*events: object) -> State:
    state = State()
    for event in events:
        evolve(state, event, NOON)  # type: ignore[arg-type]
    return state


@pytest.mark.parametrize(
    ("events", "status"),
    [
        ((CAPTURED,), "captured"),
        ((CAPTURED, STORED), "valid"),
        ((STORED, CAPTURED), "valid"),
        ((SUPERSEDED, STORED), "superseded"),
        ((FAILED, CAPTURED), "failed"),
        ((INVALIDATED, STORED), "invalidated"),
    ],
)
def test_a_late_word_does_not_bring_a_snapshots_status_back(events: tuple[object, ...], status: str) -> None:
    assert folded(*events).keys[KEY].snapshots["s1"].status is SnapshotStatus(status)


def test_a_report_on_an_unknown_incarnation_opens_it_so_that_its_number_is_not_given_again() -> None:
    invented = SnapshotCaptured(
        key=KEY, incarnation=IncarnationNumber(5), snapshot_id="s", node="a", freeze_seconds=0, raw_bytes=0
    )
    assert folded(invented).keys[KEY].newest == 5


def test_a_second_deferral_does_not_prolong_the_wait() -> None:
    def deferred(hour: int) -> StartDeferred:
        until = NOON.replace(hour=hour)
        return StartDeferred(key=KEY, incarnation=IncarnationNumber(1), waiting_for="it", until=until)

    assert folded(deferred(13), deferred(14)).keys[KEY].incarnations[1].wait_until == NOON.replace(hour=13)


def test_the_loss_of_an_earlier_life_leaves_the_present_one_as_it_is() -> None:
    world = World("a")
    world.register("a", worker="second")
    evolve(world.state, NodeLost(node=NodeName("a"), worker_id=WorkerId("worker-a"), silent_seconds=15), NOON)
    assert not world.state.nodes["a"].lost


def test_the_loss_of_a_node_that_nobody_registered_is_known() -> None:
    lost = NodeLost(node=NodeName("a"), worker_id=WorkerId("w"), silent_seconds=15)
    assert folded(lost).nodes["a"].lost


def test_a_new_life_of_a_worker_ends_the_loss_of_its_node() -> None:
    world = World("a")
    world.silent("a")
    world.register("a", worker="second")
    assert not world.state.nodes["a"].lost


def test_a_long_life_of_failures_takes_little_memory_and_never_forgets_a_valid_snapshot() -> None:
    world = World("a")
    world.run("first")
    world.snapshot(1, "treasure")
    for number in range(2, 50):
        world.run(f"c{number}")
        world.dump(number, f"s{number}")
        world.dump_failed(number, f"s{number}")
    assert len(world.key.snapshots) == 1 + REMEMBERED
    assert len(world.key.incarnations) <= 1 + 2 * REMEMBERED
    assert world.key.newest == 49
    assert getattr(world.ask("next").answer, "snapshot_id", None) == "treasure"


def test_dumps_that_were_lost_with_their_nodes_do_not_pile_up() -> None:
    world = World("a")
    for number in range(1, 50):
        world.run(f"c{number}")
        world.dump(number, f"s{number}")
        world.silent("a")
        world.heard("a")
    assert len(world.key.snapshots) <= 1 + REMEMBERED


def test_many_lives_of_a_worker_take_little_memory() -> None:
    world = World("a")
    for life in range(50):
        world.register("a", ANY_NODE, worker=f"life-{life}")
    assert len(world.state.nodes["a"].earlier_workers) == REMEMBERED


def test_an_old_report_on_a_forgotten_incarnation_is_put_aside() -> None:
    world = World("a")
    for number in range(1, 50):
        world.run(f"c{number}")
    assert world.stored(1, "s1").rejected == "incarnation 1 of lab/default/trainer is long over"
