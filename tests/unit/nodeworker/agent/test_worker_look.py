"""What a sweep makes of a container that is being restored: its processes run, and yet it has not started."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from nodeworker.agent.app import Worker
from nodeworker.journal import ContainerRecord, ContainerState
from nodeworker.runtime.container import Marker
from woodfrog.protocol.facts import ContainerFacts
from woodfrog.protocol.ids import CheckpointKey, ContainerId

pytestmark = pytest.mark.timeout(5)


def look(run_dir: Path, phase: str | None, status: str = "running") -> tuple[bool, bool]:
    """Look at a container whose one process runs, as this test does; ``phase`` is what the runtime's marker says."""
    folder = run_dir / "c1"
    if phase is not None:
        Marker(str(folder), {}).update(phase=phase)
    state = SimpleNamespace(status=status, freezer=SimpleNamespace(pids=lambda: [os.getpid()]))
    worker: Any = SimpleNamespace(
        _runc=SimpleNamespace(state=lambda root, container_id: state),
        _settings=SimpleNamespace(container_dir=lambda container_id: run_dir / container_id),
    )
    record = ContainerRecord(
        container_id=ContainerId("c1"),
        key=CheckpointKey.checked("local", "default", "train"),
        bundle="/b",
        runc_root="/r",
        facts=ContainerFacts(),
        asked_at=datetime.now(UTC),
    )
    return Worker._look(worker, record)


@pytest.mark.parametrize("phase", ["asking", "creating"])
def test_a_container_that_is_being_created_has_not_started(tmp_path: Path, phase: str) -> None:
    assert look(tmp_path, phase) == (True, False)


@pytest.mark.parametrize("phase", ["created", "starting", "started", None])
def test_one_that_is_created_and_runs_has_started(tmp_path: Path, phase: str | None) -> None:
    assert look(tmp_path, phase) == (True, True)


@pytest.mark.parametrize(("phase", "started"), [("created", False), ("starting", False), ("started", True)])
def test_one_that_was_paused_right_after_its_start_has_started(tmp_path: Path, phase: str, started: bool) -> None:
    assert look(tmp_path, phase, "paused") == (True, started)


def known(**changes: Any) -> ContainerRecord:
    about = {"key": CheckpointKey.checked("local", "default", "train"), "bundle": "/b", "runc_root": "/r"}
    record = ContainerRecord(
        container_id=ContainerId("c1"), facts=ContainerFacts(), asked_at=datetime.now(UTC), **about
    )
    return msgspec.structs.replace(record, **changes)


@pytest.mark.parametrize(
    ("state", "seconds", "under_way", "may_be"),
    [
        (ContainerState.CREATING, 5, False, True),
        (ContainerState.CREATING, 120, False, False),
        (ContainerState.CREATING, 3600, True, True),
        (ContainerState.CREATED, 120, False, True),
        (ContainerState.CREATED, 3600, False, False),
        (ContainerState.RUNNING, 1, False, False),
    ],
)
def test_for_how_long_somebody_is_believed_to_create_what_runc_does_not_know(
    state: ContainerState, seconds: int, under_way: bool, may_be: bool
) -> None:
    creates = SimpleNamespace(is_under_way=lambda _container_id: under_way)
    worker: Any = SimpleNamespace(_restorer=SimpleNamespace(creates=creates))
    record = known(state=state, asked_at=datetime.now(UTC) - timedelta(seconds=seconds))
    assert Worker._may_be_created(worker, record) is may_be


@pytest.mark.parametrize(
    ("word", "noted_after", "serving_after", "believed"),
    [
        ("deleted", 5, None, True),
        ("never-ran", 5, None, True),
        ("deleted", -5, None, False),
        ("never-ran", -5, None, False),
        ("deleted", 5, 10, True),
        ("deleted", 5, 1, False),
    ],
)
async def test_an_end_that_was_noted_is_that_of_the_container_which_was_there_then(
    tmp_path: Path, word: str, noted_after: int, serving_after: int | None, believed: bool
) -> None:
    asked_at = datetime.now(UTC) - timedelta(minutes=1)
    (tmp_path / "c1").write_text(f"{word}\t{(asked_at + timedelta(seconds=noted_after)).timestamp()}\n")
    ended: list[bool] = []

    async def end(_container_id: str, _code: None, _at: datetime, *, never_ran: bool) -> None:
        ended.append(never_ran)

    worker: Any = SimpleNamespace(
        _settings=SimpleNamespace(missed=tmp_path, node="n1"),
        _journal=SimpleNamespace(container=lambda _name: known(asked_at=asked_at, incarnation=2)),
        _restorer=SimpleNamespace(ended=end),
        _dumper=SimpleNamespace(forget=lambda _name: None),
        _serving_since=None if serving_after is None else asked_at + timedelta(seconds=serving_after),
    )
    await Worker._report_missed(worker)
    assert ended == ([word == "never-ran"] if believed else [])
    assert not (tmp_path / "c1").exists()
