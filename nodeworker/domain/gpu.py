"""Which GPUs a container has, what this node's driver can do with them, and what speaks against touching them.

NVIDIA's driver checkpoints a process by itself, step by step, and what it cannot do it often says late, or by hanging. So
whatever can be seen from outside is refused here, in words, before anything is locked. Nothing here asks the machine.

Sources: the driver API's page on checkpointing; NVIDIA/cuda-checkpoint's README (toggle in 550, separate actions in 555,
the API in 570, other GPUs in 580, IPC in 610); how nvidia-container-runtime reads ``NVIDIA_VISIBLE_DEVICES`` and how CDI
names devices in annotations (cncf-tags/container-device-interface).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final

import msgspec

from woodfrog.protocol.facts import MIG_PREFIX, GpuFacts, NodeFacts, driver_order
from woodfrog.protocol.failures import Failure, FailureError

TOOL_DRIVER: Final = (550,)
"""The first driver that can checkpoint at all, by the tool ``cuda-checkpoint``."""
API_DRIVER: Final = (570,)
"""The first driver with cuCheckpointProcess* and a bounded lock."""
IPC_DRIVER: Final = (610,)
"""The first driver that checkpoints memory shared by CUDA IPC, of processes that were started as one job."""
JOB_VARIABLE: Final = "CUDA_CHECKPOINT_JOB_FILE"
"""What ``cuda-checkpoint --launch-job`` gives to the processes of a job: they join it when they begin with CUDA."""
HOST_MARGIN_BYTES: Final = 256 << 20
DEVICE_NODES: Final = "/dev/nvidia"
_AS_A_JOB: Final = "start the container's program by `cuda-checkpoint --launch-job`"
_NODE: Final = re.compile(r"/dev/nvidia(\d+)")
_VISIBLE: Final = "NVIDIA_VISIBLE_DEVICES"
_BY_MOUNTS: Final = "/var/run/nvidia-container-devices"
_CDI_ANNOTATION: Final = "cdi.k8s.io/"
_CDI_DEVICE: Final = re.compile(r"(?:[\w.-]*nvidia\.com)/(?:gpu|pgpu|mig)[\w.-]*=(\S+)")


class CudaState(StrEnum):
    """Where a process is in the driver's state machine (CUprocessState)."""

    RUNNING = "running"
    LOCKED = "locked"
    CHECKPOINTED = "checkpointed"
    FAILED = "failed"


class GpuRequest(msgspec.Struct, frozen=True):
    """What a live bundle says of the container's GPUs, before anybody has looked at the node."""

    nodes: tuple[str, ...] = ()
    """Paths of the NVIDIA device nodes in ``linux.devices``: CDI put them there, or privilege did."""
    visible: str | None = None
    """``NVIDIA_VISIBLE_DEVICES``."""
    devices: tuple[str, ...] = ()
    """Names of CDI devices that annotations ask for, and of devices mounted under /var/run/nvidia-container-devices."""

    def __bool__(self) -> bool:
        """Whether the container is to have any GPU."""
        return bool(self.nodes or self.devices) or (self.visible or "void") not in {"void", "none"}


def wish(config: Mapping[str, Any]) -> GpuRequest:
    """Read what a config.json says of GPUs. The bundle's reader has checked the types of what it needs itself."""
    environment = dict(pair.partition("=")[::2] for pair in (config.get("process") or {}).get("env") or ())
    annotations: dict[str, str] = config.get("annotations") or {}
    devices = (config.get("linux") or {}).get("devices") or ()
    named = [
        found[1]
        for name, value in sorted(annotations.items())
        if name.startswith(_CDI_ANNOTATION)
        for word in value.split(",")
        if (found := _CDI_DEVICE.fullmatch(word.strip()))
    ]
    mounts = [mount["destination"] for mount in config.get("mounts") or ()]
    named += [path.removeprefix(f"{_BY_MOUNTS}/") for path in mounts if path.startswith(f"{_BY_MOUNTS}/")]
    return GpuRequest(
        nodes=tuple(sorted(device["path"] for device in devices if device["path"].startswith(DEVICE_NODES))),
        visible=environment.get(_VISIBLE) or None,
        devices=tuple(named),
    )


