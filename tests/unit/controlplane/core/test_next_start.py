"""What a restart would do now and lose is said as the control plane would decide it, and nothing is changed."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from support.world import KEY, World

from controlplane.core.next_start import NextStart, next_start
from controlplane.log.schema import utc_text
from woodfrog.protocol.events import event_type

pytestmark = pytest.mark.timeout(10)


def rows(world: World) -> list[dict[str, Any]]:
    return [
        {
            "position": position,
            "type": event_type(event),
            "schema_version": 1,
            "data": msgspec.to_builtins(event),
            "occurred_at": utc_text(at),
            "recorded_at": utc_text(at),
        }
        for position, (event, at) in enumerate(world.log, 1)
    ]


def asked(world: World) -> NextStart:
    mine = [row for row in rows(world) if "key" in row["data"]]
    nodes = [row for row in rows(world) if "key" not in row["data"]]
    found = next_start(mine, nodes, KEY, world.now)
    assert found is not None
    return found


def test_of_a_container_that_runs_it_is_said_what_its_end_without_a_dump_would_cost() -> None:
    world = World("a")
    number = world.run("c1")
    world.snapshot(number, "s1")
    world.later(600)
    found = asked(world)
    assert (found.node, found.answer, found.snapshot_id, found.lost_seconds) == ("a", "wait", "s1", 600.0)
    first, second, third = found.sentences
    assert first.startswith("A start on node a now would wait for a dump of incarnation 1")
    assert second.startswith("If the container ended before that without a dump, it would resume from snapshot s1: ")
    assert third == "What the container did in the last 10 minutes would be lost."
    assert asked(world) == found


def test_a_container_without_a_snapshot_has_everything_to_lose() -> None:
    world = World("a")
    world.run("c1")
    world.later(5)
    found = asked(world)
    assert (found.snapshot_id, found.lost_seconds) == (None, None)
    assert found.sentences[-2].startswith("If the container ended before that without a dump, it would be cold: ")
    assert found.sentences[-1] == "All that the container did would be lost."


def test_a_container_that_ended_with_a_dump_has_lost_nothing() -> None:
    world = World("a")
    number = world.run("c1")
    world.snapshot(number, "s1", final=True)
    world.ended(number, exit_code=137, stopped=True)
    world.later(3600)
    found = asked(world)
    assert (found.answer, found.snapshot_id, found.lost_seconds) == ("restore", "s1", 0.0)
    assert found.sentences[-1] == "Nothing that the container did would be lost."


def test_what_a_container_did_before_it_ended_alone_counts() -> None:
    world = World("a")
    number = world.run("c1")
    world.snapshot(number, "s1")
    world.later(7200)
    world.ended(number, exit_code=1)
    world.later(90_000)
    found = asked(world)
    assert (found.answer, found.lost_seconds) == ("restore", 7200.0)
    assert found.sentences[-1] == "What the container did in the last 2 hours would be lost."


def test_a_program_that_has_done_its_work_loses_nothing_by_beginning_again() -> None:
    world = World("a")
    number = world.run("c1")
    world.snapshot(number, "s1")
    world.ended(number, exit_code=0, stopped=False)
    assert len(asked(world).sentences) == 1


def test_of_an_id_of_which_nothing_is_known_nothing_is_said() -> None:
    world = World("a")
    assert next_start([], rows(world), KEY, world.now) is None
    world.run("c1")
    assert next_start([row for row in rows(world) if "key" in row["data"]], [], KEY, world.now) is None
