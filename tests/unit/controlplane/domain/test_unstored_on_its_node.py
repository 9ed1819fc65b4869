"""A capture that the store does not take: its own node starts from it, any other waits for it, and nothing is forgotten meanwhile."""

from __future__ import annotations

from datetime import timedelta

import pytest
from support.world import ANY_NODE, KEY, World, types

from controlplane.domain import SnapshotStatus
from controlplane.domain.captures import Capture, capture_of
from controlplane.domain.prefetch import prefetch
from woodfrog.protocol.commands import StoreCommand
from woodfrog.protocol.events import (
    CommandIssued,
    DumpFailed,
    DumpStage,
    RestoreChosen,
    RestoreStage,
    SnapshotRetried,
    SnapshotSuperseded,
)
from woodfrog.protocol.facts import ContainerFacts, NodeFacts
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import NodeName, SnapshotId
from woodfrog.protocol.requests import Noted, Refusal, RestoreFrom, StartCold, WaitFor

pytestmark = pytest.mark.timeout(5)

LOST = Failure("spool-lost", "the capture is not what was captured", "Take a new checkpoint.")


def away(*, vouched: bool = True, taken_on: NodeFacts = ANY_NODE) -> World:
    """A world whose node a holds the last capture of c1, which is not stored, and an older snapshot that is."""
    world = World("a", "b")
    world.run("c1", "a")
    world.snapshot(1, "old", final=False)
    world.dump(1, "s1")
    world.captured(1, "s1")
    world.delayed(1, "s1", vouched=vouched, taken_on=taken_on)
    world.ended(1)
    return world


def status(world: World, snapshot: str) -> SnapshotStatus:
    return world.state.keys[KEY].snapshots[SnapshotId(snapshot)].status


def next_of(world: World, before: int, container: str) -> int:
    """Start the next one on node a from what is there, and let it be captured and not be stored."""
    number = world.run(container, "a")
    assert number == before + 1
    world.dump(number, f"s{number}")
    world.captured(number, f"s{number}")
    world.delayed(number, f"s{number}")
    world.ended(number)
    return number


def test_its_own_node_starts_from_it_by_the_digest_that_it_reported() -> None:
    answer = away().ask("c2", "a").answer
    assert isinstance(answer, RestoreFrom)
    assert (answer.snapshot_id, answer.manifest_digest, answer.unstored) == ("s1", "local digest of s1", True)
    assert "is the newest snapshot, which is on this node, not stored: store-unreachable since 12:00" in answer.reason
    assert answer.left == 0


def test_another_node_waits_for_it_and_then_says_where_it_could_be_restored() -> None:
    world = away()
    assert isinstance(world.ask("c2", "b").answer, WaitFor)
    world.now += timedelta(minutes=3)
    late = world.ask("c2", "b").answer
    assert isinstance(late, RestoreFrom)
    assert (late.snapshot_id, late.unstored, late.left) == ("old", False, 1)
    assert (
        "it is on node a, not stored: store-unreachable since 12:00, and could be restored there only," in late.reason
    )


def test_what_a_worker_does_not_vouch_for_is_waited_for_as_before() -> None:
    assert isinstance(away(vouched=False).ask("c2", "a").answer, WaitFor)


def test_it_is_held_to_what_the_node_was_when_it_was_captured() -> None:
    world = away(taken_on=NodeFacts(architecture="x86_64"))
    answer = world.ask("c2", "a", facts=NodeFacts(architecture="aarch64")).answer
    assert isinstance(answer, RestoreFrom)
    assert answer.snapshot_id == "old"


def test_once_it_is_stored_the_same_start_is_told_the_digest_in_the_store() -> None:
    world = away()
    world.ask("c2", "a")
    world.stored(1, "s1")
    again = world.ask("c2", "a").answer
    assert isinstance(again, RestoreFrom)
    assert (again.snapshot_id, again.manifest_digest, again.unstored) == ("s1", "digest of s1", False)
    world.started(2)
    assert status(world, "s1") is SnapshotStatus.VALID


def test_one_that_proves_broken_is_left_out_of_this_start_only() -> None:
    world = away()
    world.ask("c2", "a")
    world.restore_failed(2, "s1", LOST, RestoreStage.CRIU)
    fallen_back = world.ask("c2", "a").answer
    assert isinstance(fallen_back, RestoreFrom)
    assert (fallen_back.snapshot_id, fallen_back.left) == ("old", 1)


def test_one_that_came_to_nothing_meanwhile_is_not_told_again() -> None:
    world = away()
    world.ask("c2", "a")
    world.dump_failed(1, "s1")
    answer = world.ask("c2", "a").answer
    assert isinstance(answer, RestoreFrom)
    assert answer.snapshot_id == "old"


