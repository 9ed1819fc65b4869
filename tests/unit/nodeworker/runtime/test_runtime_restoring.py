"""A restore is waited for no longer than its limit, and not for a lock that another process holds."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nodeworker.domain.restore_limits import killed
from nodeworker.runtime import children, restore_process

pytestmark = pytest.mark.timeout(20)


def begin(code: str, *arguments: str) -> int:
    return children.spawn([sys.executable, "-c", code, *arguments])


def test_the_exit_code_of_one_that_ends_is_returned() -> None:
    assert restore_process.wait(begin("raise SystemExit(3)"), 0.0) == (3, "")


def test_one_that_takes_too_long_is_killed_with_its_children(tmp_path: Path) -> None:
    pids = tmp_path / "pid"
    code = f"import subprocess, time; child = subprocess.Popen(['sleep', '60']); open({str(pids)!r}, 'w').write(str(child.pid)); time.sleep(60)"
    pid = begin(code)
    while not pids.exists() or not pids.read_text():
        time.sleep(0.01)
    exit_code, why = restore_process.wait(pid, 0.1)
    assert exit_code == 1
    failure = killed(why)
    assert failure is not None
    assert failure.code == "restore-timeout"
    assert not children.birth(int(pids.read_text()))
    assert not children.birth(pid)


def test_one_that_waits_for_a_lock_is_killed_and_the_holder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restore_process, "LOCK_SECONDS", 0.1)
    file = tmp_path / "lock"
    with file.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        wants = f"import subprocess; subprocess.run(['flock', {str(file)!r}, 'true'])"
        exit_code, why = restore_process.wait(begin(wants), 0.0)
    assert exit_code == 1
    failure = killed(why)
    assert failure is not None
    assert failure.code == "lock-taken"
    assert f"process {os.getpid()} " in failure.cause
    assert str(file) in failure.cause


def test_a_lock_that_is_let_go_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    with subprocess.Popen(["flock", file, "sleep", "1"]):
        wants = f"import subprocess; raise SystemExit(subprocess.run(['flock', {str(file)!r}, 'true']).returncode)"
        assert restore_process.wait(begin(wants), 0.0) == (0, "")


def test_what_runc_says_is_no_reason_of_ours() -> None:
    assert killed("criu failed: type NOTIFY errno 0") is None


@pytest.mark.parametrize("path", ["", "/", "system.slice:cri:one", "/../x", "relative/path"])
def test_no_cgroup_is_removed_by_a_path_that_is_none(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    removed: list[str] = []
    monkeypatch.setattr(os, "rmdir", removed.append)
    restore_process.remove_cgroups(path)
    assert removed == []


def test_a_state_that_was_never_written_does_not_bar_the_name(tmp_path: Path) -> None:
    folder = tmp_path / "c1"
    (folder / "criu-root").mkdir(parents=True)
    (folder / "exec.fifo").touch()
    restore_process.remove_leftovers(str(folder), "")
    assert not folder.exists()
    folder.mkdir()
    (folder / "state.json").touch()
    restore_process.remove_leftovers(str(folder), "")
    assert folder.exists()
