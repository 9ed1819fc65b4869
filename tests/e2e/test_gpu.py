"""Containers with GPUs, with everything real but the driver, whose stand-in keeps to the documented states.

A process that is on a GPU holds a device open that CRIU cannot dump, its GPU memory lies outside of it, and the driver's
thread in it must run for every step: so a wrong order fails or hangs here as it would with NVIDIA's.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client
from support.gpu import DRIVER, INSIDE, A, B, C, FakeGpus, built, nvidia_runtime, state_of
from support.lone_runtime import eventually
from support.node import Counting, Node
from support.real_gpu import WORKLOADS
from support.worker import ask, query
from support.worker import eventually as eventually_async

from woodfrog.protocol import subjects
from woodfrog.protocol.ids import CheckpointKey
from woodfrog.protocol.requests import CheckpointRequest, CommandAccepted, Refusal

pytestmark = [pytest.mark.criu, pytest.mark.nats, pytest.mark.root, pytest.mark.timeout(120)]

KEY = CheckpointKey("local", "default", "trainer")
COUNT = "exec /fake-cuda/vector_add /numbers"
DUMPED = ["lock", "checkpoint"]
BACK = ["restore", "unlock"]


@pytest.fixture
def gpus(tmp_path: Path) -> FakeGpus:
    return FakeGpus(tmp_path / "gpus", (0, A), (1, B))


def container(
    node: Node,
    gpus: FakeGpus,
    *minors: int,
    command: str = COUNT,
    library: str | None = None,
    limit_bytes: int | None = None,
) -> Counting:
    """A container with GPUs; ``library``: at which path it has the driver's library, ``limit_bytes``: of its memory."""
    made = Counting(node, command)
    path = made.bundle / "config.json"
    config = json.loads(path.read_text())
    gpus.into(config, *minors)
    if library is not None:
        bound = {"type": "bind", "options": ["bind", "ro"], "source": str(built() / "libcuda.so.1")}
        config["mounts"].append({"destination": library, **bound})
    if limit_bytes is not None:
        config["linux"].setdefault("resources", {})["memory"] = {"limit": limit_bytes}
    path.write_text(json.dumps(config))
    return made


def stop(running: Counting) -> None:
    done = running.call("kill", running.id, "TERM")
    assert done.returncode == 0, done.stderr
    eventually(lambda: not running.alive(), "the container is dead")
    assert running.call("delete", running.id).returncode == 0


def counts_on(running: Counting) -> None:
    running.until(running.count() + 10)
    assert running.has_counted_without_a_gap()


def cuda_states(running: Counting) -> set[str]:
    return {state_of(pid) for pid in running.state().freezer.pids()} - {""}


def devices_of(running: Counting) -> set[str]:
    names = {path.name for path in Path(f"/proc/{running.state().pid}/root/dev").iterdir()}
    return {name for name in names if name.startswith("nvidia")}


async def history(client: Client, view: Any, **wanted: object) -> list[dict[str, Any]]:
    async def found() -> list[dict[str, Any]]:
        rows = await query(client, view, key=KEY)
        return [row for row in rows if all(row[name] == value for name, value in wanted.items())]

    rows: list[dict[str, Any]] = await eventually_async(found, saying=f"{view} has {wanted}", seconds=40)
    return rows


async def checkpoint(node: Node, client: Client) -> None:
    node.until_it_runs()

    async def accepted() -> bool:
        answer = await ask(client, subjects.CHECKPOINT, CheckpointRequest(KEY), CommandAccepted | Refusal)
        return isinstance(answer, CommandAccepted)

    await eventually_async(accepted, saying="the command is accepted")


