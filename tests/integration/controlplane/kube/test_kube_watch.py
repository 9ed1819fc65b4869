"""A collection is followed through everything that happens to a watch, over HTTP; a Lease is held as one in SQL is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
from support.kubeapi import Leases, Request, bookmark, line, listing, serving, status
from support.pods import pod

from controlplane.election.candidate import Election, LeadLostError
from controlplane.election.lease import LeaseUnavailableError
from controlplane.kube.api import ApiError, KubernetesApi
from controlplane.kube.lease import KubernetesLease
from controlplane.kube.listwatch import ListWatch
from controlplane.kube.models import Pod
from woodfrog.protocol import wire

PATH = "/api/v1/pods"


class Names:
    """A follower that remembers what it was told."""

    def __init__(self) -> None:
        self.now: dict[str, str] = {}
        self.told: list[str] = []

    def keep(self, data: bytes) -> tuple[str, str] | None:
        seen: Pod = wire.decode(data, Pod)
        return None if seen.metadata.name.startswith("other") else (seen.metadata.uid, seen.metadata.resource_version)

    async def replaced(self, objects: dict[str, str]) -> None:
        self.told.append(f"list {sorted(objects)}")
        self.now = objects

    async def changed(self, uid: str, now: str | None) -> None:
        self.told.append(f"{uid} {now}")
        if now is None:
            self.now.pop(uid, None)
        else:
            self.now[uid] = now


class Script:
    """Answers lists and watches in the order in which a test wrote them down, and notes what was asked."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[dict[str, str]] = []

    def answer(self, request: Request) -> Any:
        self.asked.append(dict(request.params))
        if not self.answers:
            return (bookmark("99"), 60.0)
        return self.answers.pop(0)


