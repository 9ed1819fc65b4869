"""What was found when people ran into it: restore loops, finished work that is begun in its middle, snapshots barred by what has passed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.stack import Run, Stack, until

pytestmark = [pytest.mark.criu, pytest.mark.nats, pytest.mark.timeout(180)]

COUNT = "i=0; while :; do i=$((i+1)); echo $i >> /count; [ -e /v/end ] && exit $(cat /v/end); sleep 0.05; done"


def begin(stack: Stack, checkpoint_id: str, volume: Path, script: str = COUNT) -> Run:
    return stack.run(checkpoint_id, "sh", "-c", script, options=("--mount", f"{volume}:/v"))


def ended(stack: Stack, checkpoint_id: str, volume: Path) -> int:
    """Run a container to its end; return its exit code."""
    ends = stack.types(checkpoint_id).count("container.ended")
    run = stack.popen_run(checkpoint_id, "sh", "-c", COUNT, options=("--mount", f"{volume}:/v"))
    run.communicate(timeout=60)
    until(lambda: stack.types(checkpoint_id).count("container.ended") > ends, saying="its end is recorded")
    return run.returncode


def kill(stack: Stack, run: Run, checkpoint_id: str) -> None:
    ends = stack.types(checkpoint_id).count("container.ended")
    os.kill(run.init_pid(), 9)
    run.wait()
    until(lambda: stack.types(checkpoint_id).count("container.ended") > ends, saying="its end is recorded")


def dumped(stack: Stack, checkpoint_id: str, volume: Path) -> str:
    """Run a container, take a snapshot of it and kill it."""
    run = begin(stack, checkpoint_id, volume)
    run.until_lines("/count", 3)
    name = str(stack.json("checkpoint", checkpoint_id)["snapshot_id"])
    kill(stack, run, checkpoint_id)
    return name


def test_a_container_that_fails_soon_after_each_restore_is_begun_anew_after_the_second_time(
    stack: Stack, tmp_path: Path
) -> None:
    snapshot = dumped(stack, "loop", tmp_path)
    (tmp_path / "end").write_text("3")
    for _ in range(2):
        assert ended(stack, "loop", tmp_path) == 3
    restored = [
        event["data"].get("restored_from") for event in stack.history("loop") if event["type"] == "container.started"
    ]
    assert restored[1:] == [snapshot, snapshot]
    (tmp_path / "end").unlink()
    third = begin(stack, "loop", tmp_path)
    assert third.until_lines("/count", 2)[:2] == ["1", "2"]
    _, _, said = third.stop()
    assert (
        "the last 2 containers that resumed from it ended by themselves within 300 s, the last with exit code 3" in said
    )


def test_a_program_that_has_ended_well_is_not_put_back_into_its_past(stack: Stack, tmp_path: Path) -> None:
    snapshot = dumped(stack, "done", tmp_path)
    (tmp_path / "end").write_text("0")
    assert ended(stack, "done", tmp_path) == 0
    (tmp_path / "end").unlink()
    anew = begin(stack, "done", tmp_path)
    assert anew.until_lines("/count", 2)[:2] == ["1", "2"]
    kill(stack, anew, "done")
    stack.cli("retry", snapshot)
    back = begin(stack, "done", tmp_path)
    assert back.container["restored_from"] == snapshot
    back.stop()


def test_a_file_that_was_missing_and_is_back_does_not_bar_the_snapshot(stack: Stack, tmp_path: Path) -> None:
    held = tmp_path / "held"
    held.touch()
    run = begin(stack, "held", tmp_path, f"exec 5>>/v/held; {COUNT}")
    counted = len(run.until_lines("/count", 3))
    run.stop()
    stack.until_stored("held")
    held.rename(tmp_path / "elsewhere")
    (tmp_path / "end").write_text("7")
    assert ended(stack, "held", tmp_path) == 7
    (tmp_path / "end").unlink()
    (tmp_path / "elsewhere").rename(held)
    again = begin(stack, "held", tmp_path)
    lines = again.until_lines("/count", counted + 3)
    assert lines == [str(number) for number in range(1, len(lines) + 1)]
    again.stop()
