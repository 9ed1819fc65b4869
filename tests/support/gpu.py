"""A node whose driver is ``fake_cuda``: what it has, what goes wrong with it, and what was asked of it."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from support.lone_runtime import eventually

SOURCES = Path(__file__).with_name("fake_cuda")
A = "GPU-aaaaaaaa-0000-4000-8000-000000000001"
B = "GPU-bbbbbbbb-0000-4000-8000-000000000002"
C = "GPU-cccccccc-0000-4000-8000-000000000003"
MODEL = "NVIDIA H100 80GB HBM3"
DRIVER = "580.65.06"
DEVICE = (10, 237)
"""/dev/loop-control: a device that CRIU cannot dump when it is open, as NVIDIA's are."""
INSIDE = "/fake-cuda"


@cache
def built() -> Path:
    """The libraries and programs, compiled once a test run; the processes that a test starts take its own."""
    named = os.environ.get("WOODFROG_NVIDIA_LIBRARIES")
    if named is not None and (Path(named) / "vector_add").exists():
        return Path(named)
    folder = Path(mkdtemp(prefix="wf-fake-cuda-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    compiler = ["gcc", "-Wall", "-Wextra", "-Wno-format-truncation", "-Wno-unused-function", "-Werror", "-O1"]
    shared = [*compiler, "-fPIC", "-shared", "-pthread", str(SOURCES / "fake_cuda.c"), "-ldl"]
    (folder / "old").mkdir()
    for name in ("libcuda.so.1", "libnvidia-ml.so.1"):
        subprocess.run([*shared, f"-Wl,-soname,{name}", "-o", str(folder / name)], check=True)
        older = [*shared, "-DWITHOUT_CHECKPOINT", f"-Wl,-soname,{name}", "-o", str(folder / "old" / name)]
        subprocess.run(older, check=True)
    program = [*compiler, str(SOURCES / "vector_add.c"), str(folder / "libcuda.so.1"), f"-Wl,-rpath,{INSIDE}"]
    subprocess.run([*program, "-o", folder / "vector_add"], check=True)
    subprocess.run([*compiler, str(SOURCES / "launch_job.c"), "-o", folder / "cuda-checkpoint"], check=True)
    return folder


class FakeGpus:
    """One node's GPUs. Processes are told of them by ``FAKE_CUDA_DIR``."""

    def __init__(self, folder: Path, *gpus: tuple[int, str], driver: str = DRIVER, **changes: Any) -> None:
        """``gpus``: device number and UUID of each. ``changes``: memory_bytes, mig, model."""
        self.folder = folder
        for name in ("requests", "replies"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self.have(*gpus, driver=driver, **changes)

    @classmethod
    def at(cls, folder: str) -> FakeGpus:
        """A node that is there already, as another process sees it."""
        found = cls.__new__(cls)
        found.folder = Path(folder)
        return found

    def have(self, *gpus: tuple[int, str], driver: str = DRIVER, **changes: Any) -> None:
        """Let the node have these GPUs and no others."""
        memory, mig, model = (
            changes.get("memory_bytes", 80 << 30),
            changes.get("mig", False),
            changes.get("model", MODEL),
        )
        lines = [f"{minor} {uuid} {memory} 9.0 {int(mig)} 1 {model}" for minor, uuid in gpus]
        (self.folder / "node").write_text("\n".join([f"driver {driver}", *lines, ""]))
        for _, uuid in gpus:
            (self.folder / "gpu" / uuid).mkdir(parents=True, exist_ok=True)

    def fail(self, step: str, program: str, result: object, *, once: bool = False) -> None:
        """Let a step of a program's processes end with an error's number, ``hang``, ``crash`` or ``delay=SECONDS``."""
        with (self.folder / "faults").open("a") as file:
            file.write(f"{step} {program} {result}{' once' if once else ''}\n")

    def heal(self) -> None:
        """Let nothing fail any more."""
        (self.folder / "faults").unlink(missing_ok=True)

    def calls(self) -> list[tuple[str, int, str]]:
        """What was asked of the driver: step, pid, and ``begins`` or the result's number."""
        path = self.folder / "calls"
        lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return [(words[0], int(words[-2]), words[-1]) for words in lines]

    def steps(self) -> list[str]:
        """The steps that succeeded, in order."""
        return [step for step, _, result in self.calls() if result == "0"]

    def memory(self, uuid: str) -> int:
        """How many bytes lie on a GPU."""
        return sum(path.stat().st_size for path in (self.folder / "gpu" / uuid).iterdir())

    @property
    def environment(self) -> dict[str, str]:
        """For a worker on this node."""
        return {"FAKE_CUDA_DIR": str(self.folder), "WOODFROG_NVIDIA_LIBRARIES": str(built())}

    def into(self, config: dict[str, Any], *minors: int) -> None:
        """Give a container these device nodes, the driver's files and this node's fake, as CDI would."""
        config["linux"]["devices"] = [
            {"path": path, "type": "c", "major": DEVICE[0], "minor": DEVICE[1], "fileMode": 0o666, "uid": 0, "gid": 0}
            for path in ("/dev/nvidiactl", *(f"/dev/nvidia{minor}" for minor in minors))
        ]
        bound = {"type": "bind", "options": ["rbind", "rprivate"]}
        config["mounts"] += [
            {"destination": INSIDE, "source": str(built()), **bound},
            {"destination": "/fake-cuda-node", "source": str(self.folder), **bound},
        ]
        config["process"]["env"].append("FAKE_CUDA_DIR=/fake-cuda-node")


@contextmanager
def counting(gpus: FakeGpus, *minors: int, how: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """A process on the fake GPUs, outside of any container. It counts into ``count`` in the node's folder."""
    devices = gpus.folder / "dev"
    devices.mkdir(exist_ok=True)
    for name in ("nvidiactl", *(f"nvidia{minor}" for minor in minors)):
        (devices / name).touch()
    environment = os.environ | gpus.environment | {"FAKE_CUDA_DEV": str(devices), "LD_LIBRARY_PATH": str(built())}
    process = subprocess.Popen(
        [built() / "vector_add", gpus.folder / "count", *([how] if how else [])], env=environment
    )
    try:
        eventually(lambda: (gpus.folder / "count").exists() and state_of(process.pid), "it counts on its GPU")
        yield process
    finally:
        process.kill()
        process.wait()


def state_of(pid: int) -> str:
    """Where the fake driver's thread in a process says that it is: R, L, C or F; nothing where there is none."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        comm = (thread / "comm").read_text().strip()
        if len(comm) == 11 and comm.startswith("cu"):
            return comm[-1]
    return ""


NVIDIA_RUNTIME = """#!{python}
# As nvidia-container-runtime does: what it knows of GPUs goes into the bundle at create, and runc, found by name, does the rest.
import json, os, shutil, sys
sys.path[:0] = {paths!r}
from pathlib import Path
from support.gpu import FakeGpus
words = sys.argv[1:]
if "create" in words:
    bundle = next((w.partition("=")[2] for w in words if w.startswith("--bundle=")), None) or words[words.index("--bundle") + 1]
    path = Path(bundle) / "config.json"
    config = json.loads(path.read_text())
    assert not config["linux"].get("devices"), "the bundle was changed already"
    seen = next(pair.partition("=")[2] for pair in config["process"]["env"] if pair.startswith("NVIDIA_VISIBLE_DEVICES="))
    FakeGpus.at({folder!r}).into(config, int(seen))
    path.write_text(json.dumps(config))
runtime = next(filter(None, map(shutil.which, {runtimes!r})))
os.execv(runtime, [runtime, *words])
"""


def nvidia_runtime(folder: Path, gpus: FakeGpus, *runtimes: str) -> Path:
    """A stand-in for nvidia-container-runtime; ``runtimes`` is that setting of its config.toml."""
    path = folder / "nvidia-container-runtime"
    paths = [str(SOURCES.parents[1]), str(SOURCES.parents[2])]
    known = list(runtimes or ("docker-runc", "runc", "crun"))
    path.write_text(NVIDIA_RUNTIME.format(python=sys.executable, paths=paths, folder=str(gpus.folder), runtimes=known))
    path.chmod(0o755)
    return path
