"""Whose dump comes next, and what happens to those that wait."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from nodeworker.domain.dump_scheduling import Waiting, next_turns
from nodeworker.dump.dump_queue import DumpQueue, EarlierDumpError, GoneError
from woodfrog.protocol.ids import ContainerId

pytestmark = pytest.mark.timeout(5)

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def waiting(
    name: str, deadline_seconds: float, arrival: int, *, final: bool = True, namespace: str = "default"
) -> Waiting:
    deadline = at(deadline_seconds)
    return Waiting(container_id=ContainerId(name), final=final, deadline=deadline, arrival=arrival, namespace=namespace)


def names(turns: tuple[Waiting, ...]) -> list[str]:
    return [one.container_id for one in turns]


def test_the_stop_with_the_soonest_deadline_comes_first_however_late_it_came() -> None:
    queue = [waiting("patient", 60, 1), waiting("urgent", 5, 2), waiting("usual", 30, 3)]
    assert names(next_turns(queue, (), 2)) == ["urgent", "usual"]


def test_of_two_with_one_deadline_the_one_that_came_first_comes_first() -> None:
    assert names(next_turns([waiting("second", 30, 2), waiting("first", 30, 1)], (), 1)) == ["first"]


def test_a_stop_comes_before_a_dump_that_leaves_its_container_running_however_soon_that_is_void() -> None:
    queue = [waiting("scheduled", 1, 1, final=False), waiting("stopped", 3600, 2)]
    assert names(next_turns(queue, (), 1)) == ["stopped"]


def test_nobody_begins_while_as_many_as_may_are_being_captured() -> None:
    assert next_turns([waiting("c", 1, 1)], (waiting("a", 1, 2), waiting("b", 1, 3)), 2) == ()


def test_a_second_dump_of_a_container_that_is_being_captured_waits_and_holds_nobody_up() -> None:
    queue = [waiting("a", 1, 1), waiting("b", 30, 2)]
    assert names(next_turns(queue, (waiting("a", 1, 0),), 2)) == ["b"]


def test_two_dumps_of_one_container_never_begin_together() -> None:
    assert names(next_turns([waiting("a", 1, 1), waiting("a", 2, 2)], (), 2)) == ["a"]


def test_a_worker_that_ends_gives_turns_to_stops_alone() -> None:
    queue = [waiting("scheduled", 1, 1, final=False), waiting("stopped", 30, 2)]
    assert names(next_turns(queue, (), 2, only_final=True)) == ["stopped"]


def test_one_place_is_kept_for_stops() -> None:
    scheduled = [waiting(f"s{number}", 1, number, final=False, namespace=f"n{number}") for number in range(6)]
    assert names(next_turns(scheduled, (), 4)) == ["s0", "s1", "s2"]
    assert names(next_turns([*scheduled[3:], waiting("stop", 60, 9)], scheduled[:3], 4)) == ["stop"]
    assert names(next_turns(scheduled, (), 1)) == ["s0"], "of one place none can be kept"


def test_a_namespace_has_half_of_the_places_for_dumps_after_which_containers_run_on() -> None:
    greedy = [waiting(f"g{number}", 1, number, final=False, namespace="greedy") for number in range(6)]
    modest = waiting("m", 60, 9, final=False, namespace="modest")
    assert names(next_turns([*greedy, modest], (), 8)) == ["g0", "g1", "g2", "g3", "m"]
    assert names(next_turns(greedy, (), 2)) == ["g0"]


def test_a_namespace_that_drains_alone_has_all_places_and_leaves_half_to_another_that_stops() -> None:
    draining = [waiting(f"d{number}", 1, number, namespace="draining") for number in range(6)]
    assert names(next_turns(draining, (), 4)) == ["d0", "d1", "d2", "d3"]
    another = waiting("a", 60, 9, namespace="another")
    assert names(next_turns([*draining, another], (), 4)) == ["d0", "d1", "a", "d2"]
    assert names(next_turns([*draining[3:], another], draining[:3], 4)) == ["a"]


class Bench:
    """Dumps that end when the test says so."""

    def __init__(self, at_once: int) -> None:
        self.turns = DumpQueue(at_once)
        self.begun: list[str] = []
        self._ends: dict[str, asyncio.Event] = {}

    def ask(
        self, name: str, deadline_seconds: float = 30, *, final: bool = True, limit_seconds: float | None = None
    ) -> asyncio.Task[None]:
        return asyncio.create_task(self._dump(name, deadline_seconds, final, limit_seconds))

    async def _dump(self, name: str, deadline_seconds: float, final: bool, limit_seconds: float | None) -> None:
        turn = self.turns.turn(
            ContainerId(name), final=final, deadline=at(deadline_seconds), own_limit_seconds=limit_seconds
        )
        async with turn:
            self.begun.append(name)
            self._ends[name] = asyncio.Event()
            await self._ends[name].wait()

    async def end(self, name: str) -> None:
        self._ends[name].set()
        await settled()


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_each_that_ends_lets_the_most_urgent_one_begin() -> None:
    bench = Bench(1)
    tasks = [bench.ask("a")]
    await settled()
    tasks += [bench.ask("scheduled", 1, final=False), bench.ask("late", 60), bench.ask("soon", 10)]
    await settled()
    assert (bench.turns.capturing, bench.turns.waiting) == (1, 3)
    for name in ("a", "soon", "late", "scheduled"):
        assert bench.begun[-1] == name
        await bench.end(name)
    await asyncio.gather(*tasks)
    assert (bench.turns.capturing, bench.turns.waiting) == (0, 0)


async def test_a_dump_that_fails_gives_its_turn_to_the_next() -> None:
    bench = Bench(1)

    async def fails() -> None:
        async with bench.turns.turn(ContainerId("a"), final=True, deadline=NOON):
            await asyncio.sleep(0)
            raise ValueError

    failing, waiting_one = asyncio.create_task(fails()), bench.ask("b")
    with pytest.raises(ValueError):  # noqa: PT011 -- it is ours
        await failing
    await settled()
    assert bench.begun == ["b"]
    await bench.end("b")
    await waiting_one


async def test_those_of_a_container_that_is_gone_leave_and_no_one_else() -> None:
    bench = Bench(1)
    first, gone, stays = bench.ask("a"), bench.ask("b"), bench.ask("c")
    await settled()
    bench.turns.leave(ContainerId("b"))
    with pytest.raises(GoneError):
        await gone
    assert bench.turns.waiting == 1
    for name in ("a", "c"):
        await bench.end(name)
    await asyncio.gather(first, stays)
    assert bench.begun == ["a", "c"]


@pytest.mark.parametrize("steps", range(5))
async def test_who_is_cancelled_at_whatever_moment_keeps_no_place_and_no_turn(steps: int) -> None:
    bench = Bench(1)
    first, cancelled, last = bench.ask("a"), bench.ask("b", 1), bench.ask("c")
    await settled()
    bench._ends["a"].set()
    for _ in range(steps):
        await asyncio.sleep(0)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    await first
    await settled()
    assert bench.begun[-1] == "c"
    await bench.end("c")
    await last
    assert (bench.turns.capturing, bench.turns.waiting) == (0, 0)


async def test_a_stop_gives_up_waiting_for_its_own_containers_dump_but_not_for_others() -> None:
    bench = Bench(1)
    own, stop, other = (
        bench.ask("a", final=False),
        bench.ask("a", limit_seconds=0.02),
        bench.ask("b", limit_seconds=0.02),
    )
    with pytest.raises(EarlierDumpError):
        await stop
    await asyncio.sleep(0.05)
    assert not other.done()
    await bench.end("a")
    assert bench.begun == ["a", "b"]
    await bench.end("b")
    await asyncio.gather(own, other)


async def test_once_closed_only_stops_begin() -> None:
    bench = Bench(1)
    first, scheduled, stop = bench.ask("a"), bench.ask("b", final=False), bench.ask("c")
    await settled()
    bench.turns.close()
    await bench.end("a")
    await bench.end("c")
    await asyncio.gather(first, stop)
    assert bench.begun == ["a", "c"]
    scheduled.cancel()


async def test_stops_that_wait_are_named_with_when_they_came_until_their_turn() -> None:
    bench, began = Bench(1), datetime.now(UTC)
    tasks = [bench.ask("a")]
    await settled()
    assert bench.turns.waiting_stops == []
    tasks += [bench.ask("scheduled", final=False), bench.ask("b")]
    await settled()
    ((name, came),) = bench.turns.waiting_stops
    assert (name, began <= came <= datetime.now(UTC)) == ("b", True)
    for name in ("a", "b", "scheduled"):
        await bench.end(name)
    await asyncio.gather(*tasks)
    assert bench.turns.waiting_stops == []
    assert bench.turns._came == {}
