"""What follows from an input: told as short stories of containers and their dumps."""

from __future__ import annotations

from datetime import timedelta

import pytest
from support.world import BROKEN, CORRUPT, KEY, World, stored_event, types

from controlplane.domain import (
    CheckpointAsked,
    Decision,
    NodeSilent,
    Policy,
    ResolveAsked,
    SnapshotStatus,
    decide,
    evolve,
)
from woodfrog.protocol.commands import CheckCommand, DumpCommand
from woodfrog.protocol.events import (
    CommandFinished,
    CommandIssued,
    ContainerStarted,
    DumpFailed,
    DumpStage,
    NodeLost,
    NodeRegistered,
    Outcome,
    RestoreChosen,
    RestoreStage,
    SnapshotInvalidated,
    SnapshotSuperseded,
)
from woodfrog.protocol.facts import ContainerFacts, NodeFacts
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import CheckpointKey, CommandId, IncarnationNumber, NodeName, WorkerId
from woodfrog.protocol.requests import (
    CheckpointRequest,
    CommandAccepted,
    Refusal,
    ResolveRequest,
    RestoreFrom,
    StartCold,
    WaitFor,
)

pytestmark = pytest.mark.timeout(5)


def refused(decision: Decision) -> Failure:
    assert isinstance(decision.answer, Refusal), decision
    assert decision.events == ()
    return decision.answer.failure


def restored(decision: Decision) -> str:
    assert isinstance(decision.answer, RestoreFrom), decision
    return decision.answer.snapshot_id


