"""One thread of a stopped process runs, the others stand, and afterwards all stand again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.lone_runtime import eventually

from nodeworker.capture.gpu.thread import running_alone
from woodfrog.protocol.failures import FailureError

pytestmark = pytest.mark.root

PROGRAM = """
import signal, threading, time
caught = []
signal.signal(signal.SIGUSR1, lambda *_: caught.append(1))
def work():
    while True:
        time.sleep(0.001)
thread = threading.Thread(target=work)
thread.start()
print(thread.native_id, flush=True)
while not caught:
    time.sleep(0.001)
print("caught", flush=True)
work()
"""


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    running = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True)
    with running:
        yield running
        running.kill()


def steps(pid: int, tid: int) -> int:
    lines = Path(f"/proc/{pid}/task/{tid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)


def state(pid: int, tid: int) -> str:
    return Path(f"/proc/{pid}/task/{tid}/stat").read_text().rpartition(") ")[2][0]


def stopped(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    tid = int(process.stdout.readline())
    process.send_signal(signal.SIGSTOP)
    eventually(lambda: {state(process.pid, tid), state(process.pid, process.pid)} == {"T"}, "both threads stand")
    return tid


def test_only_the_chosen_thread_runs_and_all_stand_afterwards(process: subprocess.Popen[str]) -> None:
    tid = stopped(process)
    main, other = steps(process.pid, process.pid), steps(process.pid, tid)
    with running_alone(tid):
        eventually(lambda: steps(process.pid, tid) > other + 20, "the thread runs")
        assert steps(process.pid, process.pid) == main, "the others stand"
    eventually(lambda: state(process.pid, tid) == "T", "the thread stands again")
    other = steps(process.pid, tid)
    process.send_signal(signal.SIGCONT)
    eventually(lambda: steps(process.pid, tid) > other, "all go on")


def test_signals_wait_for_the_process_to_go_on(process: subprocess.Popen[str]) -> None:
    tid = stopped(process)
    assert process.stdout is not None
    with running_alone(tid):
        os.kill(process.pid, signal.SIGUSR1)
        before = steps(process.pid, tid)
        eventually(lambda: steps(process.pid, tid) > before + 20, "the thread runs on")
    process.send_signal(signal.SIGCONT)
    assert process.stdout.readline() == "caught\n"


def test_the_thread_stands_again_when_we_die_in_between(process: subprocess.Popen[str]) -> None:
    tid = stopped(process)
    program = (
        "import os, sys; from nodeworker.capture.gpu.thread import running_alone\n"
        "with running_alone(int(sys.argv[1])):\n    print('runs', flush=True); sys.stdin.read()"
    )
    root = Path(__file__).parents[4]
    tracer = subprocess.Popen(
        [sys.executable, "-c", program, str(tid)],
        cwd=root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with tracer:
        assert tracer.stdout is not None
        assert tracer.stdout.readline() == "runs\n"
        assert state(process.pid, tid) in "SR"
        tracer.kill()
    eventually(lambda: state(process.pid, tid) == "T", "the thread stands again")


def test_a_stop_that_is_still_to_come_is_waited_for(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    tid = int(process.stdout.readline())
    later = threading.Timer(0.3, lambda: process.send_signal(signal.SIGSTOP))
    later.start()
    with running_alone(tid):
        assert state(process.pid, process.pid) == "T"
        before = steps(process.pid, tid)
        eventually(lambda: steps(process.pid, tid) > before + 20, "the thread runs")


def test_a_process_that_does_not_stand_is_refused(
    process: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert process.stdout is not None
    monkeypatch.setattr("nodeworker.capture.gpu.thread._STOP_SECONDS", 0.1)
    with pytest.raises(FailureError, match="does not stand still"), running_alone(int(process.stdout.readline())):
        pass


def test_a_thread_that_another_traces_is_refused_in_words(process: subprocess.Popen[str]) -> None:
    tid = stopped(process)
    inside, done = threading.Event(), threading.Event()

    def hold() -> None:
        with running_alone(tid):
            inside.set()
            # The thread is stopped again before the second tracer asks, or it would find a process that runs.
            done.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    inside.wait(10)
    try:
        os.kill(process.pid, signal.SIGSTOP)
        with pytest.raises(FailureError, match="gpu-thread"):
            _seize(tid)
    finally:
        done.set()
        holder.join()


def _seize(tid: int) -> None:
    from nodeworker.capture.gpu import thread  # noqa: PLC0415 -- its inner part: a thread that runs is no case for the outer

    thread._order(thread._SEIZE, tid)
