"""Work is not lost silently: what a start leaves behind, and what a stop could not capture, is said where the user looks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.stack import Run, Stack, until

pytestmark = [pytest.mark.criu, pytest.mark.nats, pytest.mark.timeout(180)]

COUNT = ("sh", "-c", "i=0; while :; do i=$((i+1)); echo $i >> /count; sleep 0.05; done")
LEFT = "woodfrog: warning: 1 snapshot with captured work left behind; `woodfrog get snapshots {}` lists what there is"


def begin(stack: Stack, checkpoint_id: str, *options: str) -> Run:
    run = stack.run(checkpoint_id, *COUNT, options=options)
    run.until_lines("/count", 3)
    return run


def kill(stack: Stack, run: Run) -> str:
    """Kill the container; return what was said on standard error."""
    ends = stack.types(run.id).count("container.ended")
    os.kill(run.init_pid(), 9)
    said = run.wait()[2]
    until(lambda: stack.types(run.id).count("container.ended") > ends, saying="its end is recorded")
    return said


def left(stack: Stack, checkpoint_id: str, *options: str) -> str:
    """Leave a snapshot of the id; return its name."""
    begin(stack, checkpoint_id, *options).stop()
    return stack.until_stored(checkpoint_id)[0]


def hear(run: Run, words: str) -> str:
    """Read standard error until these words are in it."""
    assert run.process.stderr is not None
    said = ""
    while words not in said:
        line = run.process.stderr.readline()
        assert line, said
        said += line
    return said


@contextmanager
def worker_away(stack: Stack) -> Iterator[None]:
    """Have nobody find the node worker."""
    elsewhere = stack.socket.with_name("elsewhere")
    stack.socket.rename(elsewhere)
    try:
        yield
    finally:
        elsewhere.rename(stack.socket)


def test_a_cold_start_that_leaves_work_behind_says_so_on_the_terminal_and_in_why(stack: Stack, tmp_path: Path) -> None:
    left(stack, "cold", "--mount", f"{tmp_path}:/v")
    said = kill(stack, begin(stack, "cold"))
    assert "woodfrog: starts from its image: no snapshot is usable" in said
    assert "the new container has no mount at /v" in said
    assert LEFT.format("cold") in said
    assert "1 snapshot with captured work left behind." in stack.cli("why", "cold").stdout


def test_so_does_a_start_from_an_older_snapshot(stack: Stack, tmp_path: Path) -> None:
    older = left(stack, "older")
    begin(stack, "older", "--mount", f"{tmp_path}:/v").stop()
    stack.until_stored("older", 2)
    again = begin(stack, "older")
    assert again.container["restored_from"] == older
    assert "woodfrog: warning: 1 newer snapshot with captured work left behind" in kill(stack, again)


def test_a_first_start_leaves_nothing_behind(stack: Stack) -> None:
    assert "warning" not in kill(stack, begin(stack, "first"))


def test_a_restore_that_is_required_is_refused_rather_than_cold(stack: Stack, tmp_path: Path) -> None:
    left(stack, "required", "--require-restore", "--mount", f"{tmp_path}:/v")
    refused = stack.popen_run("required", *COUNT, options=("--require-restore",))
    _, said = refused.communicate(timeout=60)
    assert refused.returncode == 1
    assert "(restore-required)" in said
    assert "the new container has no mount at /v" in said


def test_a_fresh_start_begins_again_and_no_later_one_goes_back_unless_it_is_retried(stack: Stack) -> None:
    snapshot = left(stack, "fresh")
    anew = begin(stack, "fresh", "--fresh")
    assert anew.lines("/count")[:2] == ["1", "2"]
    assert LEFT.format("fresh") in kill(stack, anew)
    later = begin(stack, "fresh")
    assert later.lines("/count")[:2] == ["1", "2"]
    assert "incarnation 2 started fresh, as was asked for" in kill(stack, later)
    stack.cli("retry", snapshot)
    back = begin(stack, "fresh")
    assert back.container["restored_from"] == snapshot
    kill(stack, back)


def test_a_stop_whose_worker_is_back_in_time_promises_nothing_before_it_has_its_snapshot(stack: Stack) -> None:
    run = begin(stack, "back")
    with worker_away(stack):
        run.process.terminate()
        said = hear(run, "the node worker does not answer")
    said += run.wait()[2]
    assert "no final snapshot" not in said
    assert "captured as" in said
    again = begin(stack, "back")
    assert again.container["restored_from"] in said
    again.stop()


def test_a_stop_whose_worker_stays_away_says_that_there_is_no_snapshot(stack: Stack) -> None:
    run = begin(stack, "away")
    with worker_away(stack):
        run.process.terminate()
        hear(run, "the node worker does not answer")
        os.kill(run.init_pid(), 9)
        said = run.wait()[2]
    assert "no final snapshot: the node worker does not answer" in said
    assert "the next start of away starts from its image" in said