class TestStarting:
    def test_a_first_start_opens_incarnation_one_cold(self) -> None:
        decision = World("a").ask("c1")
        assert types(decision) == ["incarnation.opened", "incarnation.cold-start-chosen"]
        assert decision.answer == StartCold(incarnation=1, reason="no snapshot of this id is known")

    def test_the_next_start_goes_on_from_the_latest_valid_snapshot_and_names_its_digest(self) -> None:
        world = World("a")
        world.run("c1")
        world.snapshot(1, "s1")
        world.snapshot(1, "s2", final=True)
        decision = world.ask("c2")
        assert types(decision) == ["incarnation.opened", "incarnation.restore-chosen"]
        assert decision.answer == RestoreFrom(
            incarnation=2,
            snapshot_id="s2",
            manifest_digest="digest of s2",
            reason="s2 of incarnation 1 is the newest snapshot",
        )

    def test_the_same_container_asking_again_gets_the_same_answer_and_nothing_is_recorded(self) -> None:
        world = World("a")
        first = world.ask("c1")
        again = world.ask("c1")
        assert again == Decision(answer=first.answer)

    def test_the_same_answer_is_told_again_though_a_newer_snapshot_became_valid_meanwhile(self) -> None:
        world = World("a")
        world.run("c1")
        world.snapshot(1, "s1")
        first = world.ask("c2")
        world.snapshot(1, "s2")
        assert world.ask("c2") == Decision(answer=first.answer)

    def test_a_choice_that_was_condemned_meanwhile_is_not_told_again(self) -> None:
        world = World("a", "b")
        world.run("c1")
        world.snapshot(1, "s1")
        world.ended(1)
        world.ask("c2", "b")
        world.ask("c3")
        world.restore_failed(2, "s1", CORRUPT)
        assert isinstance(world.ask("c3").answer, StartCold)

    def test_a_container_id_that_is_used_again_after_its_container_started_begins_a_new_incarnation(self) -> None:
        world = World("a")
        assert world.run("same") == 1
        assert world.run("same") == 2

    def test_a_container_id_that_is_used_again_after_a_creation_that_came_to_nothing_begins_a_new_incarnation(
        self,
    ) -> None:
        world = World("a")
        world.ask("same")
        world.ended(1)
        assert world.run("same") == 2

    def test_a_question_that_comes_after_its_start_was_given_up_opens_no_other(self) -> None:
        world = World("a")
        world.ask("same", create="first")
        world.ended(1, exit_code=None, never_ran=True)
        late = world.ask("same", create="first")
        assert (refused(late).code, late.events) == ("start-given-up", ())
        assert getattr(world.ask("same", create="second").answer, "incarnation", None) == 2

    @pytest.mark.parametrize("exit_code", [None, 0, 1])
    def test_nor_does_one_that_comes_after_its_container_ran(self, exit_code: int | None) -> None:
        world = World("a")
        world.run("same", create="first")
        assert refused(world.ask("same", create="first")).code == "start-given-up"
        world.ended(1, exit_code=exit_code)
        assert refused(world.ask("same", create="first")).code == "start-given-up"
        assert world.run("same", create="second") == 2

    def test_a_create_of_an_older_worker_is_found_by_its_container(self) -> None:
        world = World("a")
        world.ask("same")
        assert getattr(world.ask("same", create="named-since").answer, "incarnation", None) == 1

    def test_who_has_given_a_start_up_learns_its_number_and_opens_none(self) -> None:
        world = World("a", "b")

        def named(**asked: str) -> int:
            decision = world.ask("c1", **asked, given_up=True)
            assert decision.events == ()
            assert isinstance(decision.answer, Refusal)
            return decision.answer.incarnation

        assert named(create="one") == 0
        world.ask("c1", create="one")
        assert named(create="one") == 1
        assert (named(create="another"), named(create="one", node="b")) == (0, 0)
        world.ended(1, exit_code=None, never_ran=True)
        assert named(create="one") == 0

    def test_the_same_container_id_on_two_nodes_names_two_containers(self) -> None:
        world = World("a", "b")
        assert (world.run("same", "a"), world.run("same", "b")) == (1, 2)

    def test_an_older_incarnation_that_asks_after_a_newer_one_was_opened_is_refused(self) -> None:
        world = World("a", "b")
        world.ask("c1")
        world.ask("c2", "b")
        failure = refused(world.ask("c1"))
        assert failure.code == "superseded"
        assert "superseded by incarnation 2 on node b" in failure.cause

    def test_two_namespaces_use_one_id_and_see_nothing_of_each_other(self) -> None:
        world = World("a")
        world.run("c1")
        world.snapshot(1, "s1")
        other = CheckpointKey(KEY.cluster, "other", KEY.id)
        assert isinstance(world.ask("c2", key=other).answer, StartCold)

    @pytest.mark.parametrize("bad", ["", "../escape", "a/b", "x" * 300, "tab\t"])
    def test_a_key_that_may_not_be_one_is_refused_and_opens_nothing(self, bad: str) -> None:
        assert refused(World("a").ask("c1", key=CheckpointKey("lab", "default", bad))).code == "invalid-id"


class TestHandingOver:
    def test_a_replacement_waits_for_the_dump_in_flight_and_then_goes_on_from_it(self) -> None:
        world = World("a", "b")
        world.run("c1")
        world.snapshot(1, "s1")
        world.dump(1, "s2")
        waiting = world.ask("c2", "b")
        assert types(waiting) == ["incarnation.opened", "incarnation.start-deferred"]
        assert waiting.answer == WaitFor(
            incarnation=2,
            waiting_for="the final dump s2 of incarnation 1 on node a",
            until=world.now + timedelta(seconds=120),
        )
        world.captured(1, "s2")
        world.later(5)
        assert world.ask("c2", "b") == Decision(answer=waiting.answer)
        world.stored(1, "s2")
        assert restored(world.ask("c2", "b")) == "s2"

    def test_a_wait_is_over_when_its_time_is_and_the_older_snapshot_is_taken(self) -> None:
        world = World("a", "b", policy=Policy(handover_seconds=10))
        world.run("c1")
        world.snapshot(1, "s1")
        world.dump(1, "s2")
        world.ask("c2", "b")
        world.later(9)
        assert isinstance(world.ask("c2", "b").answer, WaitFor)
        world.later(1)
        assert restored(world.ask("c2", "b")) == "s1"

    def test_nobody_waits_for_a_node_that_is_lost(self) -> None:
        world = World("a", "b")
        world.run("c1")
        world.snapshot(1, "s1")
        world.dump(1, "s2")
        assert isinstance(world.ask("c2", "b").answer, WaitFor)
        world.silent("a")
        assert restored(world.ask("c2", "b")) == "s1"

    def test_a_start_whose_awaited_dump_fails_takes_the_snapshot_before(self) -> None:
        world = World("a", "b")
        world.run("c1")
        world.snapshot(1, "s1")
        world.dump(1, "s2")
        world.ask("c2", "b")
        world.dump_failed(1, "s2")
        assert restored(world.ask("c2", "b")) == "s1"

    def test_a_third_start_waits_for_the_first_ones_dump_when_the_second_never_got_an_answer(self) -> None:
        world = World("a", "b")
        world.run("c1")
        world.dump(1, "s1")
        world.ask("c2", "b")
        assert isinstance(world.ask("c3", "b").answer, WaitFor)
        world.stored(1, "s1")
        assert restored(world.ask("c3", "b")) == "s1"


