"""What a program could not notice, or lost without a word: that it was restored, its processors, the command that was not run."""

from __future__ import annotations

import os
import sys
import textwrap
from pathlib import Path

import pytest
from support.stack import Run, Stack, until

pytestmark = [pytest.mark.criu, pytest.mark.nats, pytest.mark.timeout(180)]

DRAWS = textwrap.dedent("""
    import os, random, signal, time

    def renew(*_):
        random.seed(os.urandom(32))
        with open("/count", "a") as file:
            print("renewed", open("/.woodfrog/generation").read().strip(), file=file)

    signal.signal(signal.SIGUSR1, renew)
    while True:
        if os.path.exists("/tmp/dump"):
            open("/flushed", "w").close()
            os.unlink("/tmp/dump")
        with open("/count", "a") as file:
            print(random.getrandbits(128), file=file)
        time.sleep(0.05)
""")
COUNTS = "i=0; while :; do i=$((i+1)); echo $i >> /count; sleep 0.05; done"
PLACED = textwrap.dedent("""
    import ctypes, os, threading, time
    call = ctypes.CDLL(None).syscall
    get, put = {"x86_64": (252, 251), "aarch64": (31, 30)}[os.uname().machine]
    own = {0: 0, 1: max(os.sched_getaffinity(0))}
    def work(number):
        os.sched_setaffinity(0, {own[number]})
        assert call(put, 1, 0, 2 << 13 | 3 + number) == 0
        while True:
            with open(f"/thread{number}", "a") as file:
                print(sorted(os.sched_getaffinity(0)), call(get, 1, 0) & 7, file=file)
            time.sleep(0.05)
    threading.Thread(target=work, args=(1,), daemon=True).start()
    work(0)
""")


def options(**wishes: str) -> tuple[str, ...]:
    return tuple(word for name, text in wishes.items() for word in ("--env", f"WOODFROG_{name.upper()}={text}"))


def dump(stack: Stack, run: Run) -> int:
    """Take a snapshot and let the container run on; return how many lines it had written soon after the snapshot."""
    run.until_lines("/count", 3)
    stack.json("checkpoint", run.id)
    lines = len(run.lines("/count"))
    run.until_lines("/count", lines + 10)
    return lines


def kill(stack: Stack, run: Run) -> None:
    """Kill a container, as a node does that is lost."""
    ends = stack.types(run.id).count("container.ended")
    os.kill(run.init_pid(), 9)
    run.wait()
    until(lambda: stack.types(run.id).count("container.ended") > ends, saying="its end is recorded")


def test_a_program_that_is_told_of_its_restore_draws_other_random_numbers(stack: Stack) -> None:
    wishes = options(before_dump="file: /tmp/dump", after_restore="signal: USR1")
    run = stack.run("draws", sys.executable, "-c", DRAWS, options=wishes)
    at_the_snapshot = dump(stack, run)
    assert not (run.root / ".woodfrog").exists(), "it was not restored yet"
    assert (run.root / "flushed").exists(), "it got ready for the snapshot"
    drawn = set(run.lines("/count"))
    kill(stack, run)
    for generation in (1, 2):
        again = stack.run("draws", sys.executable, "-c", DRAWS, options=wishes)
        assert again.container["restored_from"] is not None
        lines = again.until_lines("/count", at_the_snapshot + 20)
        fresh = lines[lines.index(f"renewed {generation}") :]
        assert len(set(fresh)) == len(fresh) >= 10
        assert not drawn & set(fresh), "no number is drawn twice"
        if generation == 1:  # the second resumes from a final snapshot, before which it drew on unseen
            assert set(lines) - set(fresh) <= drawn, "it draws nothing before it is told"
        assert (again.root / ".woodfrog/generation").read_text() == f"{generation}\n"
        drawn |= set(lines)
        at_the_snapshot = len(lines)
        again.stop()
        stack.until_stored("draws", generation + 1)


def test_a_hook_that_fails_or_hangs_stops_neither_the_snapshot_nor_the_start(stack: Stack) -> None:
    wishes = options(
        before_dump="exec: sh -c 'echo SECRET; sleep 1000'",
        after_restore="exec: sh -c 'cat /.woodfrog/generation > /hooked; id -u >> /hooked; exit 3'",
        hook_limit="5s",
    )
    run = stack.run("hooks", "sh", "-c", COUNTS, options=wishes)
    dump(stack, run)
    kill(stack, run)
    stored = [each for each in stack.history("hooks") if each["type"] == "snapshot.stored"]
    slow = "the hook before-dump (exec) failed: it was not done within 5 s and was ended"
    assert stored[0]["data"]["warnings"] == [slow]
    again = stack.run("hooks", "sh", "-c", COUNTS, options=wishes)
    assert again.container["restored_from"] == stored[0]["data"]["snapshot_id"]
    until(lambda: again.lines("/hooked") == ["1", "0"], saying="the command ran in the container")
    failed = "the hook after-restore (exec) failed: exit code 3"
    until(lambda: failed in stack.cli("why", "hooks").stdout, saying="it is told that it failed")
    assert "SECRET" not in stack.cli("history", "hooks", "-o", "json").stdout
    again.stop()


def test_threads_keep_their_processors_and_io_priority(stack: Stack) -> None:
    run = stack.run("placed", sys.executable, "-c", PLACED)
    before = {name: run.until_lines(name, 3)[-1] for name in ("/thread0", "/thread1")}
    run.stop()
    stack.until_stored("placed")
    again = stack.run("placed", sys.executable, "-c", PLACED)
    assert again.container["restored_from"] is not None
    for name, line in before.items():
        lines = again.until_lines(name, len(again.lines(name)) + 3)
        assert set(lines) == {line}, "not for a moment on another processor"
    again.stop()


def test_a_command_that_is_not_run_is_named(stack: Stack, tmp_path: Path) -> None:
    run = stack.run("command", "sh", "-c", COUNTS)
    run.until_lines("/count", 3)
    run.stop()
    stack.until_stored("command")
    again = stack.run("command", "echo", "hello")
    assert again.container["restored_from"] is not None
    told = "the container's command changed since the snapshot; the process has the old value"
    assert told in stack.cli("why", "command").stdout
    out, said = again.stop()[1:]
    assert "hello" not in out
    assert f"woodfrog: warning: {told}" in said


LOOKS = textwrap.dedent("""
    import socket, time
    while True:
        with open("/count", "a") as file:
            print(socket.gethostbyname(socket.gethostname()), file=file)
        time.sleep(0.05)
""")


def test_a_host_name_resolves_by_a_file_that_is_mounted_for_it_before_and_after_a_restore(
    stack: Stack, tmp_path: Path
) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n127.0.1.1 looks\n")
    mount = ("--name", "looks", "--mount", f"type=bind,src={hosts},dst=/etc/hosts,ro")
    run = stack.run("looks", sys.executable, "-c", LOOKS, options=mount)
    counted = len(run.until_lines("/count", 3))
    run.stop()
    stack.until_stored("looks")
    hosts.write_text("127.0.0.1 localhost\n127.0.2.1 looks\n")
    again = stack.run("looks", sys.executable, "-c", LOOKS, options=mount)
    assert again.container["restored_from"] is not None
    lines = again.until_lines("/count", counted + 5)
    assert (lines[0], lines[-1]) == ("127.0.1.1", "127.0.2.1")
    again.stop()
