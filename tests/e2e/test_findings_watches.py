"""Programs that watch files go on hearing of them after a move; what cannot be found again is refused before anything stands still."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from support.stack import Stack, until

pytestmark = [pytest.mark.criu, pytest.mark.nats, pytest.mark.timeout(180)]

PROGRAM = Path(__file__).parent / "workloads/watches.py"
UNREAD = Path(__file__).parent / "workloads/unread.py"
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


def test_what_waits_to_be_read_in_a_watch_is_read_before_the_snapshot_is_taken(stack: Stack) -> None:
    run = stack.run("unread", sys.executable, UNREAD, "0.2")
    for turn in range(1, 7):
        run.until_lines("/seen", 3 * turn)
        until(lambda: len(run.lines("/made")) > len(run.lines("/seen")), saying="something waits to be read")  # noqa: B023
        run.stop()
        stack.until_stored("unread", turn)
        run = stack.run("unread", sys.executable, UNREAD, "0.2")
        assert run.container["restored_from"] is not None
    seen = run.until_lines("/seen", 25)
    assert seen == [str(number) for number in range(1, len(seen) + 1)]
    run.stop()


def test_what_a_program_never_reads_of_its_watch_is_told_with_the_snapshot(stack: Stack) -> None:
    run = stack.run("never", sys.executable, UNREAD, "never")
    run.until_lines("/made", 3)
    run.stop()
    stack.until_stored("never")
    stored = next(event for event in stack.history("never") if event["type"] == "snapshot.stored")
    assert any("had not read all events of the files that it watches" in said for said in stored["data"]["warnings"])