class TestSuperseding:
    def test_a_late_dump_of_a_superseded_container_never_becomes_the_latest(self) -> None:
        world = World("a", "b")
        world.run("c1")
        world.snapshot(1, "s1")
        world.silent("a")
        world.run("c2", "b")
        decision = world.snapshot(1, "late")
        assert types(decision) == ["snapshot.stored", "snapshot.superseded"]
        assert decision.events[1] == SnapshotSuperseded(key=KEY, incarnation=1, snapshot_id="late", by=2)
        world.ended(2)
        assert restored(world.ask("c3")) == "s1"

    def test_what_is_stored_between_choice_and_start_is_superseded_at_the_start(self) -> None:
        world = World("a", "b")
        world.run("c1")
        world.snapshot(1, "s1")
        world.silent("a")
        world.ask("c2", "b")
        assert types(world.snapshot(1, "late")) == ["snapshot.stored"]
        assert types(world.started(2)) == ["container.started", "snapshot.superseded"]

    def test_what_is_stored_between_choice_and_failed_restore_is_the_next_choice(self) -> None:
        world = World("a", "b")
        world.run("c1")
        world.snapshot(1, "s1")
        world.silent("a")
        world.ask("c2", "b")
        world.snapshot(1, "late")
        world.restore_failed(2, "s1")
        assert restored(world.ask("c2", "b")) == "late"
        assert types(world.started(2)) == ["container.started"]

    def test_a_container_that_is_dumped_has_run_though_nobody_reported_its_start(self) -> None:
        world = World("a", "b")
        world.run("c1")
        world.ask("c2", "b")
        world.dump(2, "s2")
        assert types(world.snapshot(1, "late")) == ["snapshot.stored", "snapshot.superseded"]
        assert types(world.ask("c2", "b"))[0] == "incarnation.opened"

    def test_a_start_that_has_its_answer_counts_as_started_once_a_newer_one_is_opened(self) -> None:
        world = World("a", "b")
        world.run("c1")
        world.snapshot(1, "s1")
        world.silent("a")
        world.ask("c2", "b")
        world.snapshot(1, "late")
        third = world.ask("c3", "b")
        assert types(third) == ["incarnation.opened", "snapshot.superseded", "incarnation.restore-chosen"]
        assert restored(third) == "s1"

    def test_a_start_that_came_to_nothing_supersedes_nothing_that_is_stored_afterwards(self) -> None:
        world = World("a", "b")
        world.run("c1")
        world.snapshot(1, "s1")
        world.silent("a")
        assert restored(world.ask("c2", "b")) == "s1"
        world.ended(2, exit_code=None, never_ran=True)
        assert types(world.snapshot(1, "s2")) == ["snapshot.stored"]
        world.ended(1)
        third = world.ask("c3", "b")
        assert types(third) == ["incarnation.opened", "incarnation.restore-chosen"]
        assert restored(third) == "s2"

    def test_what_came_too_late_for_a_start_alone_that_came_to_nothing_competes_again(self) -> None:
        world = World("a", "b")
        world.run("c1")
        world.snapshot(1, "s1")
        world.silent("a")
        world.ask("c2", "b")
        world.snapshot(1, "late")
        world.ended(2, exit_code=None, never_ran=True)
        assert restored(world.ask("c3", "b")) == "late"

    def test_a_start_that_was_overtaken_and_came_to_nothing_leaves_the_turn_to_the_one_before(self) -> None:
        world = World("a", "b")
        world.run("c1")
        world.snapshot(1, "s1")
        world.silent("a")
        world.ask("c2", "b")
        world.ask("c3", "b")  # c2 counts as started from here on
        world.ended(2, exit_code=None, never_ran=True)
        world.ended(3, exit_code=None, never_ran=True)
        world.snapshot(1, "s2")
        assert restored(world.ask("c4", "b")) == "s2"

    def test_a_start_that_waits_is_not_superseded_by_one_that_came_to_nothing(self) -> None:
        world = World("a", "b")
        world.run("c1")
        assert isinstance(world.ask("c2", "b").answer, WaitFor)
        assert isinstance(world.ask("c3", "b").answer, WaitFor)
        refused = world.ask("c2", "b").answer
        assert isinstance(refused, Refusal)
        assert refused.incarnation == 2, "so that its worker can say that it came to nothing"
        world.ended(3, exit_code=None, never_ran=True)
        answer = world.ask("c2", "b").answer
        assert isinstance(answer, WaitFor)
        assert answer.incarnation == 2
        commands = [event for event, _ in world.log if isinstance(event, CommandIssued)]
        assert len(commands) == 1, "the container before is asked for one dump"

    @pytest.mark.parametrize("how", ["ended", "started", "dumped"])
    def test_a_start_that_may_have_run_holds_back_whatever_its_end(self, how: str) -> None:
        world = World("a", "b")
        world.run("c1")
        world.snapshot(1, "s1")
        world.silent("a")
        world.ask("c2", "b")
        if how == "started":
            world.started(2)
        if how == "dumped":
            world.dump(2, "s2")
            world.dump_failed(2, "s2")
        world.ended(2, exit_code=None, never_ran=how != "ended")
        world.snapshot(1, "late")
        assert restored(world.ask("c3", "b")) == "s1"

    def test_an_upload_that_ends_after_a_newer_dumps_does_not_make_the_older_dump_the_latest(self) -> None:
        world = World("a")
        world.run("c1")
        for name in ("s1", "s2"):
            world.dump(1, name, final=False)
            world.captured(1, name)
        world.stored(1, "s2")
        world.stored(1, "s1")
        world.ended(1)
        assert restored(world.ask("c2")) == "s2"

    def test_a_valid_snapshot_that_was_passed_over_as_a_misfit_is_not_superseded(self) -> None:
        world = World("a", "b")
        world.run("c1")
        world.snapshot(1, "s1", taken_from=ContainerFacts(image="one"))
        world.ended(1)
        assert isinstance(world.ask("c2", "b", container=ContainerFacts(image="two")).answer, StartCold)
        world.started(2)
        assert restored(world.ask("c3", container=ContainerFacts(image="one"))) == "s1"


