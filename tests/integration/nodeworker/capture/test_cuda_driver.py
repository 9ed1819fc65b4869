"""The driver in its process: the contract, each way of calling it, and what its crashes and hangs do to us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cuda_contract import CASES, Case
from support.gpu import A, B, FakeGpus, built, counting, state_of
from support.lone_runtime import eventually

from nodeworker.capture.criu.freezer import Freezer
from nodeworker.capture.gpu import driver as cuda_driver
from nodeworker.capture.gpu.cuda import Cuda, GpuPlan, with_gpus
from nodeworker.capture.gpu.driver import DriverError, ToolDriver, open_driver
from nodeworker.capture.gpu.driver_process import DriverProcess
from nodeworker.domain.gpu import CudaState
from woodfrog.protocol.facts import ContainerFacts, GpuFacts, NodeFacts
from woodfrog.protocol.failures import FailureError

TOOL = """#!{python}
# As cuda-checkpoint of driver 555 and newer.
import os, sys
sys.path[:0] = {paths!r}
from pathlib import Path
from nodeworker.capture.gpu.driver import CtypesDriver, DriverError
import ctypes
words = sys.argv[1:]
if "--help" in words:
    print("--action lock|checkpoint|restore|unlock --get-state --get-restore-tid --toggle --pid --timeout" if {actions} else "--toggle --pid")
    sys.exit(0)
driver = CtypesDriver(ctypes.CDLL({library!r}))
pid = int(words[words.index("--pid") + 1])
try:
    if "--get-state" in words:
        print(driver.state(pid).value)
    elif "--get-restore-tid" in words:
        print(driver.restore_thread(pid) or sys.exit("not a CUDA process"))
    elif "--toggle" in words:
        running = driver.state(pid).value == "running"
        [driver.lock(pid, 10), driver.checkpoint(pid)] if running else [driver.restore(pid, ()), driver.unlock(pid)]
    else:
        action = words[words.index("--action") + 1]
        {{"lock": lambda: driver.lock(pid, 10), "checkpoint": lambda: driver.checkpoint(pid),
          "restore": lambda: driver.restore(pid, ()), "unlock": lambda: driver.unlock(pid)}}[action]()
except DriverError as problem:
    sys.exit(str(problem))