async def test_what_lies_on_a_gpu_goes_on_in_the_next_container_on_another_gpu(
    node: Node, gpus: FakeGpus, client: Client
) -> None:
    node.start_worker(**gpus.environment)
    first = container(node, gpus, 0)
    first.run()
    first.until(10)
    assert gpus.memory(A) > 0
    await asyncio.to_thread(stop, first)
    assert gpus.steps() == DUMPED
    assert gpus.memory(A) == 0
    reached = first.count()

    second = container(node, gpus, 1)
    assert await asyncio.to_thread(second.create) == 0, second.said()
    assert gpus.steps() == [*DUMPED, *BACK]
    assert cuda_states(second) == {"R"}
    standing = second.count()
    await asyncio.sleep(0.3)
    assert second.count() == standing == reached, "nothing of the workload runs before start"
    assert second.call("start", second.id).returncode == 0
    counts_on(second)
    assert (gpus.memory(A), gpus.memory(B) > 0) == (0, True)
    assert devices_of(second) == {"nvidiactl", "nvidia1"}, "they are the new container's"

    await asyncio.to_thread(stop, second)
    third = container(node, gpus, 0)
    await asyncio.to_thread(third.run)
    counts_on(third)
    rows = await history(client, "restore_history", choice="restored")
    assert len(rows) == 2


async def test_a_dump_by_command_lets_the_gpu_go_on_where_it_was(node: Node, gpus: FakeGpus, client: Client) -> None:
    node.start_worker(**gpus.environment)
    running = container(node, gpus, 0)
    running.run()
    await checkpoint(node, client)
    await history(client, "checkpoint_history", status="valid")
    assert gpus.steps() == [*DUMPED, *BACK]
    assert cuda_states(running) == {"R"}
    counts_on(running)
    (aside,) = node.said("GPUs are put aside")
    assert aside["bytes"] == 1 << 20


async def test_all_processes_are_locked_before_the_first_is_checkpointed_and_restored_before_one_is_unlocked(
    node: Node, gpus: FakeGpus, client: Client
) -> None:
    node.start_worker(**gpus.environment)
    running = container(node, gpus, 0, command=f"{COUNT} two")
    running.run()
    eventually((running.upper / "numbers.2").exists, "the second process counts")
    gpus.fail("lock", "vector_add", "delay=0.2")
    await checkpoint(node, client)
    await history(client, "checkpoint_history", status="valid")
    assert gpus.steps() == ["lock"] * 2 + ["checkpoint"] * 2 + ["restore"] * 2 + ["unlock"] * 2
    order = [(step, result) for step, _, result in gpus.calls()]
    assert order[:4] == [("lock", "begins"), ("lock", "begins"), ("lock", "0"), ("lock", "0")], "both at once"
    counts_on(running)


@pytest.mark.parametrize(
    ("step", "result", "code"),
    [
        ("lock", 801, "gpu-unsupported"),
        ("checkpoint", 2, "gpu-out-of-memory"),
        ("checkpoint", "crash", "gpu-driver"),
    ],
)
async def test_a_step_that_fails_for_one_process_leaves_all_of_them_running(
    node: Node, gpus: FakeGpus, client: Client, step: str, result: object, code: str
) -> None:
    node.start_worker(**gpus.environment)
    running = container(node, gpus, 0, command=f"{COUNT} two")
    running.run()
    eventually((running.upper / "numbers.2").exists, "the second process counts")
    gpus.fail(step, "vector_add", result, once=True)
    await checkpoint(node, client)
    (row,) = await history(client, "checkpoint_history", status="failed")
    assert (row["failure_code"], row["failure_stage"]) == (code, "capture")
    assert cuda_states(running) == {"R"}
    counts_on(running)
    gpus.heal()
    await checkpoint(node, client)
    await history(client, "checkpoint_history", status="valid")


async def test_a_kernel_that_does_not_end_fails_the_dump_and_nothing_else(
    node: Node, gpus: FakeGpus, client: Client
) -> None:
    node.start_worker(**gpus.environment, WOODFROG_GPU_LOCK_SECONDS="0.3")
    running = container(node, gpus, 0, command=f"{COUNT} long")
    assert running.create() == 0, running.said()
    assert running.call("start", running.id).returncode == 0
    running.until(1)
    await checkpoint(node, client)
    (row,) = await history(client, "checkpoint_history", status="failed")
    assert row["failure_code"] == "gpu-timeout"
    assert cuda_states(running) == {"R"}
    assert running.alive()