class TestFailedRestores:
    def test_after_a_failed_restore_the_same_start_gets_the_snapshot_before_and_at_last_cold(self) -> None:
        world = World("a")
        world.run("c1")
        world.snapshot(1, "s1")
        world.snapshot(1, "s2")
        world.ended(1)
        assert restored(world.ask("c2")) == "s2"
        assert types(world.restore_failed(2, "s2")) == ["incarnation.restore-failed"]
        second = world.ask("c2")
        assert types(second) == ["incarnation.restore-chosen"]
        assert restored(second) == "s1"
        world.restore_failed(2, "s1")
        assert isinstance(world.ask("c2").answer, StartCold)

    def test_a_snapshot_proved_corrupt_is_invalidated_at_once(self) -> None:
        world = World("a")
        world.run("c1")
        world.snapshot(1, "s1")
        world.ended(1)
        world.ask("c2")
        decision = world.restore_failed(2, "s1", CORRUPT, RestoreStage.FETCH)
        assert decision.events[1:] == (
            SnapshotInvalidated(
                key=KEY, incarnation=1, snapshot_id="s1", reason="A chunk differs from its digest (found on node a)"
            ),
        )

    def test_a_snapshot_that_fails_on_two_nodes_is_invalidated_and_tried_on_no_third(self) -> None:
        world = World("a", "b", "c")
        world.run("c1")
        world.snapshot(1, "s1")
        world.ended(1)
        assert restored(world.ask("c2", "a")) == "s1"
        world.restore_failed(2, "s1")
        assert restored(world.ask("c3", "b")) == "s1"
        decision = world.restore_failed(3, "s1")
        assert types(decision) == ["incarnation.restore-failed", "snapshot.invalidated"]
        assert isinstance(world.ask("c4", "c").answer, StartCold)

    def test_failing_twice_on_one_node_with_two_images_condemns_nothing(self) -> None:
        world = World("a")
        world.run("c1")
        world.snapshot(1, "s1")
        world.ended(1)
        for number, image in ((2, "one"), (3, "two")):
            assert restored(world.ask(f"c{number}", container=ContainerFacts(image=image))) == "s1"
            world.restore_failed(number, "s1")
        assert world.key.snapshots["s1"].status is SnapshotStatus.VALID

    def test_a_store_that_was_away_costs_the_snapshot_this_start_only(self) -> None:
        world = World("a", "b")
        world.run("c1")
        world.snapshot(1, "s1")
        world.ended(1)
        away = Failure("store-unreachable", "The store did not answer", "Check it.")
        for number, node in ((2, "a"), (3, "b")):
            assert restored(world.ask(f"c{number}", node)) == "s1"
            assert types(world.restore_failed(number, "s1", away, RestoreStage.FETCH)) == ["incarnation.restore-failed"]
            assert isinstance(world.ask(f"c{number}", node).answer, StartCold)
        assert restored(world.ask("c4", "a")) == "s1"


