"""Nothing is stuck: a start has a bound, says what it does, ends at once when it is told to, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.stack import Run, Stack, until

pytestmark = [pytest.mark.criu, pytest.mark.nats, pytest.mark.timeout(180)]

LOCKS = """
import fcntl, itertools, time
held = open("/v/lock", "a+")
fcntl.{call}(held, fcntl.LOCK_EX)
for number in itertools.count():
    print(number, file=open("/count", "a"), flush=True)
    time.sleep(0.05)
"""


def locking(call: str) -> tuple[str, ...]:
    return (sys.executable, "-c", LOCKS.format(call=call))


def left(stack: Stack, checkpoint_id: str, command: tuple[str, ...], *options: str) -> str:
    """Leave a snapshot of the id; return its name."""
    run = stack.run(checkpoint_id, *command, options=options)
    run.until_lines("/count", 3)
    run.stop()
    return stack.until_stored(checkpoint_id)[-1]


@contextmanager
def held(path: Path, command: str = "flock") -> Iterator[int]:
    """Have a process hold the lock; its pid is given."""
    code = (
        f"import fcntl, sys; f = open({str(path)!r}, 'a+'); fcntl.{command}(f, 2); print(flush=True); sys.stdin.read()"
    )
    holder = [sys.executable, "-c", code]
    with subprocess.Popen(holder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.communicate()


def remains(stack: Stack, checkpoint_id: str, run: subprocess.Popen[str]) -> list[str]:
    """What there is of an id's containers in the stack's directories, mounts, cgroups and lists."""
    opened = [event["data"] for event in stack.history(checkpoint_id) if event["type"] == "incarnation.opened"]
    ids = {data["container_id"] for data in opened}
    state = stack.state
    found = [
        str(path)
        for folder in ("containers", "run/containers", "run/runc", "worker/fetched")
        for path in state.glob(f"{folder}/*")
    ]
    found += [line for line in Path("/proc/mounts").read_text().splitlines() if f"{state}/containers" in line]
    found += [str(path) for path in Path("/sys/fs/cgroup").glob("*/woodfrog/*") if path.name in ids]
    found += [entry["container_id"] for entry in stack.containers()]
    assert run.poll() is not None
    return found


def interrupt_while(stack: Stack, checkpoint_id: str, words: str, *command: str, options: tuple[str, ...]) -> list[str]:
    """Begin a run, press Ctrl-C once it says ``words``; return what is left of it at once."""
    run = stack.popen_run(checkpoint_id, *command, options=options)
    assert run.stderr is not None
    said = ""
    while words not in said:
        line = run.stderr.readline()
        assert line, said
        said += line
    began = time.monotonic()
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=30)
    assert time.monotonic() - began < 15
    assert run.returncode == 130
    return remains(stack, checkpoint_id, run)


@pytest.mark.parametrize("call", ["flock", "lockf"])
def test_a_restore_does_not_wait_for_a_lock_that_somebody_holds(stack: Stack, tmp_path: Path, call: str) -> None:
    name = f"locked-{call}"
    options = ("--mount", f"{tmp_path}:/v")
    snapshot = left(stack, name, locking(call), *options)
    with held(tmp_path / "lock", call) as holder:
        refused = stack.popen_run(name, "true", options=(*options, "--require-restore"))
        _, said = refused.communicate(timeout=120)
        assert refused.returncode == 125
        assert "(restore-required)" in said
        (failed,) = [event["data"] for event in stack.history(name) if event["type"] == "incarnation.restore-failed"]
        assert failed["failure"]["code"] == "lock-taken"
        assert f"process {holder} " in failed["failure"]["cause"]
        assert "/lock" in failed["failure"]["cause"]
    assert remains(stack, name, refused) == []
    again = stack.run(name, "true", options=options)
    assert again.container["restored_from"] == snapshot
    again.stop()


def test_ctrl_c_ends_a_restore_at_once_and_nothing_is_left(stack: Stack, tmp_path: Path) -> None:
    options = ("--mount", f"{tmp_path}:/v")
    snapshot = left(stack, "restoring", locking("flock"), *options)
    with held(tmp_path / "lock"):
        assert interrupt_while(stack, "restoring", "restoring snapshot", "true", options=options) == []
    again = stack.run("restoring", "true", options=options)
    assert again.container["restored_from"] == snapshot
    again.stop()


def test_a_restore_that_takes_too_long_is_given_up(stack: Stack, tmp_path: Path) -> None:
    options = ("--mount", f"{tmp_path}:/v", "--env", "WOODFROG_RESTORE_LIMIT=1s")
    snapshot = left(stack, "slow", locking("flock"), *options)
    with held(tmp_path / "lock"):
        run = stack.popen_run("slow", "true", options=(*options, "--require-restore"))
        _, said = run.communicate(timeout=60)
    assert "(restore-required)" in said
    (failed,) = [event["data"] for event in stack.history("slow") if event["type"] == "incarnation.restore-failed"]
    assert failed["failure"]["code"] == "restore-timeout"
    assert remains(stack, "slow", run) == []
    again = stack.run("slow", "true", options=options[:2])
    assert again.container["restored_from"] == snapshot
    again.stop()


@contextmanager
def no_control_plane(stack: Stack) -> Iterator[None]:
    """Stop the process of the control plane meanwhile: nobody answers, and nothing says so."""
    plane = stack.child("controlplane")
    os.kill(plane, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(plane, signal.SIGCONT)


COUNT = ("sh", "-c", "i=0; while :; do i=$((i+1)); echo $i >> /count; sleep 0.05; done")


def unanswered(stack: Stack) -> int:
    """How many questions about starts the worker sent in vain."""
    said = (stack.state / "logs/nodeworker.log").read_text()
    return said.count("no control plane answered how to start a container")


def start_that_nobody_answers(stack: Stack, name: str) -> subprocess.Popen[str]:
    """Start the id, and wait until NATS has the question for the control plane, which is stopped: only then the log will open the start."""
    before = unanswered(stack)
    run = stack.popen_run(name, *COUNT)
    until(lambda: any(each["state"] == "creating" for each in stack.containers()), saying="it is being created")
    until(lambda: unanswered(stack) > before, 60, saying="it has asked")
    return run


def given_up_while_it_waits(stack: Stack, name: str, first: Run) -> None:
    """Start the id a second time, which nobody answers, and end that by a signal."""
    second = start_that_nobody_answers(stack, name)
    began = time.monotonic()
    second.send_signal(signal.SIGTERM)
    second.communicate(timeout=30)
    assert time.monotonic() - began < 15
    assert second.returncode == 143
    assert [each["container_id"] for each in stack.containers()] == [first.container["container_id"]]


def test_ctrl_c_ends_a_start_that_waits_for_its_predecessor_and_leaves_no_ghost(stack: Stack) -> None:
    first = stack.run("waits", *COUNT)
    first.until_lines("/count", 3)
    with no_control_plane(stack):
        given_up_while_it_waits(stack, "waits", first)
        first.process.send_signal(signal.SIGTERM)
        until(lambda: any(each["captured_as"] for each in stack.containers()), saying="the final snapshot is captured")
    _, _, said = first.wait()
    assert "captured as" in said
    again = stack.run("waits", *COUNT)
    assert (again.container["restored_from"] or again.container["reason"]) in said
    again.stop()


def test_what_ran_on_beside_a_start_that_was_given_up_is_not_passed_over(stack: Stack) -> None:
    first = stack.run("runs-on", *COUNT)
    first.until_lines("/count", 3)
    with no_control_plane(stack):
        given_up_while_it_waits(stack, "runs-on", first)
    try:
        until_nothing_came_of_a_start(stack, "runs-on")
    finally:
        _, _, said = first.stop()
    again = stack.run("runs-on", *COUNT)
    resumed_from = again.container["restored_from"]
    again.stop()
    assert resumed_from in said


def test_a_run_that_is_killed_while_its_start_waits_leaves_no_ghost(stack: Stack) -> None:
    with no_control_plane(stack):
        run = stack.popen_run("killed", "true")
        until(stack.containers, saying="it is being created")

        def creating() -> list[int]:
            return [
                int(path.parent.name)
                for path in Path("/proc").glob("[0-9]*/cmdline")
                if b"create" in path.read_bytes()
                and str(stack.state).encode() in path.read_bytes()
                and path.parent.name != str(run.pid)
            ]

        (waiting,) = until(lambda: len(found := creating()) == 1 and found, saying="the runtime waits")
        os.kill(waiting, signal.SIGKILL)
        run.communicate(timeout=30)
        # Killed before it asked, it is waited for as long as an announced create may take until it asks: half a minute.
        until(lambda: stack.containers() == [], 45, saying="nobody is waited for any more")


def creates(stack: Stack, run: subprocess.Popen[str]) -> list[int]:
    """The runtime's processes that create a container of the stack, other than ``run`` itself."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:  # it has ended
            continue
        if b"create" in words and str(stack.state).encode() in words and path.parent.name != str(run.pid):
            found.append(int(path.parent.name))
    return found


