"""Nothing that a container does keeps its stop signal from it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeworker.runtime.container import State

pytestmark = pytest.mark.timeout(60)

TRACES = """
import ctypes, os, signal, time
child = os.fork()
if child == 0:
    ctypes.CDLL(None).ptrace(0, 0, None, None)
    print(os.getpid(), flush=True)
    time.sleep(100)
time.sleep(100)
"""


@pytest.fixture
def traced() -> Iterator[tuple[int, int]]:
    """A process and the one that traces it."""
    with subprocess.Popen([sys.executable, "-c", TRACES], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        yield child, process.pid
        for pid in (child, process.pid):
            subprocess.run(["kill", "-9", str(pid)], check=True)


def container_of(folder: Path, *pids: int) -> State:
    """A container whose cgroup holds these processes."""
    (folder / "c").mkdir()
    (folder / "cgroup").mkdir()
    (folder / "cgroup/cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))
    (folder / "c/state.json").write_text(json.dumps({"cgroup_paths": {"freezer": str(folder / "cgroup")}}))
    return State(str(folder), "c")


def test_a_process_that_is_traced_by_another_of_its_container_is_not_being_dumped(
    tmp_path: Path, traced: tuple[int, int]
) -> None:
    assert not container_of(tmp_path, *traced)._is_dumped("c")


def test_one_that_is_traced_from_outside_may_be(tmp_path: Path, traced: tuple[int, int]) -> None:
    assert container_of(tmp_path, traced[0])._is_dumped("c")


@pytest.mark.parametrize("own", [True, False])
def test_only_somebody_else_can_be_dumping_it(tmp_path: Path, own: bool) -> None:
    name = "an-id-that-nothing-else-names"
    runs = [sys.executable, "-c", "import time; print(flush=True); time.sleep(100)", "checkpoint", name]
    with subprocess.Popen(runs, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()  # the kernel shows the words of a new program a moment after it began
        assert container_of(tmp_path, *([process.pid] if own else []))._is_dumped(name) is not own
        process.kill()
