"""A dump that somebody ended is told from one that CRIU could not take."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from nodeworker.capture.criu import interrupted
from nodeworker.capture.criu.interrupted import interruption, is_killed, removal
from nodeworker.capture.criu.runc import Runc
from nodeworker.domain.dump_retries import PASSING
from woodfrog.protocol.failures import Failure, FailureError

pytestmark = pytest.mark.timeout(20)

UNKNOWN = Failure("criu-failed", "CRIU failed", "Read its log.", "Error (criu/ptrace.c:100): Can't read memory")
CRASHED = Failure("criu-crashed", "CRIU crashed", "Use another.")
KNOWN = Failure("io-uring", "a process uses io_uring", "Do not.")


def status(state: str, pending: int = 0) -> dict[str, str]:
    return {
        "Name": "sh",
        "State": f"{state} (some)",
        "SigQ": "0/31",
        "SigPnd": f"{0:016x}",
        "ShdPnd": f"{pending:016x}",
    }


@pytest.mark.parametrize(
    ("fields", "killed"),
    [
        (status("D"), False),
        (status("T", 1 << (signal.SIGTERM - 1)), False),
        (status("D", 1 << (signal.SIGKILL - 1)), True),
        (status("Z"), True),
        ({}, True),
    ],
)
def test_a_process_that_is_frozen_has_its_end_pending(fields: dict[str, str], killed: bool) -> None:
    assert is_killed(fields) is killed


def test_the_truth_is_what_was_killed() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    killed = interruption(-9, os.getpid(), UNKNOWN)
    assert (killed.code, "signal 9" in killed.cause, killed.detail) == ("dump-killed", True, UNKNOWN.detail)
    assert killed.code in PASSING
    assert interruption(1, ended.pid, UNKNOWN).code == "container-gone"
    assert interruption(1, ended.pid, CRASHED).code == "container-gone"
    assert interruption(1, os.getpid(), CRASHED) is CRASHED
    assert interruption(1, os.getpid(), UNKNOWN) is UNKNOWN
    assert interruption(1, ended.pid, KNOWN) is KNOWN


def test_a_runc_that_is_killed_in_a_dump_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binary = tmp_path / "runc"
    binary.write_text("#!/bin/sh\nkill -9 $$\n")
    binary.chmod(0o755)
    state = SimpleNamespace(pid=os.getpid(), freezer=None)
    monkeypatch.setattr(Runc, "state", lambda *_: state)
    with pytest.raises(FailureError) as failed:
        Runc(binary, tmp_path / "criu").checkpoint(
            tmp_path, "c1", image_path=tmp_path / "i", work_path=tmp_path / "w", leave_running=True
        )
    assert failed.value.failure.code == "dump-killed"


def test_a_container_that_was_removed_in_a_dump_is_gone_whatever_was_not_found(tmp_path: Path) -> None:
    not_found = FileNotFoundError(2, "No such file or directory", "state.json")
    gone = removal(not_found, tmp_path / "removed")
    assert gone is not None
    assert (gone.code, "state.json" in gone.detail) == ("container-gone", True)
    assert removal(not_found, tmp_path) is None
    assert removal(FailureError(KNOWN), tmp_path / "removed") is None


def test_a_criu_that_does_not_find_out_that_the_container_was_killed_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupted, "_LOOK_SECONDS", 0.05)
    monkeypatch.setattr(interrupted, "_GRACE_SECONDS", 0.1)
    waits = subprocess.Popen(["unshare", "--pid", "--fork", "sleep", "60"])
    first = 0
    while not first:
        first = int(Path(f"/proc/{waits.pid}/task/{waits.pid}/children").read_text() or 0)
    with subprocess.Popen(["sh", "-c", "sleep 60; exit 3"]) as runc:
        later = threading.Timer(0.3, os.kill, (first, signal.SIGKILL))
        later.start()
        assert interrupted.wait(runc, first, 30) == 3
        later.join()
    waits.wait()
    with subprocess.Popen(["sleep", "60"]) as slow, pytest.raises(subprocess.TimeoutExpired):
        interrupted.wait(slow, os.getpid(), 0.1)
    with subprocess.Popen(["sh", "-c", "sleep 0.3; exit 4"]) as runc:
        assert interrupted.wait(runc, waits.pid, 30) == 4, "it was not the first of a namespace"
