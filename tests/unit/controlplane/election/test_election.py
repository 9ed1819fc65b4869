"""Who leads, on a clock that the test moves: a store in memory, candidates that sleep in it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable

import msgspec
import pytest

from controlplane.election import Election, LeadLostError, Lease, LeaseLapsedError, LeaseUnavailableError
from controlplane.election.holder import holder_identity, is_dead

pytestmark = pytest.mark.timeout(5)


class Clock:
    """A monotonic clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Memory:
    """A lease that can be cut off."""

    def __init__(self) -> None:
        self.lease = Lease(holder="", duration_seconds=0.0, version="0")
        self.away = False
        self.loses_answers = False

    async def read(self) -> Lease:
        if self.away:
            raise LeaseUnavailableError("cut off")
        return self.lease

    async def replace(self, before: Lease, *, holder: str, duration_seconds: float) -> Lease | None:
        if self.away:
            raise LeaseUnavailableError("cut off")
        if before.version != self.lease.version:
            return None
        self.lease = Lease(holder, duration_seconds, str(int(before.version) + 1))
        if self.loses_answers:
            self.loses_answers = False
            raise LeaseUnavailableError("the answer got lost")
        return self.lease


def candidate(store: Memory, clock: Clock, name: str, dead: Callable[[str], bool] = lambda _: False) -> Election:
    return Election(store, name, look_seconds=0.001, renew_seconds=0.001, clock=clock, is_dead=dead)


async def looked(times: int = 20) -> None:
    """Let candidates look a few times."""
    await asyncio.sleep(0.001 * times)


async def test_the_first_candidate_leads_at_once_and_a_second_one_does_not() -> None:
    store, clock = Memory(), Clock()
    first, second = candidate(store, clock, "first"), candidate(store, clock, "second")
    await first.win()
    first.check()
    waiting = asyncio.create_task(second.win())
    await looked()
    assert not waiting.done()
    with pytest.raises(LeaseLapsedError):
        second.check()
    waiting.cancel()


async def test_a_standby_takes_over_when_it_has_seen_the_lease_unchanged_for_its_duration_and_not_before() -> None:
    store, clock = Memory(), Clock()
    first, second = candidate(store, clock, "first"), candidate(store, clock, "second")
    await first.win()
    clock.now += 500  # what happened before it looked does not count
    waiting = asyncio.create_task(second.win())
    await looked()
    clock.now += 9.9
    await looked()
    assert not waiting.done()
    clock.now += 0.2
    await waiting
    assert store.lease.holder == "second"
    with pytest.raises(LeaseLapsedError):
        first.check()
    with pytest.raises(LeadLostError):
        await first.hold()


async def test_a_leader_that_renews_is_never_taken_over() -> None:
    store, clock = Memory(), Clock()
    first, second = candidate(store, clock, "first"), candidate(store, clock, "second")
    await first.win()
    holding, waiting = asyncio.create_task(first.hold()), asyncio.create_task(second.win())
    for _ in range(10):
        clock.now += 8
        await looked()
        first.check()
    assert not waiting.done()
    for task in (holding, waiting):
        task.cancel()


async def test_a_leader_knows_that_its_lease_has_lapsed_before_a_standby_may_take_it() -> None:
    store, clock = Memory(), Clock()
    first, second = candidate(store, clock, "first"), candidate(store, clock, "second")
    await first.win()
    waiting = asyncio.create_task(second.win())
    while not waiting.done():
        await looked(5)
        clock.now += 0.5
        try:
            first.check()
        except LeaseLapsedError:
            continue
        assert not waiting.done()


async def test_a_lapsed_lease_that_nobody_took_is_renewed_and_the_leader_goes_on() -> None:
    store, clock = Memory(), Clock()
    leader = candidate(store, clock, "first")
    await leader.win()
    holding = asyncio.create_task(leader.hold())
    store.away = True
    clock.now += 60
    await looked()
    with pytest.raises(LeaseLapsedError):
        leader.check()
    store.away = False
    await looked()
    leader.check()
    assert not holding.done()
    holding.cancel()


async def test_a_renewal_whose_answer_got_lost_does_not_end_the_lead() -> None:
    store, clock = Memory(), Clock()
    leader = candidate(store, clock, "first")
    await leader.win()
    store.loses_answers = True
    holding = asyncio.create_task(leader.hold())
    clock.now += 9
    await looked()
    leader.check()
    assert not holding.done()
    holding.cancel()


async def test_a_lease_taken_by_a_write_whose_answer_got_lost_is_the_winners() -> None:
    store, clock = Memory(), Clock()
    store.loses_answers = True
    leader = candidate(store, clock, "first")
    await leader.win()
    leader.check()
    assert store.lease.holder == "first"


async def test_a_released_lease_is_taken_without_waiting() -> None:
    store, clock = Memory(), Clock()
    first, second = candidate(store, clock, "first"), candidate(store, clock, "second")
    await first.win()
    waiting = asyncio.create_task(second.win())
    await looked()
    await first.release()
    with pytest.raises(LeaseLapsedError):
        first.check()
    await waiting
    assert store.lease.holder == "second"


async def test_who_lost_the_lease_releases_nothing() -> None:
    store, clock = Memory(), Clock()
    first, second = candidate(store, clock, "first"), candidate(store, clock, "second", dead=lambda _: True)
    await first.win()
    await second.win()
    await first.release()
    assert store.lease.holder == "second"


async def test_a_holder_known_to_be_dead_is_not_waited_for() -> None:
    store, clock = Memory(), Clock()
    await candidate(store, clock, "first").win()
    await candidate(store, clock, "second", dead=lambda holder: holder == "first").win()
    assert store.lease.holder == "second"


async def test_of_many_candidates_one_leads() -> None:
    store, clock = Memory(), Clock()
    tasks = [asyncio.create_task(candidate(store, clock, f"c{number}").win()) for number in range(10)]
    await looked(50)
    assert sum(task.done() for task in tasks) == 1
    for task in tasks:
        task.cancel()


def holder_of_child(script: str) -> str:
    code = f"from controlplane.election.holder import holder_identity; print(holder_identity('child'), flush=True); {script}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_a_process_that_ended_is_dead_and_one_that_runs_is_not() -> None:
    assert not is_dead(holder_identity())
    assert is_dead(holder_of_child("pass"))


def test_a_pid_given_to_another_process_does_not_keep_its_former_owner_alive() -> None:
    parts = holder_identity().split("/")
    assert is_dead("/".join([*parts[:4], "1", parts[5]]))


def test_a_process_that_was_not_waited_for_is_dead() -> None:
    code = "from controlplane.election.holder import holder_identity; print(holder_identity('child'), flush=True)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        holder = child.stdout.readline().strip()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert is_dead(holder)


@pytest.mark.parametrize("place", [1, 2])
def test_nothing_is_known_about_a_process_of_another_boot_or_pid_namespace(place: int) -> None:
    parts = holder_of_child("pass").split("/")
    parts[place] = "other"
    assert not is_dead("/".join(parts))


@pytest.mark.parametrize("holder", ["", "pod-1", "a/b/c", "a/b/c/x/1/z", "//////"])
def test_nothing_is_known_about_a_holder_of_another_kind(holder: str) -> None:
    assert not is_dead(holder)


def test_a_lease_says_no_moment() -> None:
    assert {field.name for field in msgspec.structs.fields(Lease)} == {"holder", "duration_seconds", "version"}