class TestCheckpoints:
    def test_a_running_container_is_sent_one_command_with_a_deadline(self) -> None:
        world = World("a")
        world.run("c1")
        decision = world.checkpoint("k1", timeout_seconds=60)
        command = DumpCommand(
            CommandId("k1"),
            NodeName("a"),
            KEY,
            IncarnationNumber(1),
            "c1",
            world.now,
            world.now + timedelta(seconds=60),
        )
        assert decision == Decision(
            events=(CommandIssued(key=KEY, incarnation=1, command=command),), answer=CommandAccepted(command_id="k1")
        )

    def test_a_second_wish_while_the_command_is_open_is_answered_with_the_first(self) -> None:
        world = World("a")
        world.run("c1")
        world.checkpoint("k1")
        world.dump(1, "s1", final=False, command="k1")
        assert world.checkpoint("k2") == Decision(answer=CommandAccepted(command_id="k1"))

    def test_the_stored_snapshot_ends_its_command_once(self) -> None:
        world = World("a")
        world.run("c1")
        world.checkpoint("k1")
        world.dump(1, "s1", final=False, command="k1")
        world.captured(1, "s1")
        assert world.stored(1, "s1", command="k1").events[1:] == (
            CommandFinished(key=KEY, incarnation=1, command_id="k1", outcome=Outcome.SUCCEEDED),
        )
        finished = CommandFinished(key=KEY, incarnation=1, command_id=CommandId("k1"), outcome=Outcome.FAILED)
        assert world.report(finished, node="a") == Decision()
        assert world.state.commands == {}

    def test_a_failed_dump_ends_its_command_with_the_reason(self) -> None:
        world = World("a")
        world.run("c1")
        world.checkpoint("k1")
        world.dump(1, "s1", final=False, command="k1")
        assert world.dump_failed(1, "s1", command="k1").events[1:] == (
            CommandFinished(key=KEY, incarnation=1, command_id="k1", outcome=Outcome.FAILED, failure=BROKEN),
        )

    def test_a_dump_of_one_container_does_not_end_the_command_of_another(self) -> None:
        world = World("a")
        world.run("c1")
        world.ended(1)
        world.run("c2")
        world.checkpoint("k1")
        assert "command.finished" not in types(world.stored(1, "s1", command="k1"))
        assert list(world.state.commands) == ["k1"]

    def test_a_worker_may_end_its_own_command_without_a_dump(self) -> None:
        world = World("a", "b")
        world.run("c1")
        world.checkpoint("k1")
        finished = CommandFinished(
            key=KEY,
            incarnation=IncarnationNumber(1),
            command_id=CommandId("k1"),
            outcome=Outcome.FAILED,
            failure=BROKEN,
        )
        assert "was given to incarnation 1 on node a" in str(world.report(finished, node="b").rejected)
        assert world.report(finished, node="a").events == (finished,)

    def test_a_command_expires_at_its_deadline_and_what_is_stored_later_does_not_end_it_again(self) -> None:
        world = World("a")
        world.run("c1")
        world.checkpoint("k1", timeout_seconds=60)
        world.dump(1, "s1", final=False, command="k1")
        assert world.later(59).events == ()
        (expired,) = world.later(1).events
        assert isinstance(expired, CommandFinished)
        assert (expired.command_id, expired.outcome) == ("k1", Outcome.EXPIRED)
        assert expired.failure is not None
        assert types(world.stored(1, "s1", command="k1")) == ["snapshot.stored"]

    def test_a_command_past_its_deadline_does_not_swallow_a_new_wish(self) -> None:
        world = World("a")
        world.run("c1")
        world.checkpoint("k1", timeout_seconds=60)
        world.now += timedelta(seconds=60)
        assert types(world.checkpoint("k2")) == ["command.issued"]

    @pytest.mark.parametrize(
        ("story", "code", "cause"),
        [
            ([], "not-running", "Nothing was ever started as lab/default/trainer"),
            (["ask"], "not-running", "has not started yet (incarnation 1 on node a)"),
            (["run", "end"], "not-running", "has ended (incarnation 1 on node a)"),
            (["run", "lose"], "node-lost", "Node a, where lab/default/trainer runs, has not been heard of"),
            (["run", "stop"], "dump-in-flight", "is being dumped already"),
        ],
    )
    def test_what_cannot_be_dumped_now_is_refused_with_the_reason(
        self, story: list[str], code: str, cause: str
    ) -> None:
        world = World("a")
        steps = {
            "ask": lambda: world.ask("c1"),
            "run": lambda: world.run("c1"),
            "end": lambda: world.ended(1),
            "lose": lambda: world.silent("a"),
            "stop": lambda: world.dump(1, "s1"),
        }
        for step in story:
            steps[step]()
        failure = refused(world.checkpoint("k1"))
        assert failure.code == code
        assert cause in failure.cause
        assert failure.advice

    @pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), 1e300])
    def test_a_time_that_cannot_be_given_is_refused(self, seconds: float) -> None:
        world = World("a")
        world.run("c1")
        assert refused(world.checkpoint("k1", timeout_seconds=seconds)).code == "invalid-timeout"


