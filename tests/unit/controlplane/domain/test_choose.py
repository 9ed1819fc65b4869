"""The selection law, rule by rule: values in, a choice out."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from support.world import NOON

from controlplane.domain import (
    Asker,
    Cold,
    Incarnation,
    KeyState,
    NodeState,
    Restore,
    Snapshot,
    SnapshotStatus,
    Wait,
    choose,
)
from woodfrog.protocol.facts import ContainerFacts, NodeFacts
from woodfrog.protocol.ids import IncarnationNumber, NodeName, SnapshotId, WorkerId

pytestmark = pytest.mark.timeout(5)

IMAGE = ContainerFacts(image_digest="sha256:one")
NODES = {NodeName(name): NodeState(WorkerId(f"worker-{name}")) for name in "ab"}


def snapshot(name: str, incarnation: int, status: str = "valid", **other: Any) -> Snapshot:
    node = NodeName(other.pop("node", "a"))
    return Snapshot(SnapshotId(name), IncarnationNumber(incarnation), node, SnapshotStatus(status), **other)


def key(*snapshots: Snapshot, starts: tuple[Incarnation, ...] = (), latest_start: int = 0) -> KeyState:
    return KeyState(
        {start.number: start for start in starts},
        {one.snapshot_id: one for one in snapshots},
        IncarnationNumber(latest_start),
    )


def asker(
    incarnation: int = 9, node: str = "b", facts: NodeFacts | None = None, container: ContainerFacts = IMAGE
) -> Asker:
    return Asker(NodeName(node), facts or NodeFacts(), container, IncarnationNumber(incarnation))


def chosen(choice: Restore | Wait | Cold) -> str:
    assert isinstance(choice, Restore), choice
    return choice.snapshot_id


def test_a_first_start_is_cold_and_says_so() -> None:
    assert choose(key(), NODES, asker(1), NOON) == Cold("no snapshot of this id is known")


def test_the_newest_incarnation_wins_though_an_older_one_was_stored_after_it() -> None:
    assert chosen(choose(key(snapshot("new", 2), snapshot("old", 1)), NODES, asker(), NOON)) == "new"


def test_within_an_incarnation_the_newest_dump_wins_whatever_its_name_says_of_the_time() -> None:
    assert chosen(choose(key(snapshot("z", 1), snapshot("a", 1)), NODES, asker(), NOON)) == "a"


@pytest.mark.parametrize(
    ("status", "why"),
    [
        ("failed", "its dump failed: disk full"),
        ("invalidated", "it was invalidated: disk full"),
        ("superseded", "it came after the start of incarnation 3 was decided without it"),
    ],
)
def test_what_is_not_valid_is_skipped_and_the_reason_tells_why(status: str, why: str) -> None:
    state = key(snapshot("good", 1), snapshot("bad", 2, status, note="disk full", missed_by=3))
    assert choose(state, NODES, asker(), NOON) == Restore(
        SnapshotId("good"), f"good of incarnation 1 is the newest usable snapshot; newer bad skipped: {why}"
    )


def test_an_older_unusable_snapshot_is_not_mentioned() -> None:
    state = key(snapshot("bad", 1, "invalidated"), snapshot("good", 2))
    choice = choose(state, NODES, asker(), NOON)
    assert choice == Restore(SnapshotId("good"), "good of incarnation 2 is the newest snapshot")


def test_nothing_usable_means_cold_with_every_reason() -> None:
    state = key(snapshot("one", 1, "invalidated", note="rot"), snapshot("two", 2, "failed", note="io_uring"))
    assert choose(state, NODES, asker(), NOON) == Cold(
        "no snapshot is usable; two skipped: its dump failed: io_uring; one skipped: it was invalidated: rot"
    )


def test_many_reasons_are_cut_short() -> None:
    state = key(*(snapshot(f"s{number}", number, "failed", note="full") for number in range(1, 9)))
    choice = choose(state, NODES, asker(), NOON)
    assert isinstance(choice, Cold)
    assert choice.reason.count("skipped") == 5
    assert choice.reason.endswith("; and 3 more")


def test_what_failed_on_this_node_with_this_image_is_not_tried_there_again() -> None:
    failed = snapshot("s", 1, failed_on=frozenset({(NodeName("b"), "sha256:one")}))
    assert isinstance(choose(key(failed), NODES, asker(), NOON), Cold)


@pytest.mark.parametrize(
    "elsewhere", [asker(node="a"), asker(container=ContainerFacts(image_digest="sha256:two"))], ids=["node", "image"]
)
def test_what_failed_here_deserves_a_try_on_another_node_and_with_another_image(elsewhere: Asker) -> None:
    failed = snapshot("s", 1, failed_on=frozenset({(NodeName("b"), "sha256:one")}))
    assert chosen(choose(key(failed), NODES, elsewhere, NOON)) == "s"


def test_what_this_start_has_tried_in_vain_is_not_tried_again_by_it_but_by_the_next() -> None:
    start = Incarnation(IncarnationNumber(2), set_aside=frozenset({SnapshotId("s")}))
    state = key(snapshot("s", 1), starts=(start,))
    assert isinstance(choose(state, NODES, asker(2), NOON), Cold)
    assert chosen(choose(state, NODES, asker(3), NOON)) == "s"


@pytest.mark.parametrize(
    ("taken_on", "taken_from", "facts", "why"),
    [
        (NodeFacts(architecture="aarch64"), IMAGE, NodeFacts(architecture="x86_64"), "architecture aarch64"),
        (NodeFacts(cpu_features=("avx512f", "sse")), IMAGE, NodeFacts(cpu_features=("sse",)), "lacks avx512f"),
        (NodeFacts(), ContainerFacts(image_digest="sha256:two"), NodeFacts(), "image changed from sha256:two"),
    ],
)
def test_a_misfit_is_skipped_for_an_older_one_that_fits(
    taken_on: NodeFacts, taken_from: ContainerFacts, facts: NodeFacts, why: str
) -> None:
    newer = snapshot("newer", 2, taken_on=taken_on, taken_from=taken_from)
    choice = choose(key(snapshot("older", 1), newer), NODES, asker(facts=facts), NOON)
    assert isinstance(choice, Restore)
    assert choice.snapshot_id == "older"
    assert why in choice.reason


def test_a_fact_that_one_side_does_not_know_keeps_nobody_from_restoring() -> None:
    known = snapshot("s", 1, taken_on=NodeFacts(architecture="x86_64", cpu_features=("sse",)), taken_from=IMAGE)
    assert chosen(choose(key(known), NODES, asker(container=ContainerFacts()), NOON)) == "s"


@pytest.mark.parametrize("status", ["dumping", "captured"])
def test_a_newer_dump_in_flight_is_waited_for(status: str) -> None:
    state = key(snapshot("old", 1), snapshot("flying", 1, status, final=True))
    assert choose(state, NODES, asker(), NOON, 30) == Wait(
        "the final dump flying of incarnation 1 on node a", NOON + timedelta(seconds=30)
    )


def test_a_left_running_dump_is_waited_for_as_well_because_it_would_be_newer() -> None:
    choice = choose(key(snapshot("flying", 1, "dumping", final=False)), NODES, asker(), NOON)
    assert isinstance(choice, Wait)
    assert choice.waiting_for.startswith("the dump flying")


def test_a_dump_in_flight_that_would_not_be_chosen_is_not_waited_for() -> None:
    state = key(snapshot("flying", 1, "captured"), snapshot("newer", 2))
    assert chosen(choose(state, NODES, asker(), NOON)) == "newer"


def test_the_wait_ends_when_the_recorded_moment_has_come_however_often_one_asks() -> None:
    until = NOON + timedelta(seconds=10)
    waiting = Incarnation(IncarnationNumber(2), wait_until=until)
    state = key(snapshot("old", 1), snapshot("flying", 1, "dumping"), starts=(waiting,))
    nearly = choose(state, NODES, asker(2), until - timedelta(seconds=1))
    assert isinstance(nearly, Wait)
    assert nearly.until == until
    late = choose(state, NODES, asker(2), until)
    assert isinstance(late, Restore)
    assert late.snapshot_id == "old"
    assert "still being dumped or stored when the time for the hand-over was up" in late.reason


def test_a_hand_over_of_no_seconds_never_waits() -> None:
    assert isinstance(choose(key(snapshot("flying", 1, "dumping")), NODES, asker(), NOON, 0), Cold)


def test_a_dump_on_a_lost_node_is_not_waited_for() -> None:
    lost = {**NODES, NodeName("a"): NodeState(WorkerId("worker-a"), lost=True)}
    choice = choose(key(snapshot("old", 1), snapshot("flying", 1, "dumping")), lost, asker(), NOON)
    assert isinstance(choice, Restore)
    assert choice.snapshot_id == "old"
    assert "node a, which is lost" in choice.reason


def test_a_node_that_asks_is_not_lost_whatever_was_concluded_from_its_silence() -> None:
    lost = {NodeName("a"): NodeState(WorkerId("worker-a"), lost=True)}
    assert isinstance(choose(key(snapshot("flying", 1, "dumping")), lost, asker(node="a"), NOON), Wait)


def test_a_dump_on_a_node_that_nobody_knows_is_waited_for() -> None:
    assert isinstance(choose(key(snapshot("flying", 1, "dumping")), {}, asker(), NOON), Wait)


def test_a_dump_that_will_come_too_late_is_not_waited_for() -> None:
    state = key(snapshot("flying", 1, "dumping"), latest_start=2)
    assert choose(state, NODES, asker(), NOON) == Cold(
        "no snapshot is usable; flying skipped: incarnation 2 has started without waiting for it"
    )


def test_a_dump_that_could_not_run_here_is_not_waited_for() -> None:
    arm = {NodeName("a"): NodeState(WorkerId("worker-a"), NodeFacts(architecture="aarch64"))}
    state = key(snapshot("flying", 1, "dumping"))
    assert isinstance(choose(state, arm, asker(facts=NodeFacts(architecture="x86_64")), NOON), Cold)


def test_a_dump_of_another_image_is_not_waited_for() -> None:
    origin = Incarnation(IncarnationNumber(1), container=ContainerFacts(image_digest="sha256:two"))
    assert isinstance(choose(key(snapshot("flying", 1, "dumping"), starts=(origin,)), NODES, asker(), NOON), Cold)