async def until(what: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "not within its time"
        await asyncio.sleep(0.01)


async def followed(script: Script, done: Callable[[Names, Script], bool], **how: Any) -> tuple[Names, ListWatch[str]]:
    names = Names()
    async with serving(script.answer) as api:
        watch = ListWatch(api, PATH, names, chance=lambda low, _: low * 0.1 if low < 1 else low, **how)
        task = asyncio.create_task(watch.run())
        try:
            await until(lambda: done(names, script) or task.done())
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
    return names, watch


def asked_to_watch_from(script: Script) -> list[str]:
    return [one["resourceVersion"] for one in script.asked if "watch" in one]


async def test_a_list_is_taken_in_pages_and_only_what_matters_is_kept() -> None:
    first = listing("7", pod("u1"), pod("u2", name="other-1"), more="token")
    script = Script(first, listing("7", pod("u3")))
    names, _ = await followed(script, lambda names, script: len(script.asked) >= 3)
    assert set(names.now) == {"u1", "u3"}
    assert script.asked[0] == {"limit": "500"}
    assert script.asked[1] == {"limit": "500", "continue": "token"}
    assert script.asked[2]["resourceVersion"] == "7"
    assert script.asked[2]["allowWatchBookmarks"] == "true"
    assert 300 <= int(script.asked[2]["timeoutSeconds"]) <= 450


async def test_a_list_that_took_too_long_to_page_through_is_begun_anew() -> None:
    script = Script(listing("7", pod("u1"), more="token"), status(410, "Expired"), listing("9", pod("u2")))
    names, _ = await followed(script, lambda names, script: "u2" in names.now)
    assert set(names.now) == {"u2"}


async def test_a_watch_that_ends_goes_on_from_the_last_version_it_saw_bookmarks_included() -> None:
    changes = (line("ADDED", pod("u1", version="8")), line("MODIFIED", pod("u1", version="9")), bookmark("12"))
    script = Script(listing("7"), changes, (line("DELETED", pod("u1", version="13")),))
    names, watch = await followed(script, lambda names, script: len(asked_to_watch_from(script)) >= 3)
    assert asked_to_watch_from(script)[:3] == ["7", "12", "13"]
    assert names.told == ["list []", "u1 8", "u1 9", "u1 None"]
    assert watch.lists == 1


@pytest.mark.parametrize(
    "gone",
    [
        (line("ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}),),
        status(410, "Gone"),
    ],
    ids=["in the stream", "as the answer"],
)
async def test_a_version_that_is_not_kept_any_more_leads_to_a_new_list(gone: Any) -> None:
    script = Script(listing("7", pod("u1"), pod("u2")), gone, listing("90", pod("u2")))
    _, watch = await followed(script, lambda names, script: "list ['u2']" in names.told)
    assert watch.lists == 2
    assert asked_to_watch_from(script)[0] == "7"


@pytest.mark.parametrize(
    "trouble",
    [
        status(500, "InternalError"),
        status(429, "TooManyRequests", **{"Retry-After": "1"}),
        (line("ERROR", {"code": 500, "reason": "InternalError", "message": "etcd"}),),
        (b"this is no line of a watch\n",),
        (line("ADDED", pod("u1", version="8"))[:40],),
    ],
    ids=["500", "429", "error in the stream", "garbage", "cut off"],
)
async def test_any_other_trouble_costs_a_pause_and_no_new_list(trouble: Any) -> None:
    script = Script(listing("7", pod("u0")), trouble, (line("ADDED", pod("u1", version="8")),))
    _, watch = await followed(script, lambda names, script: "u1" in names.now)
    assert watch.lists == 1
    assert asked_to_watch_from(script)[:2] == ["7", "7"]


async def test_a_server_that_falls_silent_is_left_and_asked_again() -> None:
    silent = (line("ADDED", pod("u1", version="8")), 30.0)
    script = Script(listing("7"), silent, (line("ADDED", pod("u2", version="9")),))
    await followed(script, lambda names, script: "u2" in names.now, idle_seconds=0.3)
    assert asked_to_watch_from(script)[:2] == ["7", "8"]


async def test_an_object_that_cannot_be_read_is_passed_over_and_its_version_counts() -> None:
    odd = {"metadata": {"uid": "u9", "name": "odd", "resourceVersion": "8"}, "spec": {"containers": "none"}}
    script = Script(listing("7"), (line("ADDED", odd), line("ADDED", pod("u1", version="9"))))
    names, _ = await followed(script, lambda names, script: len(asked_to_watch_from(script)) >= 2)
    assert names.told == ["list []", "u1 9"]
    assert asked_to_watch_from(script)[1] == "9"


async def test_a_server_that_refuses_every_watch_is_asked_less_and_less_often() -> None:
    names, asked_at = Names(), list[float]()

    def answer(request: Request) -> Any:
        asked_at.append(time.monotonic())
        return listing("7") if len(asked_at) == 1 else status(500, "InternalError")

    async with serving(answer) as api:
        task = asyncio.create_task(
            ListWatch(api, PATH, names, chance=lambda low, _: low * 0.2 if low < 1 else low).run()
        )
        await until(lambda: len(asked_at) >= 6)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    pauses = [later - earlier for earlier, later in pairwise(asked_at[1:])]
    assert pauses[-1] > 4 * pauses[0]


async def on_a_lease(test: Callable[[KubernetesApi, Leases], Awaitable[None]]) -> None:
    leases = Leases()
    async with serving(leases.answer) as api:
        await test(api, leases)


def candidate(api: KubernetesApi, name: str, **how: Any) -> Election:
    return Election(
        KubernetesLease(api, "woodfrog"), name, renew_seconds=0.05, look_seconds=0.05, is_dead=lambda _: False, **how
    )


async def test_a_lease_that_was_never_written_is_made_and_held() -> None:
    async def test(api: KubernetesApi, leases: Leases) -> None:
        await candidate(api, "one").win()
        assert leases.held is not None
        spec = leases.held["spec"]
        assert (spec["holderIdentity"], spec["leaseDurationSeconds"], spec["leaseTransitions"]) == ("one", 10, 1)
        assert spec["renewTime"].endswith("Z")
        assert len(spec["renewTime"]) == len("2026-11-25T16:00:00.000000Z")

    await on_a_lease(test)


async def test_of_two_that_take_it_at_once_one_wins() -> None:
    async def test(api: KubernetesApi, leases: Leases) -> None:
        first, second = KubernetesLease(api, "woodfrog"), KubernetesLease(api, "woodfrog")
        seen = await first.read(), await second.read()
        taken = await first.replace(seen[0], holder="one", duration_seconds=10)
        assert taken is not None
        assert await second.replace(seen[1], holder="two", duration_seconds=10) is None
        assert await second.replace(taken, holder="two", duration_seconds=10) is not None
        assert await first.replace(taken, holder="one", duration_seconds=10) is None

    await on_a_lease(test)


async def test_a_lease_given_back_is_taken_at_once_and_one_that_lapsed_after_its_duration_whatever_its_times_say() -> (
    None
):
    async def test(api: KubernetesApi, leases: Leases) -> None:
        leader = candidate(api, "one", duration_seconds=1.0)
        await leader.win()
        await leader.release()
        await asyncio.wait_for(candidate(api, "two", duration_seconds=1.0).win(), 1)
        assert leases.held is not None
        leases.held["spec"]["renewTime"] = "1999-01-01T00:00:00.000000Z"  # a clock that is far behind
        began = time.monotonic()
        await candidate(api, "three", duration_seconds=1.0).win()
        assert time.monotonic() - began >= 1.0

    await on_a_lease(test)


async def test_whoever_holds_it_keeps_it_while_the_api_is_away_and_loses_it_to_another_write() -> None:
    async def test(api: KubernetesApi, leases: Leases) -> None:
        leader = candidate(api, "one")
        await leader.win()
        holding = asyncio.create_task(leader.hold())
        leases.away = True
        await asyncio.sleep(0.3)
        leader.check()
        assert not holding.done()
        leases.away = False
        store = KubernetesLease(api, "woodfrog")
        while await store.replace(await store.read(), holder="two", duration_seconds=10) is None:
            pass
        with pytest.raises(LeadLostError):
            await asyncio.wait_for(holding, 5)

    await on_a_lease(test)


async def test_a_lease_that_cannot_be_read_is_told_as_such() -> None:
    async def test(api: KubernetesApi, leases: Leases) -> None:
        leases.away = True
        with pytest.raises(LeaseUnavailableError, match="503"):
            await KubernetesLease(api, "woodfrog").read()

    await on_a_lease(test)


async def test_an_api_server_that_is_not_there_is_an_error_without_a_status() -> None:
    async with serving(lambda _: ()) as api:
        pass
    with pytest.raises((ApiError, RuntimeError)):
        await api.ask("GET", PATH, Pod)
