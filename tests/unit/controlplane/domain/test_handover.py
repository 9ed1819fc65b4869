"""What a successor does about a predecessor that still runs: wait for its stop, have it dumped, or go on."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from support.world import KEY, World, types

from controlplane.domain import NodeSeen, PodSeen, Policy
from controlplane.domain.drain import SETTLING
from woodfrog.protocol.commands import DumpCommand, PrefetchCommand
from woodfrog.protocol.events import (
    CommandFinished,
    CommandIssued,
    ContainerStarted,
    IncarnationOpened,
    NodeEnding,
    Outcome,
    PodTerminating,
    event_type,
)
from woodfrog.protocol.facts import ContainerFacts
from woodfrog.protocol.ids import CommandId, IncarnationNumber, NodeName
from woodfrog.protocol.pods import (
    CheckpointWanted,
    Ended,
    EndedBecause,
    Gone,
    Happened,
    PodEvent,
    ProtectedContainer,
    Scheduled,
    Terminating,
    Why,
)
from woodfrog.protocol.requests import RestoreFrom, WaitFor

pytestmark = pytest.mark.timeout(5)

POD = ContainerFacts(image="job:1", pod="train-1", pod_uid="u1")
NEXT = ContainerFacts(image="job:1", pod="train-2", pod_uid="u2")


def seen(
    world: World, happened: Happened, *, pod: str = "train-1", uid: str = "u1", node: str = "a", **other: Any
) -> Any:
    told = PodEvent(
        version=1,
        cluster=KEY.cluster,
        namespace=KEY.namespace,
        pod=pod,
        uid=uid,
        node=NodeName(node),
        containers=(ProtectedContainer("main", KEY.id),),
        at=world.now,
        happened=happened,
        **other,
    )
    return world.give(PodSeen(told))


def running(*, handover_seconds: float = 120.0) -> World:
    """A container in pod train-1 on node a, with one snapshot."""
    world = World("a", "b", policy=Policy(handover_seconds=handover_seconds))
    world.run("c1", container=POD)
    world.snapshot(1, "s1")
    return world


def chosen(world: World, node: str = "b") -> Any:
    return world.ask("c2", node, container=NEXT).answer


def cannot(world: World) -> None:
    """The worker says that the container that it shall dump does not run."""
    (command,) = world.state.commands
    world.report(
        CommandFinished(key=KEY, incarnation=IncarnationNumber(1), command_id=command, outcome=Outcome.FAILED), node="a"
    )


class TestAPodThatWasToldToEnd:
    def test_its_successor_waits_before_its_worker_has_said_a_word_and_asks_for_no_other_dump(self) -> None:
        world = running()
        assert types(seen(world, Terminating(why=Why.PREEMPTED, grace_seconds=30))) == ["pod.terminating"]
        decision = world.ask("c2", "b", container=NEXT)
        assert types(decision) == ["incarnation.opened", "incarnation.start-deferred"]
        assert decision.answer == WaitFor(
            incarnation=IncarnationNumber(2),
            waiting_for="the last dump of incarnation 1 in pod train-1 on node a, which was asked to end (preempted)",
            until=world.now + timedelta(seconds=120),
        )

    def test_the_last_dump_is_waited_for_once_it_has_begun_and_gone_on_from(self) -> None:
        world = running()
        seen(world, Terminating(why=Why.DELETED))
        chosen(world)
        world.dump(1, "s2")
        world.ended(1)
        world.later(100)
        assert isinstance(chosen(world), WaitFor)
        world.stored(1, "s2")
        assert chosen(world).snapshot_id == "s2"

    def test_the_wait_ends_when_the_last_dump_fails(self) -> None:
        world = running()
        seen(world, Terminating(why=Why.DELETED))
        chosen(world)
        world.dump(1, "s2")
        world.dump_failed(1, "s2")
        assert chosen(world).snapshot_id == "s1"

    def test_the_wait_ends_when_the_worker_says_that_the_container_has_ended(self) -> None:
        world = running()
        seen(world, Terminating(why=Why.DELETED))
        chosen(world)
        world.ended(1)
        assert chosen(world).snapshot_id == "s1"

    def test_what_the_kubelet_says_of_its_end_does_not_end_the_wait_for_the_worker_may_be_behind(self) -> None:
        world = running()
        seen(world, Terminating(why=Why.DELETED))
        chosen(world)
        seen(world, Ended(container="main", because=EndedBecause.COMPLETED, exit_code=0))
        assert isinstance(chosen(world), WaitFor)

    def test_after_its_grace_period_and_a_margin_its_node_is_asked(self) -> None:
        world = running()
        seen(world, Terminating(why=Why.DELETED, grace_seconds=5))
        chosen(world)
        world.now += timedelta(seconds=19)
        assert types(world.ask("c2", "b", container=NEXT)) == []
        world.now += timedelta(seconds=1)
        assert types(world.ask("c2", "b", container=NEXT)) == ["command.issued"]
        cannot(world)
        answer = chosen(world)
        assert answer.snapshot_id == "s1"
        assert "was asked to end and has not" in answer.reason

    def test_a_pod_deleted_by_force_is_waited_for_a_moment_and_then_asked_about(self) -> None:
        world = running()
        seen(world, Terminating(why=Why.DELETED, grace_seconds=600))
        chosen(world)
        seen(world, Gone())
        assert types(world.ask("c2", "b", container=NEXT)) == []
        world.now += timedelta(seconds=15)
        assert types(world.ask("c2", "b", container=NEXT)) == ["command.issued"]

    def test_a_pod_that_lost_its_node_is_not_waited_for(self) -> None:
        world = running()
        seen(world, Terminating(why=Why.TAINTED))
        assert isinstance(chosen(world), WaitFor)
        world.silent("a")
        assert chosen(world).snapshot_id == "s1"

    def test_one_whose_owner_wants_no_dump_at_its_stop_is_not_waited_for(self) -> None:
        world = running()
        seen(world, Terminating(why=Why.DELETED), annotations={"woodfrog.io/on-stop": "ignore"})
        assert chosen(world).snapshot_id == "s1"

    def test_a_wait_never_exceeds_the_time_for_the_hand_over(self) -> None:
        world = running(handover_seconds=10)
        seen(world, Terminating(why=Why.DELETED, grace_seconds=3600))
        chosen(world)
        world.now += timedelta(seconds=10)
        assert isinstance(chosen(world), RestoreFrom)

    def test_one_whose_dump_could_not_be_restored_here_is_not_waited_for(self) -> None:
        world = running()
        seen(world, Terminating(why=Why.DELETED))
        answer = world.ask("c2", "b", container=ContainerFacts(image="job:2")).answer
        assert getattr(answer, "snapshot_id", None) == "s1"

    def test_being_told_twice_is_recorded_once(self) -> None:
        world = running()
        seen(world, Terminating(why=Why.DELETED))
        assert seen(world, Terminating(why=Why.EVICTED)).events == ()

    def test_news_that_came_before_the_start_was_asked_for_counts(self) -> None:
        world = World("a", "b")
        seen(world, Terminating(why=Why.DELETED))
        world.run("c1", container=POD)
        assert "asked to end" in chosen(world).waiting_for

    def test_a_pod_of_the_same_name_from_before_says_nothing_of_this_one(self) -> None:
        world = running()
        seen(world, Terminating(why=Why.DELETED), uid="u0")
        assert "still runs" in chosen(world).waiting_for


class TestARunningPredecessorOfWhichNobodyKnowsThatItEnds:
    def test_its_node_is_asked_once_to_dump_it_and_the_successor_goes_on_from_that(self) -> None:
        world = running()
        decision = world.ask("c2", "b", container=NEXT)
        assert types(decision) == ["incarnation.opened", "command.issued", "incarnation.start-deferred"]
        (command,) = [event.command for event in decision.events if isinstance(event, CommandIssued)]
        assert isinstance(command, DumpCommand)
        assert (command.node, command.incarnation, command.container_id) == ("a", 1, "c1")
        assert command.deadline == world.now + timedelta(seconds=120)
        assert types(world.ask("c2", "b", container=NEXT)) == []
        world.snapshot(1, "s2", command=command.command_id)
        answer = chosen(world)
        assert answer.snapshot_id == "s2"
        assert (
            "incarnation 1 still runs in pod train-1 on node a and is superseded: two containers use one id"
            in answer.reason
        )

    def test_one_that_its_worker_says_does_not_run_is_not_waited_for(self) -> None:
        world = running()
        chosen(world)
        cannot(world)
        assert chosen(world).snapshot_id == "s1"

    def test_one_whose_node_never_answers_does_not_block_its_successor_for_ever(self) -> None:
        world = running(handover_seconds=20)
        chosen(world)
        world.later(20)
        assert chosen(world).snapshot_id == "s1"

    def test_one_that_is_stopped_meanwhile_is_dumped_again_and_that_counts(self) -> None:
        world = running()
        chosen(world)
        (command,) = world.state.commands
        world.snapshot(1, "s2", command=command)
        world.dump(1, "s3")
        assert isinstance(chosen(world), WaitFor)
        world.stored(1, "s3")
        assert chosen(world).snapshot_id == "s3"

    def test_a_clock_that_is_set_back_does_not_have_it_dumped_again_and_again(self) -> None:
        world = running()
        chosen(world)
        world.now -= timedelta(hours=1)
        (command,) = world.state.commands
        world.snapshot(1, "s2", command=command)
        assert types(world.ask("c2", "b", container=NEXT)) == ["incarnation.restore-chosen"]


class TestWhatElseIsSeen:
    def test_an_annotation_has_the_container_dumped_once_for_each_value(self) -> None:
        world = running()
        decision = seen(world, CheckpointWanted(value="now"))
        assert types(decision) == ["command.issued"]
        first = PodEvent(
            version=1, cluster="c", namespace="n", pod="p", uid="u", containers=(), at=world.now,
            happened=CheckpointWanted(value="now"),
        )  # fmt: skip
        assert first.source == "pod/u/checkpoint-wanted/now"

    def test_a_schedule_is_recorded_for_each_node_once(self) -> None:
        world = World("a")
        assert types(seen(world, Scheduled())) == ["pod.scheduled"]
        assert seen(world, Scheduled()).events == ()

    def test_a_node_that_is_about_to_get_the_container_has_its_snapshot_laid_ready(self) -> None:
        world = running()
        world.ended(1)
        events = seen(world, Scheduled(), pod="train-2", uid="u2", node="b").events
        assert [event_type(event) for event in events] == ["pod.scheduled", "command.issued"]
        command = events[1].command
        assert isinstance(command, PrefetchCommand)
        assert (command.node, command.snapshot_id, command.manifest_digest != "") == ("b", "s1", True)

    def test_nothing_is_laid_ready_while_a_newer_dump_is_still_to_come(self) -> None:
        world = running()
        seen(world, Terminating(why=Why.DELETED, by="", grace_seconds=30))
        assert types(seen(world, Scheduled(), pod="train-2", uid="u2", node="b")) == ["pod.scheduled"]

    def test_nothing_is_laid_ready_on_a_node_without_a_worker(self) -> None:
        world = running()
        world.ended(1)
        assert types(seen(world, Scheduled(), pod="train-2", uid="u2", node="elsewhere")) == ["pod.scheduled"]

    def test_an_id_that_may_not_be_one_is_refused(self) -> None:
        world = World("a")
        told = PodEvent(
            version=1, cluster="lab", namespace="n", pod="p", uid="u", at=world.now, happened=Gone(),
            containers=(ProtectedContainer("main", "../x"),),
        )  # fmt: skip
        assert "checkpoint id" in str(world.give(PodSeen(told)).rejected)

    def test_pods_that_are_gone_are_forgotten_first_and_memory_is_bounded(self) -> None:
        world = World("a")
        for number in range(30):
            seen(world, Terminating(why=Why.DELETED), uid=f"u{number}")
            if number == 7:
                seen(world, Gone(), uid="u7")
        assert len(world.key.pods) == 8

    def test_a_termination_names_who_wanted_it(self) -> None:
        world = running()
        (event,) = seen(world, Terminating(why=Why.PREEMPTED, by="prod/urgent")).events
        assert isinstance(event, PodTerminating)
        assert (event.why, event.by, event.incarnation) == (Why.PREEMPTED, "prod/urgent", 1)


class TestANodeThatIsAboutToEnd:
    def announce(self, world: World, ending: str | None) -> list[str]:
        told = types(world.give(NodeSeen(NodeName("a"), ending, world.source())))
        world.now += SETTLING
        return told

    def test_what_runs_there_is_dumped_once_and_left_running(self) -> None:
        world = running()
        assert self.announce(world, "spot notice") == ["node.ending"]
        assert self.announce(world, "spot notice") == []
        assert types(world.later(1)) == ["command.issued"]
        assert types(world.later(1)) == []
        (command,) = world.state.commands
        world.snapshot(1, "s2", command=command)
        assert types(world.later(1)) == []

    def test_only_so_many_are_dumped_at_once(self) -> None:
        world = World("a", policy=Policy(dumps_per_node=2))
        keys = [type(KEY)("lab", "default", f"job-{number}") for number in range(5)]
        for key in keys:
            number = getattr(world.ask(f"c-{key.id}", key=key).answer, "incarnation")  # noqa: B009
            world.report(start_of(world, key, number))
        self.announce(world, "maintenance")
        assert types(world.later(1)) == ["command.issued"] * 2
        done = next(iter(world.state.commands.values()))
        world.report(
            CommandFinished(
                key=done.key,
                incarnation=done.incarnation,
                command_id=CommandId(done.command_id),
                outcome=Outcome.FAILED,
            ),
            node="a",
        )
        assert types(world.later(1)) == ["command.issued"]

    def test_a_pod_that_was_told_to_end_is_left_to_its_stop(self) -> None:
        world = running()
        self.announce(world, "drain")
        seen(world, Terminating(why=Why.DRAINED))
        assert types(world.later(1)) == []

    def test_a_pod_that_is_told_to_end_a_moment_after_the_notice_is_left_to_its_stop(self) -> None:
        world = running()
        world.give(NodeSeen(NodeName("a"), "drain", world.source()))
        assert types(world.later(1)) == []
        seen(world, Terminating(why=Why.DRAINED))
        assert types(world.later(SETTLING.total_seconds())) == []

    def test_a_node_that_is_spared_is_dumped_again_at_the_next_notice(self) -> None:
        world = running()
        self.announce(world, "drain")
        world.later(1)
        (command,) = world.state.commands
        world.snapshot(1, "s2", command=command)
        assert self.announce(world, None) == ["node.spared"]
        world.later(60)
        assert self.announce(world, "drain") == ["node.ending"]
        assert types(world.later(1)) == ["command.issued"]

    def test_a_new_life_of_its_worker_does_not_spare_the_node(self) -> None:
        world = running()
        self.announce(world, "drain")
        world.register("a", worker="second")
        assert world.state.nodes[NodeName("a")].ending_since is not None

    def test_the_notice_names_its_reason(self) -> None:
        world = running()
        (event,) = world.give(NodeSeen(NodeName("a"), "taint x", "s")).events
        assert isinstance(event, NodeEnding)
        assert event.reason == "taint x"


def start_of(world: World, key: Any, number: int) -> Any:
    start = next(
        event
        for event, _ in world.log
        if isinstance(event, IncarnationOpened) and event.key == key and event.incarnation == number
    )
    return ContainerStarted(key=key, incarnation=start.incarnation, node=start.node, container_id=start.container_id)
