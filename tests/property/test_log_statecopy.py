"""Folded from the start, folded along, or resumed from a copy: the state is the same."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from support.logstory import NODE_A, START, WORKER_A, new, story

from controlplane.core import state_cache
from controlplane.domain.evolve import Replay, evolve
from controlplane.domain.state import State, count_usage
from controlplane.log.records import NewEvent
from woodfrog.protocol.events import NodeLost, NodeRegistered, SnapshotStored
from woodfrog.protocol.facts import NodeFacts
from woodfrog.protocol.ids import SnapshotId, WorkerId

pytestmark = pytest.mark.timeout(60)

TOLD = [
    *story(),
    new(NodeRegistered(node=NODE_A, worker_id=WorkerId("again"), boot_id="boot", facts=NodeFacts())),
    new(NodeLost(node=NODE_A, worker_id=WORKER_A, silent_seconds=20.0)),
]


def fold(state: State, told: list[NewEvent]) -> State:
    for one in told:
        evolve(state, one.event, one.occurred_at)
    return state


@settings(max_examples=300, deadline=None)
@given(order=st.permutations(TOLD), copied_at=st.lists(st.integers(0, len(TOLD)), max_size=3))
def test_a_copy_and_the_events_since_give_what_folding_from_the_start_gives(
    order: list[NewEvent], copied_at: list[int]
) -> None:
    gone_on = State()
    last = 0
    for position in [*sorted(copied_at), len(order)]:
        fold(gone_on, order[last:position])
        gone_on = state_cache.decode(list(state_cache.encode(gone_on)))
        last = position
    assert gone_on == fold(State(), order)


@settings(max_examples=300, deadline=None)
@given(order=st.permutations(TOLD), known=st.integers(0, len(TOLD)), again=st.integers(1, 12))
def test_a_replay_in_one_go_ends_in_the_values_that_folding_along_gives(
    order: list[NewEvent], known: int, again: int
) -> None:
    told = [
        replace(one.event, incarnation=one.event.incarnation + time)
        if time and hasattr(one.event, "incarnation")
        else one.event
        for time in range(again)
        for one in order
    ]
    along, begun = State(), State()
    for event in told:
        evolve(along, event, START)
    for event in told[:known]:
        evolve(begun, event, START)
    before = State(dict(begun.keys), dict(begun.nodes), dict(begun.commands), dict(begun.floors), dict(begun.usage))
    replay = Replay(begun)
    for event in told[known:]:
        replay.take(event, START)
    assert replay.end() == along
    assert [list(key.snapshots) for key in begun.keys.values()] == [
        list(along.keys[name].snapshots) for name in begun.keys
    ]
    for event in told[known:]:
        evolve(before, event, START)
    assert before == along, "values that were shared were changed"


def test_a_copy_is_what_the_state_was_when_it_was_taken() -> None:
    folded = fold(State(), TOLD[:10])
    parts = state_cache.encode(state_cache.copy(folded))
    first = next(parts)
    fold(folded, TOLD[10:])
    assert state_cache.decode([first, *parts]) == fold(State(), TOLD[:10])


def test_the_keys_of_a_large_state_come_in_parts() -> None:
    folded = fold(State(), TOLD)
    (key,) = folded.keys
    value = folded.keys[key]
    for number in range(1200):
        other = type(key)("local", "default", f"key-{number}")
        folded.keys[other] = value
        count_usage(folded.usage, other, None, value)
    parts = list(state_cache.encode(folded))
    assert len(parts) == 4
    assert state_cache.decode(parts) == folded


def test_snapshots_that_were_taken_on_equal_nodes_hold_their_facts_once() -> None:
    told = [one.event for one in story() if isinstance(one.event, SnapshotStored)]
    folded = State()
    for number in range(2):
        facts = NodeFacts(cpu_features=tuple(f"feature_{feature}" for feature in range(3)))
        stored = replace(told[0], snapshot_id=SnapshotId(f"snapshot-{number}"), taken_on=facts)
        evolve(folded, stored, START)
    for state in (folded, state_cache.decode(list(state_cache.encode(folded)))):
        (key,) = state.keys.values()
        first, second = key.snapshots.values()
        assert first.taken_on is second.taken_on
