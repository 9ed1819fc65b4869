"""What a rehearsal's cgroup tells of it, and whom its removal ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodeworker.rehearsal import cgroup
from nodeworker.rehearsal.cgroup import RehearsalCgroup

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
