"""Which GPUs a container sees, onto which ones a snapshot goes, and when it does not fit."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from nodeworker.domain.gpu import GpuRequest, visible_gpus, wish
from woodfrog.protocol.facts import ContainerFacts, GpuFacts, NodeFacts, misfit, pair_gpus

pytestmark = pytest.mark.timeout(5)

A, B, C, D = (f"GPU-{letter * 8}-0000-4000-8000-000000000000" for letter in "abcd")


def gpu(uuid: str, minor: int = 0, **changes: Any) -> GpuFacts:
    given = {"model": "H100", "compute_capability": "9.0", "memory_bytes": 80 << 30, "mig": False, "minor": minor}
    return GpuFacts(uuid, **(given | changes))


NODE = NodeFacts(gpu_driver="580.65.06", gpus=(gpu(A, 0), gpu(B, 1)))
OTHER = NodeFacts(gpu_driver="580.65.06", gpus=(gpu(C, 0), gpu(D, 1)))


def one(uuid: str = A) -> ContainerFacts:
    return ContainerFacts(gpus=(uuid,))


def config(**parts: Any) -> dict[str, Any]:
    return {"process": {"env": parts.pop("env", [])}, "linux": {"devices": parts.pop("devices", [])}, **parts}


def node(minor: int) -> dict[str, Any]:
    return {"path": f"/dev/nvidia{minor}", "type": "c", "major": 195, "minor": minor}


@pytest.mark.parametrize(
    ("said", "seen"),
    [
        (config(), ()),
        (config(env=["NVIDIA_VISIBLE_DEVICES=void"]), ()),
        (config(env=["NVIDIA_VISIBLE_DEVICES=none"]), ()),
        (config(env=["NVIDIA_VISIBLE_DEVICES=all"]), (A, B)),
        (config(env=["NVIDIA_VISIBLE_DEVICES=1"]), (B,)),
        (config(env=[f"NVIDIA_VISIBLE_DEVICES={B},{A}"]), (A, B)),
        (config(env=[f"NVIDIA_VISIBLE_DEVICES={C}"]), None),
        (config(env=["NVIDIA_VISIBLE_DEVICES=0:0"]), ("MIG-0:0",)),
        (config(env=["NVIDIA_VISIBLE_DEVICES=MIG-1234"]), ("MIG-1234",)),
        (config(annotations={"cdi.k8s.io/plugin_0": f"nvidia.com/gpu={B}"}), (B,)),
        (config(annotations={"cdi.k8s.io/plugin": "k8s.device-plugin.nvidia.com/gpu=0,k8s.io/fpga=9"}), (A,)),
        (
            config(
                env=["NVIDIA_VISIBLE_DEVICES=/var/run/nvidia-container-devices"],
                mounts=[{"destination": f"/var/run/nvidia-container-devices/{B}"}],
            ),
            (B,),
        ),
        (config(devices=[node(1)], env=["NVIDIA_VISIBLE_DEVICES=all"]), (B,)),
        (config(devices=[node(7)]), None),
    ],
)
def test_a_bundle_says_which_gpus_the_container_sees(said: dict[str, Any], seen: tuple[str, ...] | None) -> None:
    assert visible_gpus(wish(said), NODE.gpus) == seen


def test_a_bundle_without_gpus_wishes_none() -> None:
    assert not wish({"process": {}, "linux": None})
    assert GpuRequest(nodes=("/dev/nvidiactl",))


@pytest.mark.parametrize(
    ("sources", "targets", "pairs"),
    [
        ((A, B), (A, B), ((A, A), (B, B))),
        ((A, B), (C, D), ((A, C), (B, D))),
        ((A, B), (C, A), ((A, A), (B, C))),
        ((A,), (B, A), ((A, A),)),
        ((A, B), (C,), ((A, C),)),
    ],
)
def test_a_gpu_goes_onto_itself_where_it_is_there_and_onto_a_free_one_else(
    sources: tuple[str, ...], targets: tuple[str, ...], pairs: tuple[tuple[str, str], ...]
) -> None:
    assert pair_gpus(sources, targets) == pairs


def test_a_snapshot_fits_the_same_kind_of_gpu() -> None:
    assert misfit(NODE, one(), OTHER, one(C)) is None


def test_what_is_not_known_is_no_misfit() -> None:
    assert misfit(NODE, one(), NodeFacts(), ContainerFacts()) is None
    assert misfit(NodeFacts(), one(), OTHER, one(C)) is None
    assert misfit(NODE, ContainerFacts(), OTHER, ContainerFacts(gpus=())) is None


def changed(**changes: Any) -> NodeFacts:
    return msgspec.structs.replace(OTHER, gpus=(gpu(C, **changes),))


@pytest.mark.parametrize(
    ("on", "into", "why"),
    [
        (OTHER, ContainerFacts(gpus=()), "it needs 1 GPU, the new container has 0"),
        (changed(model="A100"), one(C), "it was taken on a GPU of model H100, the new container has A100"),
        (
            changed(compute_capability="8.0"),
            one(C),
            "it was taken on a GPU of compute capability 9.0, the new container has 8.0",
        ),
        (
            changed(memory_bytes=40 << 30),
            one(C),
            "it was taken on a GPU with 81920 MiB, the new container's has 40960 MiB",
        ),
        (changed(mig=True), one(C), f"GPU {C} is in MIG mode, in which nothing can be restored"),
        (OTHER, one("MIG-1"), "MIG slices of a GPU cannot be restored"),
        (
            msgspec.structs.replace(OTHER, gpu_driver="575.51"),
            one(C),
            "this node's NVIDIA driver 575.51 is older than 580.65.06, with which it was taken",
        ),
        (
            msgspec.structs.replace(OTHER, gpu_driver="580.95.05"),
            one(C),
            "it holds the NVIDIA driver's libraries of 580.65.06 (libcuda.so.580.65.06), this node has those of 580.95.05",
        ),
    ],
)
def test_another_kind_of_gpu_does_not_fit(on: NodeFacts, into: ContainerFacts, why: str) -> None:
    assert misfit(NODE, one(), on, into) == why


def test_a_driver_before_580_restores_onto_the_same_gpu_only() -> None:
    old = msgspec.structs.replace(NODE, gpu_driver="570.1")
    assert misfit(old, one(), old, one()) is None
    why = misfit(old, one(), msgspec.structs.replace(OTHER, gpu_driver="570.1"), one(C))
    assert why == "this node's NVIDIA driver 570.1 cannot restore onto other GPUs; 580 can"


def test_missing_driver_files_are_called_so() -> None:
    library = "/usr/lib/x86_64-linux-gnu/libcuda.so.580.65.06"
    taken = ContainerFacts(mounts=("/data", library), gpus=(A,))
    why = misfit(NODE, taken, NODE, ContainerFacts(mounts=("/data",), gpus=(A,)))
    assert why == f"the new container has no driver library at {library}"