class TestNodes:
    def test_silence_loses_a_node_once_and_a_word_brings_it_back_once(self) -> None:
        world = World("a")
        assert world.silent("a").events == (NodeLost(node="a", worker_id="worker-a", silent_seconds=15.0),)
        assert world.silent("a") == Decision()
        assert types(world.heard("a")) == ["node.returned"]
        assert world.heard("a") == Decision()

    def test_the_silence_of_an_earlier_life_loses_nothing(self) -> None:
        world = World("a")
        world.register("a", worker="second")
        assert world.silent("a", worker="worker-a") == Decision()

    def test_a_late_word_of_an_earlier_life_neither_registers_it_again_nor_brings_the_node_back(self) -> None:
        world = World("a")
        world.register("a", worker="second")
        assert world.heard("a", worker="worker-a") == Decision()
        world.silent("a", worker="second")
        assert world.register("a") == Decision()
        assert world.state.nodes["a"].lost

    def test_a_worker_whose_earlier_lifes_word_came_after_its_own_sign_of_life_is_not_lost_for_ever(self) -> None:
        world = World("a")
        world.silent("a")
        world.heard("a", worker="third")
        world.register("a", worker="second")  # said while nobody listened, and confirmed only now
        assert world.register("a", worker="third") == Decision()
        world.silent("a", worker="second")
        assert types(world.heard("a", worker="third")) == ["node.registered"]
        assert (world.state.nodes["a"].worker_id, world.state.nodes["a"].lost) == ("third", False)

    def test_a_heartbeat_registers_a_worker_that_the_log_does_not_know(self) -> None:
        world = World()
        assert types(world.heard("a")) == ["node.registered"]
        assert world.register("a") == Decision()

    def test_the_silence_of_an_unknown_node_says_nothing(self) -> None:
        assert World().silent("a") == Decision()


