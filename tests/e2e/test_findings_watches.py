"""Programs that watch files go on hearing of them after a move; what cannot be found again is refused before anything stands still."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from support.stack import Stack, until

pytestmark = [pytest.mark.criu, pytest.mark.nats, pytest.mark.timeout(180)]

PROGRAM = Path(__file__).parent / "workloads/watches.py"
PLACES = 7


def test_what_was_watched_is_heard_of_after_a_move(stack: Stack, tmp_path: Path) -> None:
    mount = ("--mount", f"{tmp_path}:/v")
    run = stack.run("watches", sys.executable, PROGRAM, options=mount)
    run.until_lines("/count", 5)
    run.stop()
    stack.until_stored("watches")
    again = stack.run("watches", sys.executable, PROGRAM, options=mount)
    assert again.container["restored_from"] is not None
    (again.root / "look").touch()
    until(lambda: len(again.lines("/said")) == PLACES, 30, saying="all was looked at")
    assert [line for line in again.lines("/said") if not line.endswith(": heard")] == []
    again.stop()


def test_a_watch_of_a_deleted_file_is_refused_by_name_and_the_program_runs_on(stack: Stack, tmp_path: Path) -> None:
    run = stack.run("gone", sys.executable, PROGRAM, "gone", options=("--mount", f"{tmp_path}:/v"))
    run.until_lines("/count", 3)
    refused = stack.cli("checkpoint", "gone", check=False)
    assert refused.returncode == 1
    assert "(watch-not-found)" in refused.stderr
    assert "watches a file or directory of its root file system that no name leads to" in refused.stderr
    run.until_lines("/count", len(run.lines("/count")) + 3)
    os.kill(run.init_pid(), 9)
    run.wait()
