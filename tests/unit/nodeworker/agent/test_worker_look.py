"""What a sweep makes of a container that is being restored: its processes run, and yet it has not started."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nodeworker.agent.app import Worker
from nodeworker.journal import ContainerRecord
from nodeworker.runtime.container import Marker
from woodfrog.protocol.facts import ContainerFacts
from woodfrog.protocol.ids import CheckpointKey, ContainerId

pytestmark = pytest.mark.timeout(5)


def look(run_dir: Path, phase: str | None) -> tuple[bool, bool]:
    """Look at a container whose one process runs, as this test does; ``phase`` is what the runtime's marker says."""
    folder = run_dir / "c1"
    if phase is not None:
        Marker(str(folder), {}).update(phase=phase)
    state = SimpleNamespace(status="running", freezer=SimpleNamespace(pids=lambda: [os.getpid()]))
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


@pytest.mark.parametrize("phase", ["created", "started", None])
def test_one_that_is_created_and_runs_has_started(tmp_path: Path, phase: str | None) -> None:
    assert look(tmp_path, phase) == (True, True)