class TestTestimony:
    def test_every_report_delivered_again_says_nothing_new(self) -> None:
        world = World("a", "b")
        world.run("c1")
        world.snapshot(1, "s1")
        world.silent("a")
        world.ask("c2", "b")
        world.restore_failed(2, "s1")
        world.dump(1, "s2")
        world.dump_failed(1, "s2")
        world.ended(1)
        before = len(world.log)
        for again in (
            world.register("a"),
            world.started(1),
            world.dump(1, "s1"),
            world.captured(1, "s1"),
            world.stored(1, "s1"),
            world.restore_failed(2, "s1"),
            world.dump_failed(1, "s2"),
            world.ended(1),
        ):
            assert again == Decision()
        assert len(world.log) == before

    def test_a_report_of_an_earlier_life_is_late_and_no_less_true(self) -> None:
        world = World("a")
        world.run("c1")
        world.register("a", worker="second")
        event = stored_event(**world.about(1, "s1"))
        assert types(world.report(event, worker="worker-a")) == ["snapshot.stored"]

    def test_a_node_that_never_registered_is_not_believed(self) -> None:
        world = World("a")
        world.ask("c1", "b")
        assert world.started(1).rejected == "node b is not registered"

    def test_a_node_cannot_speak_for_another(self) -> None:
        world = World("a", "b")
        world.run("c1")
        assert world.report(stored_event(**world.about(1, "s1")), node="b").rejected == "node b reports about node a"

    def test_a_node_cannot_claim_a_snapshot_of_another_nodes_container(self) -> None:
        world = World("a", "b")
        world.run("c1")
        stolen = {**world.about(1, "s1"), "node": NodeName("b")}
        assert "is on node a, not on b" in str(world.report(stored_event(**stolen)).rejected)

    def test_a_worker_cannot_register_another(self) -> None:
        world = World("a")
        other = NodeRegistered(
            node=NodeName("b"), worker_id=WorkerId("w"), boot_id="", facts=world.state.nodes["a"].facts
        )
        assert "registers another" in str(world.report(other, node="a").rejected)

    def test_what_was_never_opened_cannot_be_reported_on(self) -> None:
        world = World("a")
        world.run("c1")
        invented = {**world.about(1, "s1"), "incarnation": IncarnationNumber(7)}
        assert "incarnation 7 of lab/default/trainer was never opened" in str(
            world.report(stored_event(**invented)).rejected
        )

    def test_another_container_cannot_start_as_the_incarnation(self) -> None:
        world = World("a")
        world.ask("c1")
        event = ContainerStarted(key=KEY, incarnation=IncarnationNumber(1), node=NodeName("a"), container_id="c9")
        assert "is container c1, not c9" in str(world.report(event).rejected)

    def test_a_restore_that_nobody_was_told_to_try_cannot_fail(self) -> None:
        world = World("a")
        world.run("c1")
        world.snapshot(1, "s1")
        assert "was not asked to restore" in str(world.restore_failed(1, "s1", CORRUPT).rejected)
        assert world.key.snapshots["s1"].status is SnapshotStatus.VALID

    def test_a_dump_has_one_end(self) -> None:
        world = World("a")
        world.run("c1")
        world.dump(1, "bad")
        world.dump_failed(1, "bad")
        assert "was reported as failed" in str(world.stored(1, "bad").rejected)
        world.snapshot(1, "good")
        late = DumpFailed(**world.about(1, "good"), stage=DumpStage.STORE, failure=BROKEN)
        assert "was reported as stored" in str(world.report(late).rejected)

    def test_a_snapshot_belongs_to_one_incarnation(self) -> None:
        world = World("a")
        world.run("c1")
        world.snapshot(1, "s1")
        world.run("c2")
        assert "is of incarnation 1 on node a" in str(world.stored(2, "s1").rejected)

    def test_a_report_whose_dump_start_was_lost_is_believed(self) -> None:
        world = World("a")
        world.run("c1")
        assert types(world.stored(1, "s1")) == ["snapshot.stored"]
        world.ended(1)
        assert restored(world.ask("c2")) == "s1"


