"""Starts without their past: asked for once, and never gone behind; and what any other start leaves behind is counted."""

from __future__ import annotations

import pytest
from support.world import KEY, World

from controlplane.domain import Cold, Restore
from woodfrog.protocol.events import SnapshotRetried
from woodfrog.protocol.facts import ContainerFacts
from woodfrog.protocol.ids import IncarnationNumber, SnapshotId
from woodfrog.protocol.requests import RestoreFrom, StartCold

pytestmark = pytest.mark.timeout(5)

FRESH = ContainerFacts(fresh="monday")


def left_one() -> World:
    world = World("a", "b")
    world.run("c1")
    world.snapshot(1, "s1")
    world.ended(1, exit_code=None)
    return world


def choice(world: World, number: int) -> Restore | Cold | None:
    return world.state.keys[KEY].incarnations[IncarnationNumber(number)].choice


def test_a_fresh_start_is_cold_though_there_is_a_snapshot_and_says_what_it_leaves() -> None:
    world = left_one()
    answer = world.ask("c2", "a", container=FRESH).answer
    assert answer == StartCold(incarnation=IncarnationNumber(2), reason="a fresh start was asked for", left=1)
    assert choice(world, 2) == Cold("a fresh start was asked for", fresh=True, left=1)


def test_each_wish_for_a_fresh_start_counts_once() -> None:
    world = left_one()
    world.run("c2", container=FRESH)
    world.snapshot(2, "s2")
    world.ended(2, exit_code=None)
    again = world.ask("c3", "a", container=FRESH).answer
    assert isinstance(again, RestoreFrom)
    assert again.snapshot_id == "s2"
    another = world.ask("c4", "a", container=ContainerFacts(fresh="tuesday")).answer
    assert isinstance(another, StartCold)


def test_a_wish_is_not_used_up_by_a_container_that_never_ran() -> None:
    world = left_one()
    world.ask("c2", "a", container=FRESH)
    again = world.ask("c3", "a", container=FRESH).answer
    assert isinstance(again, StartCold)
    plain = world.ask("c4", "a").answer
    assert isinstance(plain, RestoreFrom)


def test_no_later_start_goes_back_behind_a_fresh_one_unless_it_is_retried() -> None:
    world = left_one()
    world.run("c2", container=FRESH)
    world.ended(2, exit_code=None)
    later = world.ask("c3", "a").answer
    assert isinstance(later, StartCold)
    assert "incarnation 2 started fresh, as was asked for" in later.reason
    assert later.left == 0
    world.fold(SnapshotRetried(key=KEY, incarnation=IncarnationNumber(1), snapshot_id=SnapshotId("s1")))
    assert isinstance(world.ask("c4", "a").answer, RestoreFrom)


def test_a_cold_start_counts_the_work_that_it_leaves_behind() -> None:
    world = left_one()
    world.ask("c2", "b")
    world.restore_failed(2, "s1")
    answer = world.ask("c2", "b").answer
    assert isinstance(answer, StartCold)
    assert (answer.left, answer.unusable) == (1, 1)
    chosen = choice(world, 2)
    assert isinstance(chosen, Cold)
    assert (chosen.left, chosen.fresh) == (1, False)


def test_an_older_snapshot_that_is_pinned_and_does_not_fit_is_no_later_work() -> None:
    world = left_one()
    world.wish("pin", "s1")
    world.run("c2", "b")
    world.snapshot(2, "s2")
    world.ended(2, exit_code=None)
    world.ask("c3", "b")
    world.restore_failed(3, "s1")
    answer = world.ask("c3", "b").answer
    assert isinstance(answer, RestoreFrom)
    assert (answer.snapshot_id, answer.left) == ("s2", 0)