async def test_a_worker_killed_while_gpus_are_put_aside_brings_them_back_in_its_next_life(
    node: Node, gpus: FakeGpus, client: Client
) -> None:
    node.start_worker(**gpus.environment, WOODFROG_FAULT="dump.gpus-aside=kill")
    running = container(node, gpus, 0)
    running.run()
    await checkpoint(node, client)
    await asyncio.to_thread(node.wait_for_death)
    assert cuda_states(running) == {"C"}
    node.start_worker(**gpus.environment)
    assert cuda_states(running) == {"R"}
    counts_on(running)
    (row,) = await history(client, "checkpoint_history", status="failed")
    assert row["failure_code"] == "worker-restarted"


@pytest.mark.parametrize("step", ["restore", "unlock"])
async def test_a_worker_killed_while_a_restored_container_gets_its_gpu_back_goes_on_with_that_in_its_next_life(
    node: Node, gpus: FakeGpus, client: Client, step: str
) -> None:
    node.runtime.write(worker_wait_seconds=30)
    node.start_worker(**gpus.environment)
    first = container(node, gpus, 0)
    first.run()
    await asyncio.to_thread(stop, first)
    await history(client, "checkpoint_history", status="valid")
    gpus.fail(step, "vector_add", "delay=3", once=True)
    second = container(node, gpus, 1)
    creating = asyncio.create_task(asyncio.to_thread(second.create))
    await asyncio.to_thread(
        eventually,
        lambda: (step, "begins") in [(name, result) for name, _, result in gpus.calls()],
        "the step begins",
        40,
    )
    node.kill_worker()
    node.start_worker(**gpus.environment)
    assert await creating == 0, second.said()
    assert cuda_states(second) == {"R"}
    assert second.call("start", second.id).returncode == 0
    counts_on(second)
    assert gpus.memory(B) > 0
    await history(client, "restore_history", choice="restored", incarnation=2)


async def test_a_gpu_that_cannot_take_its_content_back_starts_the_container_from_the_snapshot_before_or_cold(
    node: Node, gpus: FakeGpus, client: Client
) -> None:
    node.start_worker(**gpus.environment)
    first = container(node, gpus, 0)
    first.run()
    await asyncio.to_thread(stop, first)
    gpus.fail("restore", "*", 2)
    second = container(node, gpus, 0)
    await asyncio.to_thread(second.run)
    counts_on(second)
    (row,) = await history(client, "failures", failure_code="gpu-out-of-memory")
    assert row["stage"] == "gpu"
    await history(client, "restore_history", choice="cold", incarnation=2)


async def test_a_container_left_without_its_gpu_after_a_dump_is_ended_and_its_capture_kept(
    node: Node, gpus: FakeGpus, client: Client
) -> None:
    node.start_worker(**gpus.environment)
    running = container(node, gpus, 0)
    running.run()
    gpus.fail("restore", "*", 2)
    await checkpoint(node, client)
    await history(client, "checkpoint_history", status="valid")
    eventually(lambda: not running.alive(), "the container is ended")
    assert node.said("a container's GPUs are lost, so it is ended")
    gpus.heal()
    assert running.call("delete", running.id).returncode == 0
    second = container(node, gpus, 0)
    await asyncio.to_thread(second.run)
    counts_on(second)
    assert second.count() > running.count()


