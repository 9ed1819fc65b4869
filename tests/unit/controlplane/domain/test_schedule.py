"""When a container is dumped without anybody asking."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from support.world import KEY, World, types

from controlplane.domain import Policy, Schedule, Tick
from controlplane.domain.maintenance import KEYS_A_TICK
from controlplane.domain.schedule import due_at
from woodfrog.protocol.commands import DumpCommand
from woodfrog.protocol.events import CommandIssued
from woodfrog.protocol.facts import ContainerFacts
from woodfrog.protocol.ids import CheckpointKey, CommandId
from woodfrog.protocol.requests import CommandAccepted, StartCold

pytestmark = pytest.mark.timeout(5)

EVERY_MINUTE = Policy(schedule=Schedule(default_seconds=60.0))


def asked(world: World) -> list[DumpCommand]:
    return [
        event.command
        for event, _ in world.log
        if isinstance(event, CommandIssued) and isinstance(event.command, DumpCommand)
    ]


def running(policy: Policy = EVERY_MINUTE, **how: Any) -> World:
    world = World("a", policy=policy)
    world.run("c1", **how)
    return world


def pass_time(world: World, seconds: int) -> list[int]:
    """Tick every second; tell at which second of these a dump was asked for."""
    return [second for second in range(1, seconds + 1) if "command.issued" in types(world.later(1))]


def obey(world: World, snapshot: str) -> None:
    command = asked(world)[-1].command_id
    world.dump(1, snapshot, final=False, command=command)
    world.captured(1, snapshot)
    world.stored(1, snapshot, command=command)


def test_nothing_is_dumped_unless_somebody_asks_for_it() -> None:
    assert pass_time(running(Policy()), 1000) == []


def test_the_first_dump_comes_within_the_interval_and_the_others_an_interval_apart() -> None:
    world = running()
    (first,) = pass_time(world, 60)
    obey(world, "s1")
    (second,) = pass_time(world, 60)
    assert second == first
    assert asked(world)[0].scheduled


def test_a_start_that_came_to_nothing_ends_no_schedule_drain_or_checkpoint() -> None:
    world = running()
    world.register("b")
    world.silent("a")
    world.ask("c2", "b")
    world.ended(2, exit_code=None, never_ran=True)
    world.heard("a")
    assert len(pass_time(world, 60)) == 1
    obey(world, "s1")
    answer = world.checkpoint("by-hand").answer
    assert isinstance(answer, CommandAccepted)
    assert asked(world)[-1].incarnation == 1


def test_a_container_is_dumped_when_somebody_wants_it_until_a_newer_start_runs() -> None:
    world = running(Policy(handover_seconds=1.0))
    world.ask("c2")  # waits for a dump that does not come, and is given a cold start after that
    world.later(2)
    assert isinstance(world.ask("c2").answer, StartCold)
    answer = world.checkpoint("beside-a-start").answer
    assert isinstance(answer, CommandAccepted)
    assert asked(world)[-1].incarnation == 1
    world.started(2)
    answer = world.checkpoint("once-it-runs").answer
    assert isinstance(answer, CommandAccepted)
    assert asked(world)[-1].incarnation == 2


def test_two_ids_that_start_together_are_dumped_at_different_times() -> None:
    world = running()
    others = [CheckpointKey("lab", "default", f"other-{number}") for number in range(8)]
    start = world.key
    due = {due_at(name, start, world.state.nodes, EVERY_MINUTE.schedule) for name in [KEY, *others]}
    assert len(due) == 9


def test_no_second_dump_is_asked_for_while_one_is_asked_for_or_under_way() -> None:
    world = running()
    assert len(pass_time(world, 300)) == 1
    world = running()
    world.dump(1, "s1", final=False)
    assert pass_time(world, 300) == []
    world.captured(1, "s1")
    assert pass_time(world, 300) == []
    world.stored(1, "s1")
    assert len(pass_time(world, 60)) == 1


def test_a_capture_that_waits_for_its_store_holds_up_no_other_dump_and_is_no_failure() -> None:
    world = running()
    pass_time(world, 60)
    for number in range(4):
        command = asked(world)[-1]
        world.dump(1, f"s{number}", final=False, command=command.command_id)
        world.captured(1, f"s{number}")
        world.delayed(1, f"s{number}")
        if number:
            world.dump_failed(1, f"s{number - 1}")  # the newer one has taken its place
        while asked(world)[-1] == command:
            world.later(1)
        assert (asked(world)[-1].issued_at - command.issued_at).total_seconds() == 60
    assert len(pass_time(world, 500)) == 0, "that one is asked for and not answered"


def test_a_delay_that_is_told_again_for_another_reason_ends_no_later_command() -> None:
    world = running()
    world.dump(1, "s1", final=False)
    world.captured(1, "s1")
    world.delayed(1, "s1")
    pass_time(world, 60)
    command = asked(world)[-1].command_id
    world.delayed(1, "s1")
    assert world.key.incarnations[world.key.newest].dump_command == command


def test_somebody_who_asks_while_a_capture_waits_gets_a_dump_of_his_own() -> None:
    world = running(Policy())
    world.checkpoint("k1")
    world.dump(1, "s1", final=False, command="k1")
    world.captured(1, "s1")
    assert world.checkpoint("k2").answer == CommandAccepted(command_id=CommandId("k1")), "it is being stored"
    world.delayed(1, "s1")
    assert world.checkpoint("k2").answer == CommandAccepted(command_id=CommandId("k2"))


def test_a_dump_that_somebody_asked_for_counts() -> None:
    world = running()
    world.checkpoint("k1")
    world.dump(1, "s1", final=False, command="k1")
    world.stored(1, "s1", command="k1")
    assert pass_time(world, 100) == [60]


def test_failed_dumps_are_asked_for_less_and_less_often_until_one_works() -> None:
    world = running()
    pass_time(world, 60)
    waited = []
    for number in range(8):
        command = asked(world)[-1].command_id
        issued = asked(world)[-1].issued_at
        world.dump(1, f"f{number}", final=False, command=command)
        world.dump_failed(1, f"f{number}", command=command)
        while asked(world)[-1].command_id == command:
            world.later(1)
        waited.append((asked(world)[-1].issued_at - issued).total_seconds())
    assert waited[:3] == [120, 240, 480]
    assert waited[-1] == 3600
    obey(world, "s1")
    assert pass_time(world, 70)[0] <= 60


def test_nothing_is_asked_of_a_container_that_does_not_run_or_whose_node_is_lost() -> None:
    world = World("a", policy=EVERY_MINUTE)
    world.ask("c1")
    assert pass_time(world, 100) == []
    world.started(1)
    world.silent("a")
    assert pass_time(world, 100) == []
    world.heard("a")
    assert len(pass_time(world, 1)) == 1
    world = running()
    world.ended(1)
    assert pass_time(world, 100) == []


def test_what_the_container_says_counts_more_than_any_policy() -> None:
    everywhere = Schedule(default_seconds=5.0, namespaces={"default": 6.0}, ids={("default", "trainer"): 7.0})
    world = running(Policy(schedule=everywhere), container=ContainerFacts(interval_seconds=0.0))
    assert pass_time(world, 100) == []
    world = running(Policy(), container=ContainerFacts(interval_seconds=10.0))
    assert len(pass_time(world, 10)) == 1


def test_the_most_specific_interval_holds() -> None:
    start = running().key.incarnations[1]
    everywhere = Schedule(default_seconds=5.0, namespaces={"default": 0.0}, ids={("default", "other"): 7.0})
    seconds = [
        everywhere.interval_seconds(CheckpointKey("lab", namespace, name), start)
        for namespace, name in (("default", "trainer"), ("default", "other"), ("elsewhere", "trainer"))
    ]
    assert seconds == [0.0, 7.0, 5.0]


def test_with_very_many_ids_each_has_its_turn() -> None:
    world = World("a", policy=Policy())
    template = running().key
    names = [CheckpointKey("lab", "default", f"id-{number}") for number in range(KEYS_A_TICK + 10)]
    world.state.keys.update(dict.fromkeys(names, template))
    world.policy = EVERY_MINUTE
    world.now = running().now
    world.now += timedelta(seconds=61)
    for turn in range(40):
        world.give(Tick(world.source(), turn))
    assert {command.key for command in asked(world)} == set(names)
