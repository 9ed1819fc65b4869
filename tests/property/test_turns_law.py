"""The order of dumps on one node, for any queue: what holds whoever waits and whatever is being captured."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeworker.domain.dump_scheduling import Waiting, next_turns
from woodfrog.protocol.ids import ContainerId

pytestmark = pytest.mark.timeout(60)

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
CONTAINERS = st.sampled_from("abcdefgh").map(ContainerId)
NAMESPACES = st.sampled_from(["one", "two", "three"])


@st.composite
def queues(draw: st.DrawFn, most: int = 12) -> list[Waiting]:
    """A queue in any order, with repeated containers and equal deadlines."""
    homes = {name: draw(NAMESPACES) for name in "abcdefgh"}
    wishes = draw(st.lists(st.tuples(CONTAINERS, st.booleans(), st.integers(0, 3)), max_size=most))
    made = [
        Waiting(
            container_id=name,
            final=final,
            deadline=NOON + timedelta(seconds=seconds),
            arrival=arrival,
            namespace=homes[name],
        )
        for arrival, (name, final, seconds) in enumerate(wishes)
    ]
    return draw(st.permutations(made))


@st.composite
def situations(draw: st.DrawFn) -> tuple[list[Waiting], list[Waiting], int]:
    """Who waits, who is being captured as a queue before made it, and how many may be at once."""
    queue, at_once = draw(queues()), draw(st.integers(1, 6))
    capturing = list(next_turns(queue, (), at_once))[: draw(st.integers(0, 6))]
    waits = [one for one in queue if one not in capturing]
    return waits, capturing, at_once


def before(one: Waiting, other: Waiting) -> bool:
    """The policy in words: stops first, then the soonest deadline, then who came first."""
    if one.final != other.final:
        return one.final
    if one.deadline != other.deadline:
        return one.deadline < other.deadline
    return one.arrival < other.arrival


@given(situations(), st.booleans())
def test_never_too_many_never_a_container_twice_and_no_stop_waits_for_a_free_place(
    situation: tuple[list[Waiting], list[Waiting], int], only_final: bool
) -> None:
    queue, capturing, at_once = situation
    begin = next_turns(queue, capturing, at_once, only_final=only_final)
    begun, busy = {one.container_id for one in begin}, {one.container_id for one in capturing}
    assert len(begun) == len(begin)
    assert not begun & busy
    assert len(begin) <= max(0, at_once - len(capturing))
    assert set(begin) <= {one for one in queue if one.final or not only_final}
    stops = {one.namespace for one in queue if one.final and one.container_id not in busy}
    if len(stops) == 1 and len(capturing) + len(begin) < at_once:
        assert all(one.container_id in begun | busy for one in queue if one.final)


@given(situations())
def test_nobody_who_could_begin_waits_behind_one_of_his_namespace_that_comes_later(
    situation: tuple[list[Waiting], list[Waiting], int],
) -> None:
    queue, capturing, at_once = situation
    begin = next_turns(queue, capturing, at_once)
    busy = {one.container_id for one in (*capturing, *begin)}
    left = [one for one in queue if one.container_id not in busy]
    assert not any(
        before(waits, begins) and waits.namespace == begins.namespace and waits.final == begins.final
        for waits in left
        for begins in begin
    )


@given(situations())
def test_no_namespace_has_more_than_half_for_dumps_after_which_containers_run_on_and_a_place_is_left_for_stops(
    situation: tuple[list[Waiting], list[Waiting], int],
) -> None:
    queue, capturing, at_once = situation
    running = [one for one in (*capturing, *next_turns(queue, capturing, at_once)) if not one.final]
    assert len(running) <= max(1, at_once - 1)
    for namespace in {one.namespace for one in running}:
        assert sum(one.namespace == namespace for one in running) <= max(1, at_once // 2)


@given(situations())
def test_no_stop_that_is_within_its_half_waits_behind_one_of_a_namespace_that_is_beyond_it(
    situation: tuple[list[Waiting], list[Waiting], int],
) -> None:
    queue, capturing, at_once = situation
    begin = next_turns(queue, capturing, at_once)
    half = max(1, at_once // 2)
    held = Counter(one.namespace for one in (*capturing, *begin))
    before_it = Counter(one.namespace for one in capturing)
    busy = {one.container_id for one in (*capturing, *begin)}
    modest = {
        one.namespace for one in queue if one.final and one.container_id not in busy and held[one.namespace] < half
    }
    for namespace in {one.namespace for one in begin}:
        assert not modest - {namespace} or held[namespace] <= max(half, before_it[namespace])


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