def killed_while_it_waits(stack: Stack, name: str) -> None:
    """Start the id, which nobody answers, and kill ``woodfrog run`` meanwhile: what creates its container ends with it."""
    run = start_that_nobody_answers(stack, name)
    until(lambda: len(creates(stack, run)) == 1, saying="the runtime waits")
    run.kill()
    run.communicate(timeout=30)
    until(lambda: creates(stack, run) == [], saying="nobody creates it any more")


GIVEN_UP_SECONDS = 90
"""Of a start whose runtime ended before it asked, or over whose question its worker died, the worker is sure after a minute."""


def until_nothing_came_of_a_start(stack: Stack, name: str) -> None:
    until(
        lambda: any(
            each["type"] == "container.ended" and each["data"].get("never_ran") for each in stack.history(name)
        ),
        GIVEN_UP_SECONDS,
        saying="the start that was given up came to nothing",
    )


def goes_on(stack: Stack, name: str, snapshot: str) -> None:
    """Start the id once more: it resumes from that snapshot, and counts on from there without a gap."""
    again = stack.run(name, *COUNT)
    assert again.container["restored_from"] == snapshot
    before = len(again.lines("/count"))
    counted = again.until_lines("/count", before + 5)
    again.stop()
    assert counted == [str(number) for number in range(1, len(counted) + 1)]


