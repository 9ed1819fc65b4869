"""Containers on a real GPU: a bundle with the machine's own device nodes, as CDI would write it."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nodeworker.capture.gpu.driver import CUDA_LIBRARY, find_library
from nodeworker.capture.gpu.driver_process import DriverProcess
from support.gpu_report import Steps, fixed_seconds, table
from support.lone_runtime import eventually
from support.node import Counting, Node

RESULT = Path(__file__).parents[2] / "build/gpu/result.json"
CONTROL = Path("/dev/nvidiactl")
"""The device node that every NVIDIA driver has."""
WORKLOADS = Path(__file__).parents[1] / "gpu/workloads"
FIRST_SECONDS = 60.0
"""How long the driver may take until a program's first number: it compiles, and initializes the GPU without persistence mode."""


def devices() -> list[dict[str, Any]]:
    """All of NVIDIA's device nodes, as ``linux.devices`` has them."""
    found = []
    for path in sorted(Path("/dev").glob("nvidia*")):
        status = path.stat()
        if stat.S_ISCHR(status.st_mode):
            numbers = {"major": os.major(status.st_rdev), "minor": os.minor(status.st_rdev)}
            found.append({"path": str(path), "type": "c", "fileMode": 0o666, "uid": 0, "gid": 0, **numbers})
    return found


def libraries() -> Path | None:
    """Where the driver's libraries are, if not where everybody looks."""
    named = os.environ.get("WOODFROG_NVIDIA_LIBRARIES")
    return Path(named) if named else None


def driver_folder() -> Path:
    """Where the driver's libraries are."""
    library = find_library(CUDA_LIBRARY, libraries())
    assert library is not None, "name the folder of the driver's libraries in WOODFROG_NVIDIA_LIBRARIES"
    return library.parent


def driver_mounts(folder: Path) -> list[dict[str, Any]]:
    """The driver's files that are not in the root file system, of which the containers here are made."""
    root = Path("/").stat().st_dev
    found = (
        path for path in sorted(folder.glob("lib*.so*")) if path.name.startswith(("libcuda.", "libnvidia-", "libnv"))
    )
    return [
        {"destination": str(path), "source": str(path.resolve()), "type": "bind", "options": ["bind", "ro"]}
        for path in found
        if path.is_file() and path.stat().st_dev != root
    ]


class OnGpu(Counting):
    """A container that counts on the GPU."""

    def __init__(self, node: Node, mode: str, size: int | None = None, *, command: str = "") -> None:
        words = [sys.executable, str(WORKLOADS / "on_gpu.py"), mode, "/numbers", *([] if size is None else [str(size)])]
        super().__init__(node, f"exec {command or shlex.join(words)}")
        path = self.bundle / "config.json"
        config = json.loads(path.read_text())
        config["linux"]["devices"] = devices()
        folder = driver_folder()
        config["mounts"] += driver_mounts(folder)
        config["process"]["env"].append(f"LD_LIBRARY_PATH={folder}")
        path.write_text(json.dumps(config))

    def begin(self) -> None:
        """Create and start."""
        assert self.create() == 0, self.said()
        done = self.call("start", self.id)
        assert done.returncode == 0, done.stderr
        eventually(lambda: self.count() > 3, "it counts on the GPU", FIRST_SECONDS)

    def counts_on(self) -> None:
        """Let it count on without a gap."""
        reached = self.count()
        eventually(lambda: self.count() >= reached + 10, "it counts on", FIRST_SECONDS)
        assert self.has_counted_without_a_gap()

    def second_counts_on(self) -> None:
        """Let the second process count on without a gap."""
        reached = len(self.numbers("numbers.2"))
        eventually(lambda: len(self.numbers("numbers.2")) >= reached + 10, "the second counts on", FIRST_SECONDS)
        assert self.has_counted_without_a_gap("numbers.2")

    def end(self) -> None:
        """The stop signal, which dumps, and ``delete``."""
        done = subprocess.run(
            self.arguments("kill", self.id, "TERM"),
            stdin=subprocess.DEVNULL,
            timeout=600,
            check=True,
            capture_output=True,
        )
        assert done.returncode == 0
        eventually(lambda: not self.alive(), "the container is dead")
        assert self.call("delete", self.id).returncode == 0


def compiled(folder: Path) -> Path:
    """The seed's workload by nvcc, where there is one."""
    compiler = shutil.which("nvcc") or next((str(path) for path in Path("/usr/local").glob("cuda*/bin/nvcc")), None)
    if compiler is None:
        pytest.skip("there is no nvcc; the same workload ran from PTX")
    program = folder / "vector_add"
    subprocess.run([compiler, "-o", program, WORKLOADS / "vector_add.cu"], check=True)
    return program


@contextmanager
def bare(folder: Path, size: int) -> Iterator[int]:
    """The counting program outside of any container."""
    words = [sys.executable, str(WORKLOADS / "on_gpu.py"), "add", str(folder / "bare"), str(size)]
    environment = os.environ | {"LD_LIBRARY_PATH": str(driver_folder())}
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, env=environment)
    try:
        eventually((folder / "bare").exists, "it counts", FIRST_SECONDS)
        yield process.pid
    finally:
        process.kill()
        process.wait()


def bare_seconds(pid: int, driver: DriverProcess) -> float:
    """Lock, checkpoint, restore and unlock by hand: with NVIDIA's tool where there is one, else through the API."""
    tool = shutil.which("cuda-checkpoint")
    if tool is None:
        return seconds_by_api(pid, driver)
    began = time.monotonic()
    for action in ("lock", "checkpoint", "restore", "unlock"):
        subprocess.run([tool, "--action", action, "--pid", str(pid)], check=True, timeout=600)
    return time.monotonic() - began


def seconds_by_api(pid: int, driver: DriverProcess) -> float:
    """The same without the tool."""
    began = time.monotonic()
    driver.lock(pid, 60)
    driver.checkpoint(pid)
    driver.restore(pid, ())
    driver.unlock(pid)
    return time.monotonic() - began


class Results:
    """What this run found out."""

    def __init__(self, driver: DriverProcess, outcomes: dict[str, str]) -> None:
        inventory = driver.inventory()
        first = inventory.gpus[0]
        self.gpus = [gpu.uuid for gpu in inventory.gpus]
        self.machine: dict[str, Any] = {
            "driver": inventory.driver,
            "way": driver.name,
            "model": first.model,
            "compute_capability": first.compute_capability,
            "memory_bytes": first.memory_bytes,
            "persistence": first.persistence,
            "gpus": len(inventory.gpus),
        }
        self.runs: list[Steps] = []
        self._outcomes = outcomes

    def write(self) -> None:
        """Write all of it, and the table for docs/gpu.md beside it."""
        RESULT.parent.mkdir(parents=True, exist_ok=True)
        fixed = fixed_seconds(self.runs)
        found = {"machine": self.machine, "tests": self._outcomes, "runs": self.runs, "fixed_seconds": fixed}
        RESULT.write_text(json.dumps(found, indent=1) + "\n")
        RESULT.with_suffix(".md").write_text(table(self.machine, self.runs))
