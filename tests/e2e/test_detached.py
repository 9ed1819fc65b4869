"""Detached containers go on without a terminal, and from where they were; their output is one log; commands reach into them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.stack import WOODFROG, Stack, until

pytestmark = [pytest.mark.criu, pytest.mark.nats, pytest.mark.timeout(180)]

COUNT = ("sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; echo odd $i >&2; sleep 0.05; done")


def run(stack: Stack, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Call ``woodfrog run`` and wait for its own end."""
    done = subprocess.run(
        [WOODFROG, "run", "--state-dir", stack.state, *arguments],
        check=False, capture_output=True, text=True, timeout=120, env=stack.environment,
    )  # fmt: skip
    assert not check or done.returncode == 0, (done.returncode, done.stdout, done.stderr)
    return done


def in_container(stack: Stack, *arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    """Call ``woodfrog exec``."""
    return subprocess.run(
        [WOODFROG, "exec", "--state-dir", stack.state, *arguments],
        check=False, capture_output=True, text=True, timeout=60, env=stack.environment, input=given,
    )  # fmt: skip


def counted(stack: Stack, name: str) -> list[int]:
    """The numbers in the log of an id or a container."""
    return [int(line) for line in stack.cli("logs", name).stdout.split()]


def ended(stack: Stack, container_id: str) -> None:
    folder = Path(stack.ready["containers"]) / container_id
    until(lambda: not folder.exists(), 60, saying="whoever supervised the container has removed what it made")


@pytest.fixture
def live(stack: Stack) -> Iterator[str]:
    """A detached container; its name."""
    container_id = run(stack, "-d", "--id", "live", "--memory", "64m", "--", *COUNT).stdout.strip()
    yield container_id
    stack.cli("kill", container_id, check=False)
    ended(stack, container_id)


def test_it_resumes_where_it_was_stopped_and_its_log_goes_on(stack: Stack) -> None:
    first = run(stack, "--detach", "--id", "count", "--memory", "64MiB", "--", *COUNT)
    one = first.stdout.strip()
    assert "starts from its image" in first.stderr
    until(lambda: len(counted(stack, "count")) >= 3, saying="it counts")
    (stopped,) = stack.json("stop", "count")
    assert (stopped["container_id"], stopped["ended"], stopped["why_not"]) == (one, True, "")
    ended(stack, one)
    before = counted(stack, one)
    said = stack.cli("logs", "count").stderr
    assert f"captured as {stopped['captured_as']}" in said
    assert "odd 1\n" in said
    second = run(stack, "--detach", "--id", "count", "--memory", "64MiB", "--", *COUNT)
    two = second.stdout.strip()
    assert f"resumes from {stopped['captured_as']}" in second.stderr
    until(lambda: len(counted(stack, two)) >= 3, saying="it counts on")
    after = counted(stack, two)
    assert [*before, *after] == list(range(1, len(before) + len(after) + 1))
    assert counted(stack, "count")[: len(before)] == before
    limits = [
        path
        for path in Path("/sys/fs/cgroup").rglob(f"woodfrog/{two}/memory.*")
        if path.name in {"memory.max", "memory.limit_in_bytes"}
    ]
    assert [int(path.read_text()) for path in limits] == [64 << 20]
    follower = subprocess.Popen(
        [WOODFROG, "logs", "-f", "--tail", "1", "count", "--state-dir", stack.state], stdout=subprocess.PIPE, text=True
    )
    assert follower.stdout is not None
    seen = follower.stdout.readline()
    stack.cli("stop", "count")
    with follower:
        rest = follower.stdout.read()  # communicate() would pass over what readline() has read ahead
    numbers = [int(line) for line in [seen, *rest.split()]]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert numbers[-1] == counted(stack, "count")[-1]
    ended(stack, two)


def test_it_has_no_terminal_that_could_end_it_and_a_signal_to_its_supervisor_stops_it(stack: Stack, live: str) -> None:
    lock = (Path(stack.ready["containers"]) / live).stat().st_ino
    holder = next(int(line.split()[4]) for line in Path("/proc/locks").read_text().splitlines() if f":{lock} " in line)
    status = Path(f"/proc/{holder}/stat").read_text().rpartition(") ")[2].split()
    assert (int(status[3]), int(status[4])) == (holder, 0)
    assert {str(Path(f"/proc/{holder}/fd/{number}").readlink()) for number in range(3)} == {os.devnull}
    os.kill(holder, signal.SIGTERM)
    until(
        lambda: f"captured as {stack.until_stored('live')[-1]}" in stack.cli("logs", "live").stderr,
        saying="it is captured",
    )


def test_a_command_runs_inside_with_its_input_output_and_exit_code(stack: Stack, live: str) -> None:
    done = in_container(
        stack, "-e", "A=b c", "-w", "/tmp", "live", "--", "sh", "-c", "echo $A; pwd; echo bad >&2; exit 7"
    )
    assert (done.returncode, done.stdout, done.stderr) == (7, "b c\n/tmp\n", "bad\n")
    assert in_container(stack, "-i", live, "--", "cat", given="through\n").stdout == "through\n"
    assert in_container(stack, live, "cat", given="not through\n").stdout == ""
    missing = in_container(stack, "live", "--", "nosuch")
    assert (missing.returncode, "(command-missing)" in missing.stderr) == (127, True)
    barred = in_container(stack, "live", "--", "/etc/passwd")
    assert (barred.returncode, "(command-not-executable)" in barred.stderr) == (126, True)
    nobody = in_container(stack, "nobody", "--", "true")
    assert (nobody.returncode, "(not-running)" in nobody.stderr) == (125, True)


def test_a_signal_reaches_the_program_and_a_kill_ends_it_without_a_snapshot(stack: Stack) -> None:
    program = "trap 'echo caught' USR1; while :; do echo on; sleep 0.05; done"
    container_id = run(stack, "-d", "--id", "signalled", "--", "sh", "-c", program).stdout.strip()
    until(lambda: "on" in stack.cli("logs", "signalled").stdout, saying="it runs")
    assert stack.cli("kill", "--signal", "SIGUSR1", "signalled").stdout.strip() == container_id
    until(lambda: "caught" in stack.cli("logs", container_id).stdout, saying="the signal came")
    stack.cli("kill", "signalled")
    ended(stack, container_id)
    assert "snapshot.captured" not in stack.types("signalled")


@pytest.mark.parametrize("detach", [(), ("--detach",)])
@pytest.mark.parametrize(
    ("command", "code", "word"), [("nosuch", 127, "missing"), ("/etc/passwd", 126, "not-executable")]
)
def test_a_command_that_cannot_run_has_an_exit_code_of_its_own(
    stack: Stack, detach: tuple[str, ...], command: str, code: int, word: str
) -> None:
    refused = run(stack, *detach, "--id", f"cannot-{code}", "--", command, check=False)
    assert (refused.returncode, refused.stdout) == (code, "")
    assert f"(command-{word})" in refused.stderr
    assert not [
        each for each in stack.containers() if each["key"]["id"] == f"cannot-{code}" and each["state"] != "ended"
    ]


def test_an_interrupt_before_it_has_started_ends_it(stack: Stack) -> None:
    worker = stack.child("nodeworker")
    os.kill(worker, signal.SIGSTOP)
    try:
        process = subprocess.Popen(
            [WOODFROG, "run", "-d", "--state-dir", stack.state, "--id", "interrupted", "--", *COUNT],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=stack.environment,
        )  # fmt: skip
        until(lambda: list(Path(stack.ready["containers"]).glob("*/config.json")), saying="it is being created")
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    finally:
        os.kill(worker, signal.SIGCONT)
    assert (process.returncode, out) == (128 + signal.SIGINT, "")
    assert not list(Path(stack.ready["containers"]).iterdir())


def test_an_annotation_counts_as_on_a_pod(stack: Stack) -> None:
    program = "trap 'exit 5' TERM; while :; do echo on; sleep 0.05; done"
    refused = run(stack, "--id", "ignores", "--annotation", "woodfrog.io/on-stop=never", "--", "true", check=False)
    assert (refused.returncode, "--annotation" in refused.stderr) == (2, True)
    run(stack, "-d", "--id", "ignores", "--annotation", "woodfrog.io/on-stop=ignore", "--", "sh", "-c", program)
    until(lambda: "on" in stack.cli("logs", "ignores").stdout, saying="it runs")
    assert "(stop-ignored)" in stack.cli("stop", "ignores", check=False).stdout