def test_a_start_ends_with_its_run_that_is_killed_and_the_next_one_resumes(stack: Stack) -> None:
    snapshot = left(stack, "killed-run", COUNT)
    with no_control_plane(stack):
        killed_while_it_waits(stack, "killed-run")
    until_nothing_came_of_a_start(stack, "killed-run")
    assert stack.containers() == []
    goes_on(stack, "killed-run", snapshot)


def test_what_runs_beside_a_start_whose_run_is_killed_keeps_its_snapshots(stack: Stack) -> None:
    first = stack.run("killed-beside", *COUNT)
    first.until_lines("/count", 3)
    with no_control_plane(stack):
        killed_while_it_waits(stack, "killed-beside")
    until_nothing_came_of_a_start(stack, "killed-beside")
    stack.cli("checkpoint", "killed-beside")
    (row,) = [each for each in stack.json("get", "ids") if each["id"] == "killed-beside"]
    assert (row["state"], row["container_id"]) == ("running", first.container["container_id"])
    first.stop()
    goes_on(stack, "killed-beside", stack.until_stored("killed-beside", 2)[-1])


def test_a_start_that_is_given_up_while_its_worker_is_killed_came_to_nothing(stack: Stack) -> None:
    first = stack.run("killed-worker", *COUNT)
    first.until_lines("/count", 3)
    with no_control_plane(stack):
        second = start_that_nobody_answers(stack, "killed-worker")
        worker = stack.child("nodeworker")
        os.kill(worker, signal.SIGKILL)
        second.send_signal(signal.SIGTERM)
        second.communicate(timeout=30)
        until(lambda: stack.child("nodeworker") != worker, saying="there is another worker")
        until(
            lambda: len(stack.containers(missing_worker_is_fine=True)) == 1,
            GIVEN_UP_SECONDS,
            saying="it lists what runs",
        )
    until_nothing_came_of_a_start(stack, "killed-worker")
    first.stop()
    goes_on(stack, "killed-worker", stack.until_stored("killed-worker")[-1])


def test_a_container_that_was_created_and_never_started_is_not_captured(stack: Stack) -> None:
    snapshot = left(stack, "unstarted", COUNT)
    with no_control_plane(stack):
        run = stack.popen_run("unstarted", *COUNT)
        until(lambda: any(each["state"] == "creating" for each in stack.containers()), saying="it is being created")
        os.kill(run.pid, signal.SIGSTOP)
    (container,) = until(
        lambda: [each for each in stack.containers() if each["state"] == "created"], 60, saying="it waits for its start"
    )
    assert container["restored_from"] == snapshot
    run.kill()
    run.communicate(timeout=30)
    answer = stack.ask(ask="stop", container_id=container["container_id"])
    assert answer["failure"]["code"] == "not-running"
    goes_on(stack, "unstarted", snapshot)
    until_nothing_came_of_a_start(stack, "unstarted")
