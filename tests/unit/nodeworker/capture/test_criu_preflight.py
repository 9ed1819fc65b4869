"""What is seen of processes before a dump, on processes of our own."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeworker.capture import handles
from nodeworker.capture.criu import criu, vfork
from nodeworker.capture.criu.freezer import Freezer
from nodeworker.host import facts
from woodfrog.protocol.failures import FailureError

pytestmark = pytest.mark.timeout(20)

IO_URING = """
import ctypes, mmap, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
parameters = ctypes.create_string_buffer(120)
descriptor = libc.syscall(425, 4, parameters)
assert descriptor >= 0, os.strerror(ctypes.get_errno())
if sys.argv[1] == "mapped":
    ring = mmap.mmap(descriptor, 4096, flags=mmap.MAP_SHARED)
    os.close(descriptor)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def children() -> Iterator[list[subprocess.Popen[str]]]:
    made: list[subprocess.Popen[str]] = []
    yield made
    for child in made:
        child.kill()
        child.communicate(timeout=10)


def start(children: list[subprocess.Popen[str]], program: str, *arguments: str) -> int:
    command = [sys.executable, "-I", "-S", "-c", program, *arguments]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    children.append(child)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child.pid


@pytest.mark.parametrize("how", ["open", "mapped"])
def test_io_uring_is_refused_by_name_of_the_process(children: list[subprocess.Popen[str]], how: str) -> None:
    pid = start(children, IO_URING, how)
    with pytest.raises(FailureError) as problem:
        criu.refuse_io_uring([os.getpid(), pid])
    assert problem.value.failure.code == "io-uring"
    assert str(pid) in problem.value.failure.cause


FAULTS = """
import ctypes, time
assert ctypes.CDLL(None).syscall(323, 1) >= 0
print("ready", flush=True)
time.sleep(60)
"""


def test_a_handle_that_criu_cannot_dump_is_refused_by_name_of_the_process_and_number(
    children: list[subprocess.Popen[str]],
) -> None:
    pid = start(children, FAULTS)
    with pytest.raises(FailureError) as problem:
        handles.refuse([os.getpid(), pid])
    assert problem.value.failure.code == "kernel-handle"
    assert re.fullmatch(
        rf"process {pid} \(\S+\) holds a userfaultfd \(descriptor \d+\), which CRIU cannot dump",
        problem.value.failure.cause,
    )


def test_eventfds_and_epoll_are_let_pass_and_so_are_ended_processes() -> None:
    counter, watch = os.eventfd(1), select.epoll()
    try:
        handles.refuse([os.getpid(), 4_000_000])
    finally:
        os.close(counter)
        watch.close()


def test_processes_without_io_uring_and_ended_ones_are_let_pass() -> None:
    criu.refuse_io_uring([os.getpid(), 4_000_000])


def test_a_stopped_process_is_told_and_a_running_one_is_not(children: list[subprocess.Popen[str]]) -> None:
    pids = [start(children, "import time; print('ready', flush=True); time.sleep(60)") for _ in range(2)]
    os.kill(pids[1], signal.SIGSTOP)
    os.waitid(os.P_PID, pids[1], os.WSTOPPED | os.WNOWAIT)
    assert criu.stopped_pids(pids) == (pids[1],)
    assert criu.pids_outside(pids, {pids[1]}) == (pids[1],)
    os.kill(pids[1], signal.SIGCONT)


def test_a_process_that_waits_in_vfork_is_told() -> None:
    shell = subprocess.Popen(["dash", "-c", "exec 3<>/dev/null; while :; do /bin/true; done"])
    try:
        deadline = time.monotonic() + 15
        while not vfork.waits(shell.pid):
            assert time.monotonic() < deadline, "never seen in vfork"
    finally:
        shell.kill()
        shell.wait(10)
    assert not vfork.waits(os.getpid())


def test_a_cgroup_that_is_gone_can_be_thawed_listed_and_released_but_not_frozen(tmp_path: Path) -> None:
    freezer = Freezer(tmp_path / "gone", 2)
    freezer.thaw()
    freezer.release(timeout_seconds=0.1)
    assert freezer.pids() == ()
    with pytest.raises(FailureError) as problem:
        freezer.freeze()
    assert problem.value.failure.code == "container-gone"


def test_a_cgroup_that_does_not_freeze_in_time_is_thawed_again(tmp_path: Path) -> None:
    (tmp_path / "cgroup.events").write_text("populated 1\nfrozen 0\n")
    (tmp_path / "cgroup.freeze").write_text("0")
    with pytest.raises(FailureError) as problem:
        Freezer(tmp_path, 2).freeze(timeout_seconds=0.05)
    assert problem.value.failure.code == "freeze-timeout"
    assert (tmp_path / "cgroup.freeze").read_text() == "0"


def test_a_cgroup_of_version_two_is_frozen_by_its_own_files(tmp_path: Path) -> None:
    (tmp_path / "cgroup.events").write_text("populated 1\nfrozen 1\n")
    (tmp_path / "cgroup.freeze").write_text("0")
    freezer = Freezer(tmp_path, 2)
    freezer.freeze()
    assert (tmp_path / "cgroup.freeze").read_text() == "1"
    assert freezer.is_frozen()


def test_the_nodes_facts_leave_unknown_what_the_tools_do_not_say() -> None:
    found = facts.probe(Path("/nowhere/runc"), Path("/nowhere/criu"))
    assert found.architecture == os.uname().machine
    assert found.page_size_bytes == os.sysconf("SC_PAGE_SIZE")
    assert found.cpu_features == tuple(sorted(found.cpu_features))
    assert found.criu_version is None
    assert found.runc_version is None
