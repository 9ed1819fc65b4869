"""The newest snapshot that a container has resumed from outlives newer ones that nobody has restored yet."""

from __future__ import annotations

import pytest
from support.world import World

from controlplane.domain import Keep, Policy, Retention, SnapshotStatus
from woodfrog.protocol.ids import SnapshotId
from woodfrog.protocol.requests import RestoreFrom

pytestmark = pytest.mark.timeout(20)

ONE = Policy(retention=Retention(default=Keep(last=1)))


def valid(world: World) -> set[str]:
    world.later(1)
    return {name for name, one in world.key.snapshots.items() if one.status is SnapshotStatus.VALID}


def test_keep_last_1_keeps_the_one_that_was_proved_by_a_restore_until_a_newer_one_is() -> None:
    world = World("a", policy=ONE)
    world.run("c1")
    world.snapshot(1, "s1")
    world.snapshot(1, "s2")
    assert valid(world) == {"s2"}, "nothing is proved yet"
    world.ended(1)
    answer = world.ask("c2").answer
    assert isinstance(answer, RestoreFrom)
    assert answer.snapshot_id == "s2"
    world.started(2, restored_from="s2")
    for name in ("s3", "s4"):
        world.snapshot(2, name)
    assert valid(world) == {"s2", "s4"}
    world.ended(2)
    world.ask("c3")
    world.started(3, restored_from="s4")
    assert valid(world) == {"s4"}


def test_it_is_what_a_start_falls_back_to() -> None:
    world = World("a", policy=ONE)
    world.run("c1")
    world.snapshot(1, "s1")
    world.ended(1)
    world.ask("c2")
    world.started(2, restored_from="s1")
    world.snapshot(2, "s2")
    world.ended(2)
    assert valid(world) == {"s1", "s2"}
    world.ask("c3")
    world.restore_failed(3, "s2")
    answer = world.ask("c3").answer
    assert isinstance(answer, RestoreFrom)
    assert answer.snapshot_id == SnapshotId("s1")
