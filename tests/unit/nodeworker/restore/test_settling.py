"""Whose threads are given their processors back: those of the snapshot that was restored, and of no other; and when a start is noted."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from nodeworker.capture import thread_placement
from nodeworker.journal import ContainerRecord
from nodeworker.restore.post_restore import PostRestore
from nodeworker.restore.restore import Restorer
from woodfrog.protocol.ids import ContainerId
from woodfrog.protocol.manifest import ThreadPlacement

pytestmark = pytest.mark.timeout(5)

ONE = ContainerId("one")
PLACED = (ThreadPlacement(7, (1,)),)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[tuple[ThreadPlacement, ...]]:
    """What was given to threads."""
    found: list[tuple[ThreadPlacement, ...]] = []

    def apply(wanted: tuple[ThreadPlacement, ...], _pids: object) -> tuple[str, ...]:
        found.append(wanted)
        return ()

    monkeypatch.setattr(thread_placement, "apply", apply)
    monkeypatch.setattr("nodeworker.bundle.read", lambda _folder: live())
    return found


def live() -> Any:
    return SimpleNamespace(options=SimpleNamespace(after_restore=None, hook_limit_seconds=1.0), bound=())


def manifest(threads: tuple[ThreadPlacement, ...]) -> Any:
    return SimpleNamespace(threads=threads, databases=())


def settler() -> PostRestore:
    state = SimpleNamespace(pid=1, freezer=SimpleNamespace(pids=lambda: [1]))
    made: Any = PostRestore(SimpleNamespace(), SimpleNamespace(state=lambda _root, _id: state))  # type: ignore[arg-type]
    made._warn = lambda _container_id, _warnings: None
    kept: PostRestore = made
    return kept


def record() -> ContainerRecord:
    found: Any = SimpleNamespace(container_id=ONE, runc_root="/r", bundle="/b", generation=1)
    made: ContainerRecord = found
    return made


def test_what_a_snapshot_recorded_is_given_back_once(given: list[tuple[ThreadPlacement, ...]]) -> None:
    one = settler()
    assert one.prepare(ONE, manifest(PLACED), live())
    one.settle(record())
    one.settle(record())
    assert given == [PLACED]


def test_a_snapshot_that_failed_leaves_nothing_to_the_next(given: list[tuple[ThreadPlacement, ...]]) -> None:
    one = settler()
    one.prepare(ONE, manifest(PLACED), live())
    assert not one.prepare(ONE, manifest(()), live())
    one.settle(record())
    one.prepare(ONE, manifest(PLACED), live())
    one.forget(ONE)
    one.settle(record())
    assert given == []


async def test_a_start_is_noted_when_its_hook_is_done_or_when_the_container_is_to_stop() -> None:
    one, go = settler(), threading.Event()
    hooks: Any = one
    hooks._run_command = lambda _container_id: go.wait(5)
    noted: list[str] = []

    async def note(_container_id: ContainerId) -> bool:
        noted.append("started")
        return False

    restorer: Any = SimpleNamespace(_gpus=SimpleNamespace(settler=one), _lifecycle=SimpleNamespace(started=note))
    hooked = asyncio.create_task(Restorer.started(restorer, ONE))
    await asyncio.sleep(0.01)
    await Restorer.started(restorer, ONE)
    assert noted == [], "a sweep that sees it run is not faster than its hook, whose warning would be lost"
    await Restorer.started(restorer, ONE, at_once=True)
    assert noted == ["started"]
    go.set()
    await hooked
    assert noted == ["started", "started"]
