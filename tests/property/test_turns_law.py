"""The order of dumps on one node, for any queue: what holds whoever waits and whatever is being captured."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeworker.domain.turns import Waiting, next_turns
from protocol.ids import ContainerId

pytestmark = pytest.mark.timeout(60)

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
CONTAINERS = st.sampled_from("abcdef").map(ContainerId)


@st.composite
def queues(draw: st.DrawFn) -> list[Waiting]:
    """A queue in any order, with repeated containers and equal deadlines."""
    wishes = draw(st.lists(st.tuples(CONTAINERS, st.booleans(), st.integers(0, 3)), max_size=12))
    made = [
        Waiting(container_id=name, final=final, deadline=NOON + timedelta(seconds=seconds), arrival=arrival)
        for arrival, (name, final, seconds) in enumerate(wishes)
    ]
    return draw(st.permutations(made))


def before(one: Waiting, other: Waiting) -> bool:
    """The policy in words: stops first, then the soonest deadline, then who came first."""
    if one.final != other.final:
        return one.final
    if one.deadline != other.deadline:
        return one.deadline < other.deadline
    return one.arrival < other.arrival


@given(queues(), st.sets(CONTAINERS), st.integers(1, 4), st.booleans())
def test_never_too_many_never_a_container_twice_and_nobody_idles(
    queue: list[Waiting], capturing: set[ContainerId], at_once: int, only_final: bool
) -> None:
    begin = next_turns(queue, capturing, at_once, only_final=only_final)
    begun = {one.container_id for one in begin}
    assert len(begun) == len(begin)
    assert not begun & capturing
    assert len(begin) <= max(0, at_once - len(capturing))
    assert set(begin) <= {one for one in queue if one.final or not only_final}
    could = {one.container_id for one in queue if one.final or not only_final} - capturing
    assert len(begin) == min(len(could), max(0, at_once - len(capturing)))


@given(queues(), st.sets(CONTAINERS), st.integers(1, 4))
def test_nobody_who_could_begin_waits_behind_one_that_comes_later(
    queue: list[Waiting], capturing: set[ContainerId], at_once: int
) -> None:
    begin = next_turns(queue, capturing, at_once)
    busy = capturing | {one.container_id for one in begin}
    left = [one for one in queue if one.container_id not in busy]
    assert not any(before(waits, begins) for waits in left for begins in begin)


@given(queues(), st.integers(1, 4))
def test_the_order_in_which_the_queue_is_given_says_nothing(queue: list[Waiting], at_once: int) -> None:
    assert next_turns(queue, (), at_once) == next_turns(list(reversed(queue)), (), at_once)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.integers(1, 10))
def test_one_after_the_other_all_stops_are_in_time_if_any_order_lets_them(slacks: list[int], dump_seconds: int) -> None:
    """Earliest deadline first; that it is the best order for dumps of one length is seen by the bound that holds for any order."""
    queue = [
        Waiting(
            container_id=ContainerId(f"c{number}"), final=True, deadline=NOON + timedelta(seconds=slack), arrival=number
        )
        for number, slack in enumerate(slacks)
    ]
    by_deadline = sorted(slacks)
    feasible = all((place + 1) * dump_seconds <= slack for place, slack in enumerate(by_deadline))
    clock, in_time = 0, True
    while queue:
        (one,) = next_turns(queue, (), 1)
        queue.remove(one)
        clock += dump_seconds
        in_time = in_time and NOON + timedelta(seconds=clock) <= one.deadline
    assert in_time == feasible