def test_a_container_that_ended_without_a_snapshot_begins_there_again() -> None:
    world = away()
    assert world.run("c2", "a") == 2
    world.ended(2)
    answer = world.ask("c3", "a").answer
    assert isinstance(answer, RestoreFrom)
    assert (answer.snapshot_id, answer.unstored) == ("s1", True)


def test_another_node_waits_for_it_also_after_a_start_that_went_on_from_it() -> None:
    world = away()
    world.run("c2", "a")
    world.ended(2)
    assert isinstance(world.ask("c3", "b").answer, WaitFor)


def test_stored_later_than_its_successors_none_of_a_line_is_superseded() -> None:
    world = away()
    newest = 1
    for container in ("c2", "c3"):
        newest = next_of(world, newest, container)
    chosen = [event.snapshot_id for event, _ in world.log if isinstance(event, RestoreChosen)]
    assert chosen == ["s1", "s2"]
    assert world.run("c4", "a") == 4
    world.ended(4)
    for number in (3, 1, 2):
        world.stored(number, f"s{number}")
    assert not [event for event, _ in world.log if isinstance(event, SnapshotSuperseded)]
    assert {status(world, f"s{number}") for number in (1, 2, 3)} == {SnapshotStatus.VALID}
    answer = world.ask("c5", "b").answer
    assert isinstance(answer, RestoreFrom)
    assert answer.snapshot_id == "s3"


def test_a_start_elsewhere_that_went_ahead_without_it_leaves_it_behind_on_its_node_too() -> None:
    world = away()
    world.ask("c2", "b")
    world.now += timedelta(minutes=3)
    world.run("c2", "b")
    world.ended(2)
    answer = world.ask("c3", "a").answer
    assert isinstance(answer, RestoreFrom)
    assert answer.snapshot_id == "old"
    assert "incarnation 2 has started without waiting for it" in answer.reason
    world.stored(1, "s1")
    assert status(world, "s1") is SnapshotStatus.SUPERSEDED


def test_a_container_that_still_runs_beside_an_old_capture_is_dumped_before_its_successor_starts() -> None:
    world = World("a", "b")
    world.run("c1", "a")
    world.dump(1, "old", final=False)
    world.captured(1, "old")
    world.delayed(1, "old")
    world.now += timedelta(hours=3)
    assert isinstance(world.ask("c2", "a").answer, WaitFor)
    (command,) = [event.command for event, _ in world.log if isinstance(event, CommandIssued)]
    assert isinstance(world.ask("c2", "a").answer, WaitFor), "it is not begun"
    world.now += timedelta(seconds=1)
    world.dump(1, "new", final=False, command=command.command_id)
    world.captured(1, "new")
    assert isinstance(world.ask("c2", "a").answer, WaitFor), "it is not known whether the store takes it"
    world.delayed(1, "new")
    answer = world.ask("c2", "a").answer
    assert isinstance(answer, RestoreFrom)
    assert (answer.snapshot_id, answer.unstored) == ("new", True)


def test_stored_between_two_answers_it_is_left_behind_by_the_later_one() -> None:
    world = away()
    world.ask("c2", "a")
    world.ask("c3", "b")
    world.now += timedelta(minutes=3)
    later = world.ask("c3", "b").answer
    assert isinstance(later, RestoreFrom)
    assert later.snapshot_id == "old"
    world.stored(1, "s1")
    world.started(3)
    assert status(world, "s1") is SnapshotStatus.SUPERSEDED


def test_its_work_is_kept_and_its_node_is_not_told_to_fetch_it() -> None:
    world = away()
    key = world.state.keys[KEY]
    assert capture_of(key, world.state.nodes, "", "", has_run=True) is Capture.KEPT
    assert prefetch(world.state, KEY, NodeName("a"), "p", world.now) is None


def test_a_fresh_start_that_is_asked_for_leaves_it() -> None:
    answer = away().ask("c2", "a", container=ContainerFacts(fresh="please")).answer
    assert isinstance(answer, StartCold)
    assert answer.left == 2


def test_a_retry_asks_the_node_that_holds_it_to_store_it_now_once() -> None:
    world = away()
    decided = world.wish("retry", "s1")
    retried, issued = decided.events
    assert isinstance(retried, SnapshotRetried)
    assert isinstance(issued, CommandIssued)
    assert isinstance(issued.command, StoreCommand)
    assert (issued.command.node, issued.command.snapshot_id, issued.command.incarnation) == ("a", "s1", 1)
    assert isinstance(decided.answer, Noted)
    assert decided.answer.command_id == issued.command.command_id
    again = world.wish("retry", "s1")
    assert (again.events, again.answer) == ((), decided.answer)
    assert status(world, "s1") is SnapshotStatus.CAPTURED
    world.stored(1, "s1")
    assert status(world, "s1") is SnapshotStatus.VALID