def visible_gpus(wished: GpuRequest, gpus: Sequence[GpuFacts]) -> tuple[str, ...] | None:
    """Say which of the node's GPUs a container sees, in the node's order; ``None`` if that cannot be known.

    Device nodes say it best, for they are what the driver in the container opens.
    """
    if not wished:
        return ()
    minors = {int(found[1]) for path in wished.nodes if (found := _NODE.fullmatch(path))}
    if minors:
        by_node = tuple(gpu.uuid for gpu in gpus if gpu.minor in minors)
        return by_node if len(by_node) == len(minors) else None
    names = list(wished.devices)
    if not names and wished.visible and not wished.visible.startswith("/"):
        names = [word.strip() for word in wished.visible.split(",") if word.strip()]
    if "all" in names:
        return tuple(gpu.uuid for gpu in gpus) or None
    slices = tuple(name for name in names if name.startswith(MIG_PREFIX) or ":" in name)
    if slices:
        return tuple(name if name.startswith(MIG_PREFIX) else f"{MIG_PREFIX}{name}" for name in slices)
    known = {gpu.uuid for gpu in gpus} | {str(index) for index in range(len(gpus))}
    if not names or not known.issuperset(names):
        return None
    return tuple(gpu.uuid for index, gpu in enumerate(gpus) if gpu.uuid in names or str(index) in names)


class Traces(msgspec.Struct, frozen=True):
    """What can be seen of one process without asking the driver."""

    pid: int
    name: str
    holds_device: bool
    """Has an NVIDIA device node open or mapped."""
    environment: Mapping[str, str]
    nccl_threads: bool
    """Runs a thread that NCCL named, so a communicator is alive."""


class Preflight(msgspec.Struct, frozen=True):
    """All that speaks for or against locking a container's GPUs."""

    traces: tuple[Traces, ...]
    cuda_pids: frozenset[int]
    """Processes that the driver has a restore thread for."""
    listed_pids: frozenset[int]
    """Processes of the container in NVML's list of compute processes."""
    mps_pids: frozenset[int]
    gpu_bytes: int
    free_host_bytes: int | None
    """What the node and the container's memory limit leave; unknown is no reason to refuse."""
    gpus: tuple[str, ...] | None
    hooked_mounts: tuple[str, ...] = ()
    """Driver files that were mounted into the container by a hook, behind runc's back."""


NCCL_SETTINGS: Final = {
    "NCCL_CUMEM_ENABLE": "0",
    "NCCL_CUMEM_HOST_ENABLE": "0",
    "NCCL_NVLS_ENABLE": "0",
    "NCCL_SHM_DISABLE": "1",
    "NCCL_IB_DISABLE": "1",
}
"""With these NCCL keeps to transports that leave nothing in the driver that cannot be checkpointed (NVIDIA's own advice)."""
NCCL_WITHOUT_IPC: Final = ("NCCL_P2P_DISABLE", "1")
"""Without cuMem*, several processes on one node reach each other's GPUs by CUDA IPC (NCCL's P2P transport), unless this forbids it."""


def refuse_without_means(node: NodeFacts, problem: str | None) -> None:
    """Refuse a GPU container on a node that cannot checkpoint GPUs; ``problem`` is why the driver cannot be used.

    Raises:
        FailureError: ``gpu-means-missing`` or ``gpu-driver-old``.
    """
    if node.gpu_driver is not None and driver_order(node.gpu_driver) < TOOL_DRIVER:
        raise FailureError(
            Failure(
                "gpu-driver-old",
                f"the NVIDIA driver {node.gpu_driver} cannot checkpoint GPUs",
                "Use driver 580 or newer; 550 is the least.",
            )
        )
    if problem is not None:
        raise FailureError(
            Failure(
                "gpu-means-missing",
                f"the container uses a GPU and this node has no means to checkpoint it: {problem}",
                "Install driver 580 or newer on the node, or name the folder of its libraries in WOODFROG_NVIDIA_LIBRARIES.",
            )
        )


def refuse_before_lock(node: NodeFacts, found: Preflight) -> None:
    """Refuse what the driver cannot take along, or what would harm the workload; nothing is locked yet.

    Raises:
        FailureError: the first thing that speaks against it.
    """
    _refuse_mig(node, found)
    _refuse_mps(found)
    _refuse_held_devices(found)
    _refuse_hooked_mounts(found)
    _refuse_nccl(node, found)
    if found.free_host_bytes is not None and found.gpu_bytes + HOST_MARGIN_BYTES > found.free_host_bytes:
        raise FailureError(
            Failure(
                "gpu-host-memory",
                f"what lies on the GPU ({found.gpu_bytes >> 20} MiB) moves into host memory during a dump,"
                f" where the node and the container's limit leave {found.free_host_bytes >> 20} MiB",
                "Raise the container's memory limit by the size of its GPU memory, or use a node with more memory.",
            )
        )


def _refuse_mig(node: NodeFacts, found: Preflight) -> None:
    cut = {gpu.uuid for gpu in node.gpus if gpu.mig}
    sliced = [uuid for uuid in found.gpus or () if uuid in cut or uuid.startswith(MIG_PREFIX)]
    if sliced:
        raise FailureError(
            Failure(
                "gpu-mig",
                f"the container uses {sliced[0]} in MIG mode, which the driver cannot checkpoint",
                "Give the container a whole GPU.",
            )
        )


