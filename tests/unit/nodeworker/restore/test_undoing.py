"""Of which container what was put into it is taken out again when it is gone: of none that ran."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nodeworker.restore.container_lifecycle import ContainerLifecycle
from nodeworker.restore.pending_creates import PendingCreates
from nodeworker.restore.restore import Restorer
from nodeworker.runtime.container import Marker
from woodfrog.protocol.ids import ContainerId

pytestmark = pytest.mark.timeout(5)

ONE = ContainerId("one")


async def undone(run_dir: Path, phase: str | None, at: datetime | None) -> bool:
    """End a container whose start nobody has noted; ``phase`` is what the runtime's marker says."""
    if phase is not None:
        Marker(str(run_dir / ONE), {}).update(phase=phase)
    taken_out: list[ContainerId] = []

    async def done(*_arguments: object) -> None:
        """There is nothing more to do."""

    settings: Any = SimpleNamespace(container_dir=lambda container_id: run_dir / container_id)
    lifecycle: Any = SimpleNamespace(
        was_started=ContainerLifecycle(settings, SimpleNamespace()).was_started,  # type: ignore[arg-type]
        removed=done,
        undo_unstarted=taken_out.append,
    )
    restorer: Any = SimpleNamespace(
        creates=PendingCreates(),
        _journal=SimpleNamespace(container=lambda _container_id: None),
        _lifecycle=lifecycle,
        _began={},
        _kept={},
        _gpus=SimpleNamespace(settler=SimpleNamespace(forget=lambda _container_id: None)),
        _proofs=SimpleNamespace(forget=lambda _container_id: None),
    )
    await Restorer.ended(restorer, ONE, None, at)
    return taken_out == [ONE]


@pytest.mark.parametrize("phase", ["asking", "creating", "created", None])
async def test_what_was_put_into_a_container_that_never_started_is_taken_out(tmp_path: Path, phase: str | None) -> None:
    assert await undone(tmp_path, phase, None)


@pytest.mark.parametrize("phase", ["starting", "started"])
async def test_one_that_was_started_keeps_its_files_although_its_hook_was_not_done_yet(
    tmp_path: Path, phase: str
) -> None:
    assert not await undone(tmp_path, phase, None)


async def test_so_does_one_that_ended_while_no_worker_was_there(tmp_path: Path) -> None:
    assert not await undone(tmp_path, None, datetime.now(UTC))
