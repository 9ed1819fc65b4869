"""What is seen of a container's processes without asking the driver: room for GPU memory, foreign mounts, jobs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.lone_runtime import eventually

from nodeworker.capture.criu.freezer import Freezer
from nodeworker.capture.gpu.processes import free_host_bytes, hooked_mounts, lanes_of, traces_of
from nodeworker.domain.gpu import JOB_VARIABLE

MIB = 1 << 20


@pytest.fixture
def started() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def sleeping(started: ExitStack, **environment: str) -> int:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env=os.environ | environment)
    started.callback(process.wait)
    started.callback(process.kill)
    return process.pid


@pytest.mark.parametrize(
    ("limit", "used"), [("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")]
)
def test_the_containers_own_limit_says_how_much_host_memory_is_left_for_its_gpus(
    tmp_path: Path, limit: str, used: str
) -> None:
    (tmp_path / limit).write_text(f"{100 * MIB}\n")
    (tmp_path / used).write_text(f"{30 * MIB}\n")
    assert free_host_bytes(Freezer(Path("/none"), 1), tmp_path) == 70 * MIB
    (tmp_path / used).write_text(f"{130 * MIB}\n")
    assert free_host_bytes(Freezer(tmp_path, 2), tmp_path) == 0


@pytest.mark.parametrize("prefix", ["", "total_"])
def test_files_that_the_kernel_caches_are_no_reason_to_refuse(tmp_path: Path, prefix: str) -> None:
    (tmp_path / "memory.max").write_text(f"{100 * MIB}\n")
    (tmp_path / "memory.current").write_text(f"{99 * MIB}\n")
    lines = {f"{prefix}active_file": 20 * MIB, f"{prefix}inactive_file": 40 * MIB, "shmem": 7 * MIB}
    if prefix:
        lines |= {"active_file": 1, "inactive_file": 1}
    (tmp_path / "memory.stat").write_text("".join(f"{name} {value}\n" for name, value in lines.items()))
    assert free_host_bytes(Freezer(tmp_path, 2), None) == 61 * MIB


def test_without_a_limit_the_nodes_free_memory_counts(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("max\n")
    found = free_host_bytes(Freezer(tmp_path, 2), None)
    assert found is not None
    assert found > MIB


@pytest.mark.root
def test_driver_files_that_runc_did_not_mount_are_found(tmp_path: Path, started: ExitStack) -> None:
    library = tmp_path / "libcuda.so.580.1"
    library.touch()
    script = f"mount --bind {library} {library} && echo ready && exec sleep 60"
    process = subprocess.Popen(["unshare", "--mount", "sh", "-c", script], stdout=subprocess.PIPE)
    started.callback(process.wait)
    started.callback(process.kill)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.stdout.close()
    assert hooked_mounts(process.pid, ()) == (str(library),)
    assert hooked_mounts(process.pid, {str(library)}) == ()


def test_processes_of_a_job_are_one_lane_in_the_order_of_their_pids_and_every_other_is_one_of_its_own(
    started: ExitStack,
) -> None:
    members = [sleeping(started, **{JOB_VARIABLE: "/proc/self/fd/3"}) for _ in range(3)]
    others = [sleeping(started) for _ in range(2)]
    eventually(lambda: JOB_VARIABLE in traces_of([members[-1]])[0].environment, "the program has begun")
    mixed = [members[2], others[0], members[0], others[1], members[1]]
    assert lanes_of(mixed) == (tuple(sorted(members)), (others[0],), (others[1],))
    assert lanes_of(others) == ((others[0],), (others[1],))
    assert lanes_of(()) == ()