def test_a_decision_changes_nothing_by_itself() -> None:
    def story() -> World:
        world = World("a")
        world.run("c1")
        world.snapshot(1, "s1")
        return world

    world = story()
    silence = NodeSilent(NodeName("a"), WorkerId("worker-a"), 15.0, "silence")
    wish = CheckpointAsked(CheckpointRequest(KEY), CommandId("k1"), "wish")
    request = ResolveRequest(KEY, "c2", NodeName("a"), WorkerId("worker-a"), NodeFacts(), ContainerFacts(), 0)
    for given in (silence, wish, ResolveAsked(request, "ask")):
        assert decide(world.state, given, world.now, world.policy).events
    assert world.state == story().state


class TestACheck:
    ASKED = CheckpointAsked(CheckpointRequest(KEY, 30.0, only_check=True), CommandId("k1"), "check")

    def test_it_is_a_command_to_look_and_dumps_nothing(self) -> None:
        world = World("a")
        world.run("c1")
        decided = decide(world.state, self.ASKED, world.now, world.policy)
        (issued,) = decided.events
        assert isinstance(issued, CommandIssued)
        assert isinstance(issued.command, CheckCommand)
        assert issued.command.deadline == world.now + timedelta(seconds=30)
        before = {name: key.incarnations for name, key in world.state.keys.items()}
        evolve(world.state, issued, world.now)
        assert {name: key.incarnations for name, key in world.state.keys.items()} == before
        assert not any(key.snapshots for key in world.state.keys.values())

    def test_it_is_asked_during_a_dump_too_and_never_of_what_does_not_run(self) -> None:
        world = World("a")
        refused = decide(world.state, self.ASKED, world.now, world.policy)
        assert isinstance(refused.answer, Refusal)
        assert refused.answer.failure.code == "not-running"
        world.run("c1")
        world.dump(1, "s1")
        assert isinstance(decide(world.state, self.ASKED, world.now, world.policy).answer, CommandAccepted)


def test_a_choice_is_recorded_with_its_reason() -> None:
    world = World("a")
    world.run("c1")
    world.snapshot(1, "good")
    world.dump(1, "bad")
    world.dump_failed(1, "bad")
    choice = world.ask("c2").events[-1]
    assert isinstance(choice, RestoreChosen)
    assert choice.reason == (
        "good of incarnation 1 is the newest usable snapshot; "
        "newer bad skipped: its dump failed: CRIU could not restore the processes"
    )