"""


def tool(folder: Path, *, actions: bool = True) -> Path:
    folder.mkdir()
    path = folder / "cuda-checkpoint"
    library = str(built() / "libcuda.so.1")
    paths = [str(Path(__file__).parents[4])]
    path.write_text(TOOL.format(python=sys.executable, paths=paths, library=library, actions=actions))
    path.chmod(0o755)
    return path


@pytest.fixture
def gpus(tmp_path: Path) -> FakeGpus:
    return FakeGpus(tmp_path / "gpus", (0, A), (1, B))


@pytest.fixture
def process(gpus: FakeGpus) -> Iterator[int]:
    with counting(gpus, 0) as running:
        yield running.pid


@pytest.fixture
def driver(gpus: FakeGpus) -> Iterator[DriverProcess]:
    made = DriverProcess(built(), environment=gpus.environment)
    yield made
    made.close()


def count(gpus: FakeGpus) -> int:
    return len((gpus.folder / "count").read_text().splitlines())


WAYS = [
    (way, case)
    for way in ("cuda-bindings", "ctypes", "tool")
    for case in CASES
    if way != "tool" or "map" not in case.__name__
]


@pytest.mark.parametrize(("prefer", "case"), WAYS, ids=[f"{way} {case.__name__}" for way, case in WAYS])
def test_a_driver_keeps_the_contract(gpus: FakeGpus, process: int, tmp_path: Path, case: Case, prefer: str) -> None:
    path = f"{tool(tmp_path / 'bin').parent}:{os.environ['PATH']}"
    driver = DriverProcess(built(), prefer=prefer, environment=gpus.environment | {"PATH": path})
    try:
        assert driver.name == {"tool": "cuda-checkpoint"}.get(prefer, prefer)
        case(driver, process, [A])
        before = count(gpus)
        eventually(lambda: count(gpus) > before, "it counts on")
    finally:
        driver.close()


def test_a_gpu_is_left_for_another(gpus: FakeGpus, driver: DriverProcess) -> None:
    with counting(gpus, 0) as running:
        (gpus.folder / "dev/nvidia1").touch()
        driver.lock(running.pid, 5)
        driver.checkpoint(running.pid)
        with pytest.raises(DriverError, match="INVALID_VALUE"):
            driver.restore(running.pid, [(B, A)])
        driver.restore(running.pid, [(A, B)])
        driver.unlock(running.pid)
        assert (gpus.memory(A), gpus.memory(B)) == (0, 1 << 20)


def test_the_inventory_becomes_the_nodes_facts(gpus: FakeGpus, driver: DriverProcess, process: int) -> None:
    facts = with_gpus(NodeFacts(), driver)
    assert facts.gpu_driver == "580.65.06"
    first, second = facts.gpus
    assert (first.uuid, first.minor, first.compute_capability, first.memory_bytes) == (A, 0, "9.0", 80 << 30)
    assert (first.model, first.mig, first.persistence) == ("NVIDIA H100 80GB HBM3", False, True)
    assert second.uuid == B
    assert driver.usage().bytes_by_pid[str(process)] == 1 << 20


def test_a_node_without_the_libraries_starts_no_process(tmp_path: Path) -> None:
    driver = DriverProcess(tmp_path)
    assert not driver.is_there
    assert with_gpus(NodeFacts(), driver) == NodeFacts()


def test_a_node_whose_nvml_does_not_work_has_unknown_gpus(gpus: FakeGpus, driver: DriverProcess) -> None:
    (gpus.folder / "node").unlink()
    assert with_gpus(NodeFacts(), driver) == NodeFacts()


def test_a_crash_of_the_driver_is_an_error_of_one_call_and_the_next_one_works(
    gpus: FakeGpus, driver: DriverProcess, process: int
) -> None:
    gpus.fail("lock", "vector_add", "crash", once=True)
    with pytest.raises(DriverError, match="the process that holds the driver ended"):
        driver.lock(process, 5)
    driver.lock(process, 5)
    driver.unlock(process)


def test_a_driver_that_hangs_is_given_up_in_time_and_replaced(gpus: FakeGpus, process: int) -> None:
    driver = DriverProcess(built(), step_seconds=0.5, environment=gpus.environment)
    try:
        driver.lock(process, 5)
        gpus.fail("checkpoint", "vector_add", "hang")
        began = time.monotonic()
        with pytest.raises(DriverError, match="timeout"):
            driver.checkpoint(process)
        assert time.monotonic() - began < 10
        assert driver.state(process) is CudaState.LOCKED
        driver.unlock(process)
    finally:
        driver.close()


def test_the_process_ends_with_whoever_started_it(gpus: FakeGpus) -> None:
    program = (
        "import sys; from nodeworker.capture.gpu.driver_process import DriverProcess; from pathlib import Path\n"
        "d = DriverProcess(Path(sys.argv[1])); d.inventory(); print(d._process.pid, flush=True); sys.stdin.read()"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", program, str(built())],
        env=os.environ | gpus.environment,
        cwd=Path(__file__).parents[4],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with owner:
        assert owner.stdout is not None
        helper = int(owner.stdout.readline())
        owner.send_signal(signal.SIGKILL)
    eventually(lambda: not Path(f"/proc/{helper}/exe").exists(), "the driver's process is gone")


@pytest.mark.parametrize(("version", "said"), [("545.29", "550 is the least"), ("550.54", "not in PATH")])
def test_an_old_driver_without_its_tool_is_refused(version: str, said: str) -> None:
    with pytest.raises(DriverError, match=said):
        open_driver(version, built() / "libcuda.so.1", None)


def test_a_tool_that_can_only_toggle_is_enough(
    gpus: FakeGpus, process: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_CUDA_DIR", str(gpus.folder))
    driver = ToolDriver(str(tool(tmp_path / "bin", actions=False)))
    assert driver.restore_thread(process) == process
    driver.lock(process, 5)
    driver.checkpoint(process)
    assert state_of(process) == "C"
    assert driver.state(process) is CudaState.CHECKPOINTED
    with pytest.raises(DriverError, match="580"):
        driver.restore(process, [(A, B)])
    driver.restore(process, [(A, A)])
    driver.unlock(process)
    assert state_of(process) == "R"


def test_a_container_without_gpus_is_not_looked_at(driver: DriverProcess) -> None:
    state: Any = None
    assert Cuda(driver, NodeFacts(), lock_seconds=5).plan(state, (os.getpid(),), ()) is None
    assert Cuda(driver, NodeFacts(), lock_seconds=5).plan(state, (os.getpid(),), None) is None, "it holds no device"
    assert driver._process is None


class NoCgroup(Freezer):
    """Of a process that is in no container."""

    __slots__ = ("only",)

    def pids(self) -> tuple[int, ...]:
        return (int(self.path.name),)


def test_a_second_process_is_found_that_begins_with_cuda_while_the_first_is_being_locked(
    gpus: FakeGpus, driver: DriverProcess
) -> None:
    with counting(gpus, 0) as first, counting(gpus, 0) as second:

        class Both(NoCgroup):
            __slots__ = ()

            def pids(self) -> tuple[int, ...]:
                return (first.pid, second.pid)

        cuda = Cuda(driver, NodeFacts(gpu_driver="580.1"), lock_seconds=5)
        noted: list[tuple[int, ...]] = []
        plan = GpuPlan(Both(Path("/none"), 2), (first.pid,), 0, ())
        assert cuda.suspend(plan, noted.append) == (first.pid, second.pid)
        assert noted == [(first.pid,), (first.pid, second.pid)]
        assert gpus.steps() == ["lock", "lock", "checkpoint", "checkpoint"]
        cuda.resume((first.pid, second.pid))
        assert (state_of(first.pid), state_of(second.pid)) == ("R", "R")


def test_a_process_that_failed_in_the_driver_is_lost_and_the_other_goes_on(
    gpus: FakeGpus, driver: DriverProcess
) -> None:
    with counting(gpus, 0) as first, counting(gpus, 0) as second:
        for pid in (first.pid, second.pid):
            driver.lock(pid, 5)
            driver.checkpoint(pid)
        gpus.have((1, B))
        gpus.fail("restore", "vector_add", 2, once=True)
        cuda = Cuda(driver, NodeFacts(gpu_driver="580.1"), lock_seconds=5)
        with pytest.raises(FailureError) as raised:
            cuda.resume((first.pid, second.pid))
        assert raised.value.failure.code == "gpu-lost"
        gpus.have((0, A), (1, B))
        cuda.resume((first.pid, second.pid))
        assert (state_of(first.pid), state_of(second.pid)) == ("R", "R")


@pytest.mark.parametrize(
    ("version", "way"),
    [
        ("555.42", "cuda-checkpoint"),
        ("565.57.01", "cuda-checkpoint"),
        ("570.86.10", "cuda-bindings"),
        ("610.57", "cuda-bindings"),
    ],
)
def test_the_drivers_version_says_by_which_way_it_is_called(tmp_path: Path, version: str, way: str) -> None:
    node = FakeGpus(tmp_path / "gpus", (0, A), driver=version)
    path = f"{tool(tmp_path / 'bin').parent}:{os.environ['PATH']}"
    driver = DriverProcess(built(), environment=node.environment | {"PATH": path})
    try:
        assert driver.name == way
    finally:
        driver.close()


def test_without_nvidias_bindings_the_library_is_called_by_ctypes(
    gpus: FakeGpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in gpus.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    assert open_driver("580.65.06", built() / "libcuda.so.1", None).name == "ctypes"


class Two(NoCgroup):
    """Of two processes; its path ends in their pids."""

    __slots__ = ()

    def pids(self) -> tuple[int, ...]:
        return tuple(map(int, self.path.name.split("+")))


@pytest.mark.parametrize("step", ["lock", "checkpoint"])
def test_a_step_that_hangs_for_one_process_ends_in_time_and_both_run_on(gpus: FakeGpus, step: str) -> None:
    driver = DriverProcess(built(), step_seconds=1.0, lock_grace_seconds=0.5, environment=gpus.environment)
    try:
        with counting(gpus, 0) as first, counting(gpus, 0) as second:
            pids = (first.pid, second.pid)
            gpus.fail(step, "vector_add", "hang", once=True)
            cuda = Cuda(driver, NodeFacts(gpu_driver="580.1"), lock_seconds=0.5)
            began = time.monotonic()
            with pytest.raises(FailureError) as raised:
                cuda.suspend(GpuPlan(Two(Path(f"/{first.pid}+{second.pid}"), 2), pids, 0, ()), lambda _: None)
            assert raised.value.failure.code == "gpu-timeout"
            assert time.monotonic() - began < 20
            assert [state_of(pid) for pid in pids] == ["R", "R"]
    finally:
        driver.close()


def test_a_driver_that_cannot_be_asked_who_uses_cuda_fails_a_dump_in_words(
    gpus: FakeGpus, driver: DriverProcess
) -> None:
    class Broken(NoCgroup):
        __slots__ = ()

        def pids(self) -> tuple[int, ...]:
            driver.close()
            (gpus.folder / "node").unlink()
            return super().pids()

    with counting(gpus, 0) as running:
        cuda = Cuda(driver, NodeFacts(gpu_driver="580.1"), lock_seconds=5)
        with pytest.raises(FailureError) as raised:
            cuda.suspend(GpuPlan(Broken(Path(f"/{running.pid}"), 2), (running.pid,), 0, ()), lambda _: None)
        assert raised.value.failure.code.startswith("gpu-")


@pytest.mark.parametrize(("libraries", "target", "code"), [("", A, "gpu-unfit"), ("nowhere", B, "gpu-means-missing")])
def test_a_worker_refuses_a_snapshot_that_does_not_fit_whatever_the_control_plane_chose(
    libraries: str, target: str, code: str
) -> None:
    there = NodeFacts(gpu_driver="580.1", gpus=(GpuFacts(B, "NVIDIA H100"),))
    here = NodeFacts(gpu_driver="580.1", gpus=(GpuFacts(A, "NVIDIA L4"), GpuFacts(B, "NVIDIA H100")))
    driver = DriverProcess(built() / libraries)
    cuda = Cuda(driver, here, lock_seconds=5)
    with pytest.raises(FailureError) as raised:
        cuda.refuse_restore(there, ContainerFacts(gpus=(B,)), ContainerFacts(gpus=(target,)))
    assert raised.value.failure.code == code
    Cuda(DriverProcess(built()), here, lock_seconds=5).refuse_restore(
        there, ContainerFacts(gpus=(B,)), ContainerFacts(gpus=(B,))
    )


def test_a_driver_that_nobody_needs_is_let_go_and_comes_back_when_it_is_needed(
    gpus: FakeGpus, driver: DriverProcess, process: int
) -> None:
    assert driver.state(process) is CudaState.RUNNING
    held = driver._process
    assert held is not None
    driver.rest(60)
    assert held.poll() is None, "it was needed a moment ago"
    driver.rest(0)
    assert held.poll() is not None
    assert driver.state(process) is CudaState.RUNNING


def test_a_driver_that_comes_or_goes_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, libraries = tmp_path / "version", tmp_path / "lib"
    libraries.mkdir()
    monkeypatch.setattr(cuda_driver, "KERNEL_MODULE", module)
    none = DriverProcess(libraries)
    assert not none.has_changed
    (libraries / "libnvidia-ml.so.1").touch()
    assert none.has_changed
    module.write_text("580.65.06\n")
    some = DriverProcess(libraries)
    assert not some.has_changed
    module.write_text("580.95.05\n")
    assert some.has_changed


STUCK = """#!/bin/sh
case "$*" in
--help) echo "--action --get-state --get-restore-tid" ;;
*) echo $$ >{folder}/stuck; exec sleep 600 ;;
esac
"""


def test_a_tool_that_hangs_is_ended_with_the_process_that_called_it(tmp_path: Path) -> None:
    node = FakeGpus(tmp_path / "gpus", (0, A), driver="560.35")
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "cuda-checkpoint").write_text(STUCK.format(folder=folder))
    (folder / "cuda-checkpoint").chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    driver = DriverProcess(built(), step_seconds=0.5, environment=node.environment | {"PATH": path})
    with pytest.raises(DriverError, match="timeout"):
        driver.checkpoint(os.getpid())
    stuck = int((folder / "stuck").read_text())
    eventually(lambda: not Path(f"/proc/{stuck}/exe").exists(), "the tool is gone")


def test_a_tool_that_knows_no_bound_of_a_lock_is_ended_when_it_takes_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_driver, "_TOOL_LOCK_GRACE_SECONDS", 0.2)
    path = tmp_path / "cuda-checkpoint"
    path.write_text(STUCK.format(folder=tmp_path))
    path.chmod(0o755)
    with pytest.raises(DriverError, match="timeout: --action"):
        ToolDriver(str(path)).lock(os.getpid(), 0.3)
    stuck = int((tmp_path / "stuck").read_text())
    eventually(lambda: not Path(f"/proc/{stuck}/exe").exists(), "the tool is gone")
