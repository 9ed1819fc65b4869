"""Programs that would use io_uring are given none, fall back, and go on; whoever insists on it is told what that costs."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest
from support.stack import Stack

pytestmark = [pytest.mark.criu, pytest.mark.nats, pytest.mark.timeout(180)]

PROGRAM = textwrap.dedent("""
    import ctypes, os, time
    libc = ctypes.CDLL(None, use_errno=True)
    ring = libc.syscall(425, 4, ctypes.create_string_buffer(120))
    says = "a ring" if ring >= 0 else os.strerror(ctypes.get_errno())
    count = 0
    while True:
        count += 1
        with open("/count", "a") as file:
            print(count, says, file=file)
        time.sleep(0.05)
""")
COMMAND = (sys.executable, "-c", PROGRAM)


def test_a_program_finds_no_io_uring_and_goes_on_through_three_generations(stack: Stack) -> None:
    run = stack.run("ring", *COMMAND)
    counted = 0
    for generation in range(3):
        counted = len(run.until_lines("/count", counted + 3))
        if generation == 0:
            assert stack.cli("check", "ring").stdout == "ring: could be captured now\n"
            assert "snapshot.dump-started" not in stack.types("ring")
        run.stop()
        run = stack.run("ring", *COMMAND)
        assert run.container["restored_from"] is not None
    lines = run.until_lines("/count", counted + 3)
    assert lines == [f"{number} Function not implemented" for number in range(1, len(lines) + 1)]
    run.stop()


def test_whoever_allows_it_has_it_and_gets_no_snapshot(stack: Stack) -> None:
    run = stack.run("allowed", *COMMAND, options=("--env", "WOODFROG_IO_URING=allow"))
    assert run.until_lines("/count", 1)[0] == "1 a ring"
    told = stack.cli("check", "allowed", check=False)
    assert told.returncode == 1
    assert "(io-uring)" in told.stdout
    refused = stack.cli("checkpoint", "allowed", check=False)
    assert refused.returncode == 1
    assert "(io-uring)" in refused.stderr
    assert "woodfrog.io/io-uring" in refused.stderr
    counted = len(run.lines("/count"))
    run.until_lines("/count", counted + 3)
    os.kill(run.init_pid(), 9)
    run.wait()


def test_a_session_of_exec_that_has_a_ring_hinders_no_snapshot(stack: Stack) -> None:
    loop = ("sh", "-c", "i=0; while :; do i=$((i+1)); echo $i >> /lines; sleep 0.05; done")
    run = stack.run("session", *loop, options=("--env", "WOODFROG_IO_URING=allow"))
    run.until_lines("/lines", 3)
    container = str(run.container["container_id"])
    session = subprocess.Popen(["runc", "--root", stack.runc_root, "exec", container, *COMMAND])
    try:
        assert run.until_lines("/count", 1)[0] == "1 a ring"
        counted = len(run.lines("/lines"))
        run.stop()
    finally:
        session.kill()
        session.wait()
    again = stack.run("session", *loop)
    assert again.container["restored_from"] is not None
    lines = again.until_lines("/lines", counted + 3)
    assert lines == [str(number) for number in range(1, len(lines) + 1)]
    again.stop()
