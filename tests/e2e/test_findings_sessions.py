"""What a session of ``exec`` does to a container's snapshots: at a stop nothing is lost because of one."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from support.stack import Run, Stack, until

pytestmark = [pytest.mark.criu, pytest.mark.nats, pytest.mark.timeout(120)]

SERVER = textwrap.dedent("""
    import os, select, socket
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("/socket")
    listener.listen()
    waits, count = [listener], 0
    while True:
        for each in select.select(waits, [], [], 0.05)[0]:
            if each is listener:
                waits.append(each.accept()[0])
            elif not each.recv(100):
                waits.remove(each)
                each.close()
        count += 1
        with open("/count", "a") as file:
            print(count, len(waits) - 1, file=file)
""")
REAPS = "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
CLIENT = "import socket, time; s = socket.socket(socket.AF_UNIX); s.connect('/socket'); time.sleep(1e6)"
ORPHAN = """
import os, time
if os.fork() == 0:
    if os.fork() == 0:
        open("/left", "w")
        time.sleep(1e6)
    os._exit(0)
os.wait()
time.sleep(1e6)
"""
TRACER = (
    "import ctypes, time; assert ctypes.CDLL(None).ptrace(0x4206, 1, 0, 0) == 0; open('/traces', 'w'); time.sleep(1e6)"
)


@contextmanager
def session(stack: Stack, run: Run, program: str, *, terminal: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    """A session of ``exec`` that runs a program until it ends or is ended."""
    ours, theirs = pty.openpty()
    options = ("-t",) if terminal else ()
    command = ["runc", "--root", stack.runc_root, "exec", *options, str(run.container["container_id"])]
    with subprocess.Popen(
        [*command, sys.executable, "-c", program], stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        try:
            yield process
        finally:
            process.kill()
            os.close(ours)


def goes_on(stack: Stack, run: Run, failed: int = 0) -> None:
    """A stop captures it in spite of the session, which is ended and named, and it resumes without a gap."""
    counted = len(run.lines("/count"))
    code, _, said = run.stop()
    assert code == 137
    assert "captured as" in said
    assert stack.types(run.id).count("snapshot.dump-failed") == failed
    stack.until_stored(run.id)
    (stored,) = [event["data"] for event in stack.history(run.id) if event["type"] == "snapshot.stored"]
    assert "sessions of exec were ended" in " ".join(stored["warnings"])
    again = stack.run(run.id, sys.executable, "-c", SERVER)
    assert again.container["restored_from"] == stored["snapshot_id"]
    lines = again.until_lines("/count", counted + 3)
    assert [line.split()[0] for line in lines] == [str(number) for number in range(1, len(lines) + 1)]
    again.stop()


def test_a_client_in_a_session_costs_a_periodic_snapshot_by_name_and_no_final_one(stack: Stack) -> None:
    run = stack.run("client", sys.executable, "-c", SERVER)
    run.until_lines("/count", 3)
    with session(stack, run, CLIENT) as client:
        until(lambda: run.lines("/count")[-1].endswith(" 1"), saying="it is connected")
        refused = stack.cli("checkpoint", "client", check=False)
        assert refused.returncode == 1
        assert "(external-socket)" in refused.stderr
        assert "/socket" in refused.stderr
        assert client.poll() is None, "a snapshot of a container that runs on ends no session"
        goes_on(stack, run, failed=1)
        assert client.wait(20) == 128 + signal.SIGKILL


def test_a_debugger_in_a_session_does_not_cost_the_final_snapshot(stack: Stack) -> None:
    run = stack.run("debugged", sys.executable, "-c", SERVER)
    run.until_lines("/count", 3)
    with session(stack, run, TRACER):
        until((run.root / "traces").exists, saying="it is traced")
        goes_on(stack, run)


def test_what_outlived_its_parent_in_a_session_with_a_terminal_costs_no_final_snapshot(stack: Stack) -> None:
    run = stack.run("terminal", sys.executable, "-c", SERVER)
    run.until_lines("/count", 3)
    with session(stack, run, ORPHAN, terminal=True):
        until((run.root / "left").exists, saying="it left a process")
        refused = stack.cli("checkpoint", "terminal", check=False)
        assert "(terminal-session)" in refused.stderr
        run.until_lines("/count", len(run.lines("/count")) + 3)
        goes_on(stack, run, failed=1)


def test_a_process_that_was_put_into_a_container_from_outside_is_named_and_the_program_runs_on(stack: Stack) -> None:
    run = stack.run("entered", sys.executable, "-c", REAPS + SERVER)
    run.until_lines("/count", 3)
    enter = [
        "nsenter",
        "--target",
        str(run.init_pid()),
        "--mount",
        "--pid",
        "sh",
        "-c",
        "sleep 1000 >/dev/null 2>&1 & echo",
    ]
    subprocess.run(enter, check=True, timeout=20, capture_output=True)
    refused = stack.cli("checkpoint", "entered", check=False)
    assert "(foreign-process)" in refused.stderr
    run.until_lines("/count", len(run.lines("/count")) + 3)
    namespace = Path(f"/proc/{run.init_pid()}/ns/pid").readlink()
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if command.read_bytes() == b"sleep\x001000\0" and (command.parent / "ns/pid").readlink() == namespace:
                os.kill(int(command.parent.name), signal.SIGKILL)
    assert stack.json("checkpoint", "entered")["snapshot_id"] == stack.until_stored("entered")[-1]
    os.kill(run.init_pid(), 9)
    run.wait()
