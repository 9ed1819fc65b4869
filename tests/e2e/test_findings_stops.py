"""What a stop says is what happens next, and a stop without a snapshot says why."""

from __future__ import annotations

import json
import os
import re
import signal
import sys

import pytest
from support.stack import Run, Stack, until

pytestmark = [pytest.mark.criu, pytest.mark.nats, pytest.mark.timeout(120)]

LOOP = "i=0; while :; do i=$((i+1)); echo $i >> /count; sleep 0.05; done"
COUNT = ("sh", "-c", LOOP)
ENDS = ("sh", "-c", f"trap 'exit 5' TERM; {LOOP}")
VSOCK = "import socket, time\nheld = socket.socket(40, socket.SOCK_STREAM)\nopen('/count', 'a').write('1\\n')\ntime.sleep(1e6)"
UNCAPTURABLE = (sys.executable, "-c", VSOCK)


def begin(stack: Stack, checkpoint_id: str, command: tuple[str, ...] = COUNT) -> Run:
    run = stack.run(checkpoint_id, *command)
    run.until_lines("/count", 1)
    return run


def test_the_snapshot_that_is_promised_is_taken(stack: Stack) -> None:
    _, _, said = begin(stack, "kept").stop()
    promised = re.search(r"captured as ([^;,]+)[;,] .*run kept again .*and it resumes from there", said)
    assert promised is not None
    again = begin(stack, "kept")
    assert again.container["restored_from"] == promised[1]
    again.stop()


def test_one_that_came_too_late_is_not_promised(stack: Stack) -> None:
    first = begin(stack, "twice")
    second = stack.run("twice", *COUNT)
    _, _, said = first.stop()
    assert "too late: the start of incarnation 2 of twice was decided without it" in said
    assert "resumes from there" not in said
    second.stop()
    late = said.rpartition("captured as ")[2].partition(",")[0]
    assert f"`woodfrog pin {late}` goes back to this one" in said
    stack.cli("pin", late)
    again = begin(stack, "twice")
    assert again.container["restored_from"] == late
    again.stop()


def test_one_that_is_passed_over_for_a_pin_is_not_promised(stack: Stack) -> None:
    run = begin(stack, "pinned")
    pinned = stack.json("checkpoint", "pinned")["snapshot_id"]
    stack.cli("pin", pinned)
    _, _, said = run.stop()
    assert f"; but pinned resumes from {pinned}, which is pinned" in said


def test_a_stop_without_a_snapshot_says_why_and_what_comes_next(stack: Stack) -> None:
    run = begin(stack, "lost", UNCAPTURABLE)
    run.process.terminate()
    until(lambda: any(event["type"] == "snapshot.dump-failed" for event in stack.history("lost")), saying="it failed")
    os.kill(run.init_pid(), 9)
    _, _, said = run.wait()
    assert "no final snapshot: a process holds a socket of a family that CRIU does not know" in said
    assert "(socket-family)" in said
    assert "the next start of lost starts from its image" in said


def test_stop_says_so_too_and_kills_whoever_does_not_end(stack: Stack) -> None:
    run = begin(stack, "stays", UNCAPTURABLE)
    left = stack.cli("stop", "stays", "--timeout", "1", check=False)
    assert left.returncode == 1
    assert "(socket-family)" in left.stdout
    run.init_pid()
    killed = stack.cli("stop", "stays", "--timeout", "1", "--kill", check=False)
    assert killed.returncode == 1
    code, _, _ = run.wait()
    assert code == 137


@pytest.mark.parametrize("closed", ["stderr", "both"])
def test_one_whose_words_nobody_reads_any_more_is_captured_all_the_same(stack: Stack, closed: str) -> None:
    run = begin(stack, f"unread-{closed}")
    for stream in (run.process.stderr, run.process.stdout if closed == "both" else None):
        if stream is not None:
            stream.close()
    run.process.send_signal(signal.SIGTERM)
    assert run.process.wait(60) == 128 + signal.SIGKILL, "the exit code is that of a container that was captured"
    again = begin(stack, f"unread-{closed}")
    assert again.container["restored_from"] == stack.until_stored(f"unread-{closed}")[-1]
    again.stop()


def test_stop_says_what_the_next_start_resumes_from(stack: Stack) -> None:
    first, second = begin(stack, "two"), stack.run("two", *COUNT)
    second.until_lines("/count", 1)
    done = stack.cli("stop", "two", "-o", "json")
    older, newer = (
        next(
            each["captured_as"]
            for each in json.loads(done.stdout)
            if each["container_id"] == run.container["container_id"]
        )
        for run in (first, second)
    )
    assert f"captured as {older}, too late: the start of incarnation 2 of two was decided without it" in done.stderr
    assert f"captured as {newer}; run two again and it resumes from there" in done.stderr
    first.wait()
    second.wait()
    again = begin(stack, "two")
    assert again.container["restored_from"] == newer
    again.stop()


def test_stop_names_the_snapshot_also_while_the_control_plane_is_away(stack: Stack) -> None:
    run = begin(stack, "away")
    plane = stack.child("controlplane")
    os.kill(plane, signal.SIGSTOP)
    try:
        done = stack.cli("stop", "away", "-o", "json")
    finally:
        os.kill(plane, signal.SIGCONT)
    (stopped,) = json.loads(done.stdout)
    run.wait()
    assert stopped["captured_as"] == stack.until_stored("away")[-1]
    assert f"captured as {stopped['captured_as']}, not stored yet" in done.stderr


def test_stop_names_the_snapshot_of_what_it_captured(stack: Stack) -> None:
    run = begin(stack, "ended", ENDS)
    (stopped,) = stack.json("stop", "ended")
    assert stopped["ended"] is True
    assert stopped["why_not"] == ""
    run.wait()
    again = begin(stack, "ended", ENDS)
    assert again.container["restored_from"] == stopped["captured_as"]
    again.stop()