@pytest.mark.parametrize(
    ("libraries", "code"),
    [("nowhere", "gpu-means-missing"), ("old", "gpu-means-missing")],
    ids=["no library", "no call"],
)
async def test_a_node_without_the_means_refuses_before_anything_is_touched(
    node: Node, gpus: FakeGpus, client: Client, libraries: str, code: str
) -> None:
    node.start_worker(**gpus.environment | {"WOODFROG_NVIDIA_LIBRARIES": str(built() / libraries)})
    running = container(node, gpus, 0)
    running.run()
    await checkpoint(node, client)
    (row,) = await history(client, "checkpoint_history", status="failed")
    assert (row["failure_code"], row["failure_stage"]) == (code, "preflight")
    assert gpus.calls() == []
    counts_on(running)


async def test_a_child_that_only_holds_the_devices_is_refused_before_anything_is_locked(
    node: Node, gpus: FakeGpus, client: Client
) -> None:
    node.start_worker(**gpus.environment)
    running = container(node, gpus, 0, command=f"{COUNT} fork")
    running.run()
    await checkpoint(node, client)
    (row,) = await history(client, "checkpoint_history", status="failed")
    assert (row["failure_code"], row["failure_stage"]) == ("gpu-device-held", "preflight")
    assert gpus.calls() == []
    counts_on(running)


async def test_a_snapshot_of_two_gpus_does_not_go_into_a_container_with_one(
    node: Node, gpus: FakeGpus, client: Client
) -> None:
    node.start_worker(**gpus.environment)
    first = container(node, gpus, 0, 1)
    first.run()
    await asyncio.to_thread(stop, first)
    await history(client, "checkpoint_history", status="valid")
    calls = len(gpus.calls())
    second = container(node, gpus, 0)
    await asyncio.to_thread(second.run)
    (row,) = await history(client, "restore_history", choice="cold", incarnation=2)
    assert "needs 2 GPUs, the new container has 1" in json.dumps(row)
    assert len(gpus.calls()) == calls


LIBRARY = "/usr/lib/libcuda.so.580.65.06"


@pytest.mark.parametrize(
    ("changes", "library", "reason"),
    [
        ({"model": "NVIDIA A100"}, LIBRARY, "it was taken on a GPU of model NVIDIA H100 80GB HBM3"),
        ({"memory_bytes": 40 << 30}, LIBRARY, "the new container's has 40960 MiB"),
        ({"mig": True}, LIBRARY, "is in MIG mode"),
        ({"driver": "575.57"}, LIBRARY, "driver 575.57 is older than 580.65.06"),
        ({}, "/usr/lib/libcuda.so.590.44", f"the new container has no driver library at {LIBRARY}"),
    ],
    ids=["another model", "less memory", "slices", "an older driver", "other driver files"],
)
async def test_a_snapshot_that_does_not_fit_the_gpus_is_passed_over_with_the_reason_before_anything_is_tried(
    node: Node, gpus: FakeGpus, client: Client, changes: dict[str, Any], library: str, reason: str
) -> None:
    node.start_worker(**gpus.environment)
    first = container(node, gpus, 0, library=LIBRARY)
    first.run()
    await asyncio.to_thread(stop, first)
    await history(client, "checkpoint_history", status="valid")
    calls = len(gpus.calls())
    node.stop_worker()
    gpus.have((0, C), **changes)
    node.start_worker(**gpus.environment)
    second = container(node, gpus, 0, library=library)
    await asyncio.to_thread(second.run)
    (row,) = await history(client, "restore_history", choice="cold", incarnation=2)
    assert reason in row["reason"]
    assert row["failed_restores"] == 0
    assert len(gpus.calls()) == calls


async def test_too_little_host_memory_for_what_lies_on_the_gpu_is_refused_before_anything_is_locked(
    node: Node, gpus: FakeGpus, client: Client
) -> None:
    node.start_worker(**gpus.environment)
    running = container(node, gpus, 0, limit_bytes=200 << 20)
    running.run()
    await checkpoint(node, client)
    (row,) = await history(client, "checkpoint_history", status="failed")
    assert (row["failure_code"], row["failure_stage"]) == ("gpu-host-memory", "preflight")
    assert gpus.calls() == []
    counts_on(running)