def _refuse_mps(found: Preflight) -> None:
    clients = sorted(found.mps_pids)
    if clients:
        raise FailureError(
            Failure(
                "gpu-mps",
                f"process {clients[0]} uses its GPU through MPS, which the driver cannot checkpoint",
                "Share the GPU by time-slicing, or give the container a GPU of its own.",
            )
        )


def _refuse_held_devices(found: Preflight) -> None:
    for trace in found.traces:
        if trace.holds_device and trace.pid not in found.cuda_pids:
            what = (
                "is on the GPU without CUDA"
                if trace.pid in found.listed_pids
                else "holds an NVIDIA device without CUDA"
            )
            raise FailureError(
                Failure(
                    "gpu-device-held",
                    f"process {trace.pid} ({trace.name}) {what}, so CRIU cannot dump it",
                    "Such are nvidia-smi and other watchers, video and graphics, and children of a CUDA process that were "
                    "forked and never called exec: end them, or start them with spawn.",
                )
            )


def _refuse_hooked_mounts(found: Preflight) -> None:
    if found.hooked_mounts:
        raise FailureError(
            Failure(
                "gpu-hook-mounts",
                f"{len(found.hooked_mounts)} driver files, such as {found.hooked_mounts[0]}, were mounted by NVIDIA's old hook,"
                " of which CRIU and runc know nothing",
                'Let CDI inject GPUs: mode = "cdi" in nvidia-container-runtime\'s config.toml, or cdi.enabled and cdi.default '
                "of the GPU operator.",
            )
        )


def _refuse_nccl(node: NodeFacts, found: Preflight) -> None:
    talking = [trace for trace in found.traces if trace.nccl_threads and trace.pid in found.cuda_pids]
    ipc_works = node.gpu_driver is not None and driver_order(node.gpu_driver) >= IPC_DRIVER
    for trace in talking:
        wanted = dict(NCCL_SETTINGS)
        if len(talking) > 1 and not (ipc_works and JOB_VARIABLE in trace.environment):
            wanted |= (NCCL_WITHOUT_IPC,)
        missing = [f"{name}={value}" for name, value in wanted.items() if trace.environment.get(name) != value]
        if not missing:
            continue
        advice = (
            f"Set {' '.join(missing)} in the container, or suspend the communicator (ncclCommSuspend) before the dump."
        )
        if "=".join(NCCL_WITHOUT_IPC) in missing:
            advice += f" In place of {NCCL_WITHOUT_IPC[0]}: driver 610 or newer, and {_AS_A_JOB}."
        raise FailureError(
            Failure(
                "gpu-nccl",
                f"process {trace.pid} ({trace.name}) has an NCCL communicator whose transports the driver cannot checkpoint",
                advice,
            )
        )


def explain_driver_error(
    step: str, pid: int, error: str, *, driver: str | None, processes: int, traces: Collection[Traces] = ()
) -> Failure:
    """Say what it means that the driver refused a step of one process; everything was set back before this is told."""
    cause = f"the driver could not {step} process {pid}: {error}"
    shared = _shared_memory_hint(driver, traces) if processes > 1 else None
    if error.startswith("CUDA_ERROR_NOT_SUPPORTED"):
        hints = ["managed (unified) memory", *([] if shared is None else [shared])]
        if any(trace.nccl_threads for trace in traces):
            hints.append("NVLS or another transport of NCCL")
        advice = f"The driver cannot checkpoint {', '.join(hints)}: use cudaMalloc, and shared memory in place of IPC."
        return Failure("gpu-unsupported", cause, advice)
    if error.startswith("CUDA_ERROR_OUT_OF_MEMORY"):
        advice = (
            "On a dump host memory is short (GPU memory moves there), on a restore the GPU's: see who else uses it."
        )
        return Failure("gpu-out-of-memory", cause, advice)
    if error.startswith(("CUDA_ERROR_NOT_READY", "timeout")):
        advice = "Work on the GPU did not end in time: long kernels, or processes that wait for each other. Try again."
        if shared is not None and step == "checkpoint":
            advice = f"The driver may hang over {shared}; else try again."
        return Failure("gpu-timeout", cause, advice)
    return Failure("gpu-driver", cause, "The worker's log and the kernel's (lines with NVRM) may have more; try again.")


def _shared_memory_hint(driver: str | None, traces: Collection[Traces]) -> str:
    """What several processes may share on their GPUs that this driver cannot checkpoint as they were started."""
    if driver is None or driver_order(driver) < IPC_DRIVER:
        return "CUDA IPC between processes, for which driver 610 is the least"
    if any(JOB_VARIABLE in trace.environment for trace in traces):
        return "memory that a job's processes share otherwise than by cuIpcGetMemHandle (for NCCL: NCCL_CUMEM_ENABLE=0)"
    return f"CUDA IPC between processes that are no job ({_AS_A_JOB})"
