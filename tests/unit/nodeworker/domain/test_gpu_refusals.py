"""What is refused before a GPU is touched, and what a driver's refusal is said to mean."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from nodeworker.domain.gpu import (
    JOB_VARIABLE,
    NCCL_SETTINGS,
    Preflight,
    Traces,
    explain_driver_error,
    refuse_before_lock,
    refuse_without_means,
)
from woodfrog.protocol.facts import GpuFacts, NodeFacts
from woodfrog.protocol.failures import FailureError

pytestmark = pytest.mark.timeout(5)

NODE = NodeFacts(gpu_driver="580.65.06", gpus=(GpuFacts("GPU-a", mig=False),))
TRAINER = Traces(pid=7, name="python", holds_device=True, environment={}, nccl_threads=False)
FINE = Preflight(
    traces=(TRAINER, Traces(pid=8, name="sh", holds_device=False, environment={}, nccl_threads=False)),
    cuda_pids=frozenset({7}),
    listed_pids=frozenset({7}),
    mps_pids=frozenset(),
    gpu_bytes=1 << 30,
    free_host_bytes=8 << 30,
    gpus=("GPU-a",),
)


def refused(found: Preflight, node: NodeFacts = NODE) -> FailureError:
    with pytest.raises(FailureError) as raised:
        refuse_before_lock(node, found)
    return raised.value


def test_an_ordinary_training_run_is_not_refused() -> None:
    refuse_before_lock(NODE, FINE)
    refuse_before_lock(NodeFacts(), msgspec.structs.replace(FINE, free_host_bytes=None, gpus=None))


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"mps_pids": frozenset({7})}, "gpu-mps", "process 7"),
        ({"gpus": ("MIG-1",)}, "gpu-mig", "MIG-1"),
        ({"cuda_pids": frozenset()}, "gpu-device-held", "process 7 (python) is on the GPU without CUDA"),
        (
            {"cuda_pids": frozenset(), "listed_pids": frozenset()},
            "gpu-device-held",
            "holds an NVIDIA device without CUDA",
        ),
        ({"free_host_bytes": 1 << 30}, "gpu-host-memory", "1024 MiB"),
        ({"hooked_mounts": ("/usr/bin/nvidia-smi",)}, "gpu-hook-mounts", "/usr/bin/nvidia-smi"),
    ],
)
def test_what_the_driver_cannot_take_along_is_refused(changes: dict[str, Any], code: str, said: str) -> None:
    problem = refused(msgspec.structs.replace(FINE, **changes))
    assert problem.failure.code == code
    assert said in problem.failure.cause


def test_a_gpu_in_mig_mode_is_refused_by_the_nodes_word() -> None:
    cut = NodeFacts(gpu_driver="580.1", gpus=(GpuFacts("GPU-a", mig=True),))
    assert refused(FINE, cut).failure.code == "gpu-mig"


def test_a_live_communicator_needs_its_settings_and_is_told_which() -> None:
    settings = {**NCCL_SETTINGS, "NCCL_NVLS_ENABLE": "1"}
    trainer = msgspec.structs.replace(TRAINER, nccl_threads=True, environment=settings)
    problem = refused(msgspec.structs.replace(FINE, traces=(trainer,)))
    assert problem.failure.code == "gpu-nccl"
    assert problem.failure.advice.startswith("Set NCCL_NVLS_ENABLE=0 in the container")
    fine = msgspec.structs.replace(trainer, environment=dict(NCCL_SETTINGS))
    refuse_before_lock(NODE, msgspec.structs.replace(FINE, traces=(fine,)))


@pytest.mark.parametrize(
    ("driver", "environment", "advised"),
    [
        ("580.1", {}, "Set NCCL_P2P_DISABLE=1 in the container"),
        ("580.1", {JOB_VARIABLE: "/job"}, "In place of NCCL_P2P_DISABLE: driver 610 or newer"),
        ("610.1", {}, "cuda-checkpoint --launch-job"),
        ("580.1", {"NCCL_P2P_DISABLE": "1"}, None),
        ("610.1", {"NCCL_P2P_DISABLE": "1"}, None),
        ("610.1", {JOB_VARIABLE: "/job"}, None),
    ],
)
def test_communicators_of_several_processes_use_ipc_which_needs_610_and_a_job(
    driver: str, environment: dict[str, str], advised: str | None
) -> None:
    traces = tuple(
        Traces(pid, "python", holds_device=True, environment=NCCL_SETTINGS | environment, nccl_threads=True)
        for pid in (7, 9)
    )
    found = msgspec.structs.replace(FINE, traces=traces, cuda_pids=frozenset({7, 9}))
    node = msgspec.structs.replace(NODE, gpu_driver=driver)
    if advised is None:
        refuse_before_lock(node, found)
        return
    failure = refused(found, node).failure
    assert failure.code == "gpu-nccl"
    assert advised in failure.advice


@pytest.mark.parametrize(
    ("driver", "problem", "code"),
    [
        ("545.29", None, "gpu-driver-old"),
        ("580.1", "no library", "gpu-means-missing"),
        (None, "x", "gpu-means-missing"),
    ],
)
def test_a_node_without_the_means_is_told_what_it_lacks(driver: str | None, problem: str | None, code: str) -> None:
    with pytest.raises(FailureError) as raised:
        refuse_without_means(NodeFacts(gpu_driver=driver), problem)
    assert raised.value.failure.code == code


def test_a_node_with_the_means_is_not_refused() -> None:
    refuse_without_means(NODE, None)


@pytest.mark.parametrize(
    ("error", "driver", "processes", "code", "said"),
    [
        ("CUDA_ERROR_NOT_SUPPORTED", "580.1", 2, "gpu-unsupported", "driver 610 is the least"),
        ("CUDA_ERROR_NOT_SUPPORTED", "610.1", 2, "gpu-unsupported", "cuda-checkpoint --launch-job"),
        ("CUDA_ERROR_NOT_SUPPORTED", "580.1", 1, "gpu-unsupported", "managed (unified) memory:"),
        ("CUDA_ERROR_OUT_OF_MEMORY", "580.1", 1, "gpu-out-of-memory", "host memory"),
        ("CUDA_ERROR_NOT_READY", "580.1", 1, "gpu-timeout", "long kernels"),
        ("timeout: nothing", "580.1", 1, "gpu-timeout", "long kernels"),
        ("CUDA_ERROR_UNKNOWN", None, 1, "gpu-driver", "NVRM"),
    ],
)
def test_a_drivers_refusal_is_explained(error: str, driver: str | None, processes: int, code: str, said: str) -> None:
    failure = explain_driver_error("lock", 7, error, driver=driver, processes=processes)
    assert failure.code == code
    assert said in failure.advice
    assert error in failure.cause


def test_a_job_whose_memory_cannot_be_taken_along_is_told_of_what_is_left_to_be_the_reason() -> None:
    member = msgspec.structs.replace(TRAINER, environment={JOB_VARIABLE: "/job"})
    failure = explain_driver_error(
        "checkpoint", 7, "CUDA_ERROR_NOT_SUPPORTED", driver="610.1", processes=2, traces=(member,)
    )
    assert "otherwise than by cuIpcGetMemHandle" in failure.advice


def test_a_checkpoint_that_hangs_over_several_processes_may_be_one_of_shared_memory() -> None:
    failure = explain_driver_error("checkpoint", 7, "timeout: nothing", driver="610.1", processes=2)
    assert failure.code == "gpu-timeout"
    assert "cuda-checkpoint --launch-job" in failure.advice


def test_nccl_is_named_where_it_was_seen() -> None:
    seen = msgspec.structs.replace(TRAINER, nccl_threads=True)
    failure = explain_driver_error("lock", 7, "CUDA_ERROR_NOT_SUPPORTED", driver="580.1", processes=1, traces=(seen,))
    assert "NVLS" in failure.advice