async def test_a_driver_that_is_installed_later_is_found_by_the_workers_next_life(
    node: Node, gpus: FakeGpus, client: Client, tmp_path: Path
) -> None:
    later = tmp_path / "driver"
    later.mkdir()
    environment = gpus.environment | {"WOODFROG_NVIDIA_LIBRARIES": str(later)}
    node.start_worker(**environment)
    running = container(node, gpus, 0)
    running.run()
    for library in built().glob("*.so.1"):
        shutil.copy(library, later)
    assert await asyncio.to_thread(node.wait_for_end) == 0
    counts_on(running)
    node.start_worker(**environment)

    async def known() -> bool:
        (row,) = await query(client, "nodes")
        return bool(row["gpu_count"] == 2 and row["gpu_driver"] == DRIVER)

    await eventually_async(known, saying="the node's GPUs are known")
    await checkpoint(node, client)
    await history(client, "checkpoint_history", status="valid")
    counts_on(running)


def chained(node: Node, gpus: FakeGpus, *runtimes: str) -> dict[str, str]:
    """Make nvidia-container-runtime the node's runtime; answers the worker's environment."""
    runtime = nvidia_runtime(node.folder, gpus, *runtimes)
    node.runtime.write(runc=runtime)
    return gpus.environment | {"WOODFROG_RUNC": str(runtime)}


def asking(node: Node, visible: int) -> Counting:
    """A container whose devices nvidia-container-runtime is to put in."""
    made = Counting(node, COUNT)
    path = made.bundle / "config.json"
    config = json.loads(path.read_text())
    config["process"]["env"].append(f"NVIDIA_VISIBLE_DEVICES={visible}")
    path.write_text(json.dumps(config))
    return made


