"""What a rehearsal's cgroup tells of it, what is made of that, and whom its removal ends."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nodeworker.domain.rehearsal import RESTORABLE, Verdict, verdict_on
from nodeworker.dump.uploader import SnapshotUploader
from nodeworker.rehearsal import cgroup
from nodeworker.rehearsal.cgroup import RehearsalCgroup
from nodeworker.rehearsal.rehearsals import Rehearsals
from nodeworker.rehearsal.task import Rehearsed
from woodfrog.protocol import wire
from woodfrog.protocol.failures import Failure

pytestmark = pytest.mark.timeout(20)


@pytest.fixture
def hierarchy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like the hierarchy of cgroup v2 on a node where four processes have run out of memory."""
    root = tmp_path / "cgroup"
    root.mkdir()
    (root / "cgroup.subtree_control").write_text("cpu memory pids\n")
    (tmp_path / "mounts").write_text(f"cgroup2 {root} cgroup2 rw,nsdelegate 0 0\n")
    (tmp_path / "vmstat").write_text("pgfault 7\noom_kill 4\n")
    monkeypatch.setattr(cgroup, "_MOUNTS", tmp_path / "mounts")
    monkeypatch.setattr(cgroup, "_COUNTS", tmp_path / "vmstat")
    monkeypatch.setattr(cgroup, "_END_SECONDS", 0.1)
    return root


def test_the_rehearsing_process_is_beside_the_container_and_not_above_it(hierarchy: Path) -> None:
    made = RehearsalCgroup("r", 2)
    assert made.make(1 << 20) == hierarchy / "r/process/cgroup.procs"
    assert (hierarchy / "r/memory.max").read_text() == "1048576"
    assert made.container == "/r/container"


def test_without_a_memory_controller_there_is_none(hierarchy: Path) -> None:
    (hierarchy / "cgroup.subtree_control").write_text("cpu\n")
    assert RehearsalCgroup("r", 2).make(1 << 20) is None


def test_a_process_that_ran_out_of_memory_meanwhile_is_seen_wherever_it_was(hierarchy: Path) -> None:
    made = RehearsalCgroup("r", 2)
    made.make(1 << 20)
    assert not made.ran_out()
    (hierarchy.parent / "vmstat").write_text("oom_kill 5\n")
    assert made.ran_out()


def test_a_process_of_another_pid_namespace_is_not_taken_for_our_own_group(
    hierarchy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int] = []
    monkeypatch.setattr("os.kill", lambda pid, _number: killed.append(pid))
    (hierarchy / "r").mkdir()
    (hierarchy / "r/cgroup.procs").write_text("0\n4194305\n")
    RehearsalCgroup("r", 2).remove()
    assert set(killed) == {4194305}


BROKEN = verdict_on(Failure("link-remap", "a name is gone", ""))


@pytest.mark.parametrize(
    ("answer", "ran_out", "stops", "outcome"),
    [
        (RESTORABLE, False, 0, "restorable"),
        (RESTORABLE, True, 1, "restorable"),
        (BROKEN, False, 0, "failed"),
        (BROKEN, True, 0, "not-rehearsed"),
        (BROKEN, False, 1, "not-rehearsed"),
        (None, False, 0, "not-rehearsed"),
    ],
)
async def test_a_failure_counts_only_if_nothing_else_ended_the_rehearsal(
    answer: Verdict | None, stops: int, outcome: str, *, ran_out: bool
) -> None:
    of: Any = SimpleNamespace(_cgroup=SimpleNamespace(ran_out=lambda: ran_out), _stops=stops)
    said = b"" if answer is None else wire.encode(Rehearsed(answer))
    assert (await Rehearsals._judged(of, said, 1, 1 << 20)).outcome == outcome


@pytest.mark.parametrize(("known_at", "counts"), [(1, True), (2, False), (None, False)])
async def test_a_failure_does_not_count_if_the_container_went_away_meanwhile(
    known_at: int | None, *, counts: bool
) -> None:
    container = SimpleNamespace(container_id="one", asked_at=1)
    known = iter([container, None if known_at is None else SimpleNamespace(asked_at=known_at)])
    noted: list[Verdict] = []

    async def verdict(_record: object, _container: object) -> Verdict:
        return BROKEN

    of: Any = SimpleNamespace(
        _journal=SimpleNamespace(container=lambda _container_id: next(known)),
        _settings=SimpleNamespace(rehearse_seconds=5.0),
        _due=lambda _container: "kind",
        _verdict=verdict,
        _note=lambda _record, verdict, _kind, _seconds: noted.append(verdict),
    )
    of._is_gone = lambda container: Rehearsals._is_gone(of, container)
    record: Any = SimpleNamespace(container_id="one", final=False)
    failure = await Rehearsals.failure(of, record)
    assert failure == (BROKEN.failure if counts else None)
    assert [each.outcome for each in noted] == ["failed" if counts else "not-rehearsed"]


@pytest.mark.parametrize("problem", [sqlite3.OperationalError("disk I/O error"), TypeError("no text")])
async def test_a_rehearsal_that_breaks_keeps_no_capture_from_the_store(problem: Exception) -> None:
    stored: list[object] = []

    async def fail(_record: object) -> None:
        raise problem

    async def store(record: object) -> None:
        stored.append(record)

    of: Any = SimpleNamespace(rehearsals=SimpleNamespace(failure=fail), _store_capture=store)
    record: Any = SimpleNamespace(snapshot_id="s-1")
    await SnapshotUploader._rehearse_and_store(of, record)
    assert stored == [record]