def test_a_retry_of_one_whose_node_is_away_says_so_and_asks_nobody() -> None:
    world = away()
    world.silent("a")
    refused = world.wish("retry", "s1")
    assert refused.events == ()
    assert isinstance(refused.answer, Refusal)
    assert refused.answer.failure.code == "node-lost"
    assert "is on node a only" in refused.answer.failure.cause


def test_a_retry_of_one_that_is_still_being_dumped_is_refused() -> None:
    world = World("a")
    world.run("c1", "a")
    world.dump(1, "s1")
    refused = world.wish("retry", "s1").answer
    assert isinstance(refused, Refusal)
    assert refused.failure.code == "snapshot-not-valid"


def test_what_a_reinstalled_node_had_captured_is_recorded_as_lost_and_the_next_start_uses_the_one_before() -> None:
    world = away()
    world.register("a", worker="a1", journal="first")
    assert status(world, "s1") is SnapshotStatus.CAPTURED
    world.register("a", worker="a2", journal="second")
    assert status(world, "s1") is SnapshotStatus.FAILED
    (failed,) = [event for event, _ in world.log if isinstance(event, DumpFailed)]
    assert (failed.stage, failed.failure.code) == (DumpStage.STORE, "node-reset")
    answer = world.ask("c2", "b").answer
    assert isinstance(answer, RestoreFrom)
    assert answer.snapshot_id == "old"


@pytest.mark.parametrize("later", ["first", ""], ids=["the same journal", "a worker that does not say"])
def test_a_worker_that_starts_again_on_its_node_loses_nothing(later: str) -> None:
    world = away()
    world.register("a", worker="a3", journal="first")
    world.register("a", worker="a4", journal=later)
    assert status(world, "s1") is SnapshotStatus.CAPTURED
    world.register("a", worker="a5", journal="second")
    assert status(world, "s1") is SnapshotStatus.FAILED


def test_a_dump_that_had_begun_on_a_reinstalled_node_failed_and_other_nodes_keep_theirs() -> None:
    world = World("a", "b")
    world.register("a", worker="a6", journal="of a")
    world.register("b", worker="b7", journal="of b")
    world.run("c1", "a")
    world.dump(1, "s1")
    world.register("b", worker="b8", journal="another")
    assert status(world, "s1") is SnapshotStatus.DUMPING
    world.register("a", worker="a9", journal="another")
    assert status(world, "s1") is SnapshotStatus.FAILED
    (failed,) = [event for event, _ in world.log if isinstance(event, DumpFailed)]
    assert (failed.stage, failed.failure.code) == (DumpStage.CAPTURE, "node-reset")


def test_a_reset_is_seen_by_the_registration_although_a_heartbeat_of_the_new_worker_came_first() -> None:
    world = away()
    world.register("a", worker="b1", journal="first")
    world.heard("a", worker="b2")
    assert world.state.nodes[NodeName("a")].worker_id == "b2"
    world.register("a", worker="b2", journal="second")
    assert status(world, "s1") is SnapshotStatus.FAILED
    assert world.register("a", worker="b2", journal="second").events == (), "told once more"
    assert world.register("a", worker="b1", journal="first").events == (), "the word of an earlier life"
    assert world.state.nodes[NodeName("a")].journal == "second"


def test_the_first_journal_that_is_told_after_a_heartbeat_ends_nothing() -> None:
    world = away()
    world.heard("a", worker="b3")
    world.register("a", worker="b3", journal="first")
    assert world.state.nodes[NodeName("a")].journal == "first"
    assert status(world, "s1") is SnapshotStatus.CAPTURED


def test_a_capture_is_valid_if_the_journal_that_knew_it_comes_back_and_it_is_stored() -> None:
    world = away()
    world.register("a", worker="b4", journal="first")
    world.register("a", worker="b5", journal="of a disk that was mounted too late")
    assert status(world, "s1") is SnapshotStatus.FAILED
    assert types(world.register("a", worker="b6", journal="first")) == ["node.registered"]
    assert world.stored(1, "s1").rejected is None
    assert status(world, "s1") is SnapshotStatus.VALID
    answer = world.ask("c2", "b").answer
    assert isinstance(answer, RestoreFrom)
    assert answer.snapshot_id == "s1"


def test_a_capture_that_comes_back_after_a_start_without_it_is_superseded() -> None:
    world = away()
    world.register("a", worker="b7", journal="first")
    world.register("a", worker="b8", journal="second")
    world.run("c2", "b")
    world.register("a", worker="b9", journal="first")
    assert types(world.stored(1, "s1")) == ["snapshot.stored", "snapshot.superseded"]
    assert status(world, "s1") is SnapshotStatus.SUPERSEDED


def test_one_that_failed_for_another_cause_is_still_not_believed_to_be_stored() -> None:
    world = World("a")
    world.run("c1", "a")
    world.dump(1, "s1")
    world.dump_failed(1, "s1")
    assert world.stored(1, "s1").rejected == "the dump of snapshot s1 was reported as failed"