async def test_nvidia_container_runtime_gives_a_restored_container_the_devices_of_its_own_pod(
    node: Node, gpus: FakeGpus, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = chained(node, gpus)
    monkeypatch.setenv("WOODFROG_NVIDIA_LIBRARIES", environment["WOODFROG_NVIDIA_LIBRARIES"])
    node.start_worker(**environment)
    first = asking(node, 0)
    first.run()
    first.until(10)
    await asyncio.to_thread(stop, first)
    second = asking(node, 1)
    await asyncio.to_thread(second.run)
    counts_on(second)
    assert devices_of(second) == {"nvidiactl", "nvidia1"}
    assert gpus.memory(B) > 0
    await asyncio.to_thread(stop, second)

    gpus.fail("restore", "*", 2)
    third = asking(node, 0)
    await asyncio.to_thread(third.run)
    counts_on(third)
    await history(client, "restore_history", choice="cold", incarnation=3)


async def test_a_runtime_that_cannot_be_kept_from_creating_leads_to_a_cold_start_with_the_reason(
    node: Node, gpus: FakeGpus, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = chained(node, gpus, str(node.runtime.runc.binary))
    monkeypatch.setenv("WOODFROG_NVIDIA_LIBRARIES", environment["WOODFROG_NVIDIA_LIBRARIES"])
    node.start_worker(**environment)
    first = asking(node, 0)
    first.run()
    await asyncio.to_thread(stop, first)
    second = asking(node, 0)
    await asyncio.to_thread(second.run)
    counts_on(second)
    await history(client, "restore_history", choice="cold", incarnation=2)
    assert "names its low-level runtime by a path" in node.runtime.log.read_text()


@pytest.mark.parametrize("mode", ["add", "features", "two"])
async def test_the_programs_for_a_real_gpu_go_on_on_the_stand_in(node: Node, gpus: FakeGpus, mode: str) -> None:
    node.start_worker(**gpus.environment)
    words = [sys.executable, str(WORKLOADS / "on_gpu.py"), mode, "/numbers"]
    command = f"LD_LIBRARY_PATH={INSIDE} exec {shlex.join(words)}"
    first = container(node, gpus, 0, command=command)
    first.run()
    first.until(5)
    await asyncio.to_thread(stop, first)
    second = container(node, gpus, 1, command=command)
    await asyncio.to_thread(second.run)
    counts_on(second)
    if mode == "two":
        eventually(lambda: len(second.numbers("numbers.2")) > len(first.numbers("numbers.2")), "the other counts on")
        assert second.has_counted_without_a_gap("numbers.2")


IPC_DRIVER = "610.57.04"


def sharing(node: Node, gpus: FakeGpus, minor: int, *, as_a_job: bool) -> Counting:
    """Two processes, of which one counts in the other's GPU memory."""
    words = [f"{INSIDE}/cuda-checkpoint", "--launch-job"] if as_a_job else []
    words += [sys.executable, str(WORKLOADS / "on_gpu.py"), "ipc", "/numbers"]
    return container(node, gpus, minor, command=f"LD_LIBRARY_PATH={INSIDE} exec {shlex.join(words)}")


def order(gpus: FakeGpus, since: int = 0) -> list[tuple[str, int, str]]:
    """The calls, with each process's pid as the container sees it."""
    return [(step, inner_pid(pid), result) for step, pid, result in gpus.calls()[since:]]


def inner_pid(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[-1]) for line in lines if line.startswith("NSpid:"))


def one_after_the_other(steps: list[str], pids: list[int]) -> list[tuple[str, int, str]]:
    return [(step, pid, result) for step in steps for pid in pids for result in ("begins", "0")]


async def test_processes_of_a_job_that_share_gpu_memory_are_stepped_one_at_a_time_in_one_order_and_go_on(
    node: Node, gpus: FakeGpus, client: Client
) -> None:
    gpus.have((0, A), (1, B), driver=IPC_DRIVER)
    node.start_worker(**gpus.environment)
    first = sharing(node, gpus, 0, as_a_job=True)
    first.run()
    first.until(5)
    await checkpoint(node, client)
    await history(client, "checkpoint_history", status="valid")
    calls = order(gpus)
    pids = sorted({pid for _, pid, _ in calls})
    assert len(pids) == 2
    assert calls == one_after_the_other([*DUMPED, *BACK], pids)
    counts_on(first)

    await asyncio.to_thread(stop, first)
    before = len(gpus.calls())
    second = sharing(node, gpus, 1, as_a_job=True)
    await asyncio.to_thread(second.run)
    assert order(gpus, before) == one_after_the_other(BACK, pids)
    counts_on(second)
    assert (gpus.memory(A), gpus.memory(B) > 0) == (0, True)
    assert second.count() > first.count()
    assert second.has_counted_without_a_gap("numbers.2")

    await asyncio.to_thread(stop, second)
    third = sharing(node, gpus, 0, as_a_job=True)
    await asyncio.to_thread(third.run)
    counts_on(third)


@pytest.mark.parametrize(
    ("driver", "as_a_job", "advice"),
    [
        ("580.65.06", True, "driver 610 is the least"),
        (IPC_DRIVER, False, "cuda-checkpoint --launch-job"),
    ],
    ids=["before 610", "no job"],
)
async def test_gpu_memory_that_processes_share_fails_the_dump_where_the_driver_cannot_take_it_along(
    node: Node, gpus: FakeGpus, client: Client, driver: str, as_a_job: bool, advice: str
) -> None:
    gpus.have((0, A), driver=driver)
    node.start_worker(**gpus.environment)
    running = sharing(node, gpus, 0, as_a_job=as_a_job)
    running.run()
    running.until(5)
    await checkpoint(node, client)
    (row,) = await history(client, "checkpoint_history", status="failed")
    assert row["failure_code"] == "gpu-unsupported"
    assert advice in row["failure_advice"]
    assert cuda_states(running) == {"R"}
    counts_on(running)
