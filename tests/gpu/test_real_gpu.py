"""What a real driver does: the contract, and containers that go on on a GPU. Run by ``make gpu`` where there is one."""

from __future__ import annotations

import importlib.util
import shlex
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client
from support import real_gpu
from support.cuda_contract import CASES, Case
from support.gpu_report import Steps
from support.lone_runtime import eventually
from support.node import Node
from support.real_gpu import WORKLOADS, OnGpu, Results, bare, compiled
from support.worker import ask, query
from support.worker import eventually as eventually_async

from nodeworker.capture.gpu.driver_process import DriverProcess
from nodeworker.domain.gpu import IPC_DRIVER
from woodfrog.protocol import subjects
from woodfrog.protocol.facts import driver_order
from woodfrog.protocol.ids import CheckpointKey
from woodfrog.protocol.requests import CheckpointRequest, CommandAccepted, Refusal
from woodfrog.service.nats import connect

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(900)]

KEY = CheckpointKey("local", "default", "trainer")
SIZES = [1 << 28, 1 << 31, 1 << 33]


@pytest.fixture
async def client(node: Node) -> AsyncIterator[Client]:
    connection = await connect(node.nats.url, name="test")
    yield connection
    await connection.close()


async def dumped(node: Node, client: Client) -> None:
    """Take a dump by command and wait until it is valid."""
    eventually(lambda: node.ask(ask="containers")["containers"][0]["state"] == "running", "its start is told")

    async def accepted() -> bool:
        answer = await ask(client, subjects.CHECKPOINT, CheckpointRequest(KEY), CommandAccepted | Refusal)
        return isinstance(answer, CommandAccepted)

    async def valid() -> list[dict[str, Any]]:
        rows = await query(client, "checkpoint_history", key=KEY)
        assert not [row for row in rows if row["status"] == "failed"], rows
        return [row for row in rows if row["status"] == "valid"]

    await eventually_async(accepted, saying="the command is accepted")
    await eventually_async(valid, saying="the snapshot is valid", seconds=600)


def went_on(node: Node, before: OnGpu, after: OnGpu) -> None:
    """End one container, start the next, and see that no number is missing or repeated."""
    before.end()
    reached = before.count()
    after.begin()
    after.until(reached + 1)
    after.counts_on()
    assert node.said("GPUs are back")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_nvidias_driver_keeps_the_contract(driver: DriverProcess, results: Results, tmp_path: Path, case: Case) -> None:
    with bare(tmp_path, 1 << 26) as pid:
        case(driver, pid, results.gpus)


@pytest.mark.parametrize("mode", ["add", "features"], ids=["vector addition", "pinned, streams, graph"])
def test_a_program_goes_on_in_the_next_container(node: Node, results: Results, mode: str) -> None:
    first = OnGpu(node, mode)
    first.begin()
    went_on(node, first, OnGpu(node, mode))


def test_two_processes_on_one_gpu_go_on_in_the_next_container(node: Node, results: Results) -> None:
    first, second = OnGpu(node, "two"), OnGpu(node, "two")
    first.begin()
    first.second_counts_on()
    went_on(node, first, second)
    second.second_counts_on()


def test_processes_of_a_job_that_share_gpu_memory_go_on_in_the_next_container(node: Node, results: Results) -> None:
    launcher = shutil.which("cuda-checkpoint")
    if driver_order(results.machine["driver"]) < IPC_DRIVER:
        pytest.skip("the driver is older than 610, which is the first that checkpoints CUDA IPC")
    if launcher is None:
        pytest.skip("cuda-checkpoint, which starts a job, is not in PATH")
    words = [launcher, "--launch-job", sys.executable, str(WORKLOADS / "on_gpu.py"), "ipc", "/numbers"]
    first, second = (OnGpu(node, "", command=shlex.join(words)) for _ in range(2))
    first.begin()
    first.second_counts_on()
    went_on(node, first, second)
    second.second_counts_on()


def test_the_seeds_workload_goes_on_in_the_next_container(node: Node, results: Results, tmp_path: Path) -> None:
    command = shlex.join([str(compiled(tmp_path)), "/numbers"])
    first = OnGpu(node, "", command=command)
    first.begin()
    went_on(node, first, OnGpu(node, "", command=command))


def test_a_program_is_dumped_and_restored_again_and_again(node: Node, results: Results) -> None:
    running = OnGpu(node, "add")
    running.begin()
    for _ in range(3):
        after = OnGpu(node, "add")
        went_on(node, running, after)
        running = after


async def test_a_dump_leaves_the_program_running(node: Node, client: Client, results: Results) -> None:
    running = OnGpu(node, "features")
    running.begin()
    await dumped(node, client)
    running.counts_on()
    await dumped(node, client)
    running.counts_on()


async def test_a_program_that_was_killed_goes_on_from_its_last_dump(
    node: Node, client: Client, results: Results
) -> None:
    first = OnGpu(node, "add")
    first.begin()
    await dumped(node, client)
    assert first.call("kill", first.id, "KILL").returncode == 0
    eventually(lambda: not first.alive(), "it is dead")
    assert first.call("delete", first.id).returncode == 0
    second = OnGpu(node, "add")
    second.begin()
    second.counts_on()


def test_a_training_run_ends_with_the_weights_of_one_that_was_not_interrupted(node: Node, results: Results) -> None:
    if importlib.util.find_spec("torch") is None:
        pytest.skip("PyTorch is not installed in .venv")
    steps = 200
    command = shlex.join([sys.executable, str(WORKLOADS / "train.py"), "/numbers", str(steps)])

    def trained(container: OnGpu) -> str:
        digest = container.upper / "numbers.digest"
        eventually(lambda: digest.exists() and digest.stat().st_size == 64, "it is trained", 300)
        return digest.read_text()

    whole = OnGpu(node, "", command=command)
    whole.begin()
    wanted = trained(whole)
    assert whole.call("kill", whole.id, "KILL").returncode == 0
    eventually(lambda: not whole.alive(), "it is dead")
    assert whole.call("delete", whole.id).returncode == 0

    first = OnGpu(node, "", command=command)
    first.begin()
    eventually(lambda: first.count() > steps // 3, "it is under way", 300)
    first.end()
    assert not (first.upper / "numbers.digest").exists(), "it was interrupted in the middle"
    second = OnGpu(node, "", command=command)
    second.begin()
    assert trained(second) == wanted


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size >> 20} MiB")
async def test_the_seconds_of_each_step(
    node: Node, client: Client, driver: DriverProcess, results: Results, tmp_path: Path, size: int
) -> None:
    if size > 0.8 * results.machine["memory_bytes"]:
        pytest.skip("the GPU is smaller than that")
    first = OnGpu(node, "add", size)
    first.begin()
    first.end()
    second = OnGpu(node, "add", size)
    second.begin()
    second.counts_on()
    (aside,), (back,) = node.said("GPUs are put aside"), node.said("GPUs are back")
    (row,) = await query(client, "checkpoint_history", key=KEY)
    second.call("kill", second.id, "KILL")
    with bare(tmp_path, size) as pid:
        by_hand = real_gpu.bare_seconds(pid, driver)
    results.runs.append(
        Steps(
            gpu_bytes=aside["bytes"] or size,
            lock_seconds=aside["lock_seconds"],
            checkpoint_seconds=aside["checkpoint_seconds"],
            criu_seconds=row["freeze_seconds"] - aside["lock_seconds"] - aside["checkpoint_seconds"],
            restore_seconds=back["restore_seconds"],
            unlock_seconds=back["unlock_seconds"],
            bare_seconds=by_hand,
        )
    )
