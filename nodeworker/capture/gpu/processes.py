"""Which processes of a container use its GPUs, and what of them can be seen without asking the driver.

The driver's own word is its restore thread: only a process that uses CUDA has one (a state is answered for others, too).
NVML's list says who is on a GPU, and with how many bytes. What only holds an NVIDIA device open is neither, and in CRIU's way.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from nodeworker.capture.criu.freezer import Freezer
from nodeworker.domain.gpu import DEVICE_NODES, JOB_VARIABLE, Traces
from woodfrog.service.procfs import mounts, status_fields

_NCCL_THREADS: Final = "NCCL "
"""How NCCL's threads are called, such as ``NCCL Service 0`` (proxy.cc: ncclSetThreadName)."""
_HOOKED: Final = ("/libcuda.so", "/libnvidia-", "/nvidia-smi")
"""What the old hook always mounts, and CDI names in the bundle. A CDI hook may cover /proc/driver/nvidia/params by itself."""
_UNLIMITED_BYTES: Final = 1 << 60
_FILE_PAGES: Final = ("active_file", "inactive_file")


def traces_of(pids: Iterable[int]) -> tuple[Traces, ...]:
    """Look at every process; one that ends meanwhile shows nothing."""
    return tuple(_trace(pid) for pid in pids)


def _trace(pid: int) -> Traces:
    folder = Path(f"/proc/{pid}")
    return Traces(
        pid=pid,
        name=_text(folder / "comm").strip() or "?",
        holds_device=_opens_device(folder) or f" {DEVICE_NODES}" in _text(folder / "maps"),
        environment=_environment(folder),
        nccl_threads=_runs_nccl(folder),
    )


def lanes_of(pids: Collection[int]) -> tuple[tuple[int, ...], ...]:
    """Say which processes the driver may be asked about at once: those of different lanes, and of one lane one at a time.

    Processes that were started as a job (``cuda-checkpoint --launch-job``) may share GPU memory and are one lane. The driver wants
    them back in the order in which they were checkpointed, so they are sorted by what a restore does not change: their pids as
    they see them themselves. Whatever job it is: a container with two of them only takes longer.
    """
    members = [pid for pid in pids if JOB_VARIABLE in _environment(Path(f"/proc/{pid}"))]
    alone = ((pid,) for pid in pids if pid not in members)
    return (*((tuple(sorted(members, key=_inner_pid)),) if members else ()), *alone)


def _inner_pid(pid: int) -> int:
    levels = status_fields(pid).get("NSpid", "").split()
    return int(levels[-1]) if levels else pid


def _environment(folder: Path) -> dict[str, str]:
    """The environment that a process was started with; what it set for itself later cannot be seen."""
    return dict(pair.partition("=")[::2] for pair in _text(folder / "environ").split("\0") if pair)


def _opens_device(folder: Path) -> bool:
    with suppress(OSError):
        for descriptor in (folder / "fd").iterdir():
            with suppress(OSError):
                if str(descriptor.readlink()).startswith(DEVICE_NODES):
                    return True
    return False


def _runs_nccl(folder: Path) -> bool:
    with suppress(OSError):
        return any(_text(thread / "comm").startswith(_NCCL_THREADS) for thread in (folder / "task").iterdir())
    return False


def hooked_mounts(pid: int, known: Collection[str]) -> tuple[str, ...]:
    """List the driver's files that are mounted in the container of ``pid`` though runc was not told to mount them."""
    with suppress(OSError):
        points = (mount.place for mount in mounts(pid))
        return tuple(point for point in points if point not in known and any(part in point for part in _HOOKED))
    return ()


def mounts_runc_made(config: Mapping[str, Any]) -> frozenset[str]:
    """Destinations in libcontainer's configuration: mounts, and what is masked or made read-only below them."""
    destinations = {str(mount.get("destination")) for mount in config.get("mounts") or ()}
    devices = {str(device.get("path")) for device in config.get("devices") or ()}
    return frozenset(
        destinations | devices | {*(config.get("mask_paths") or ()), *(config.get("readonly_paths") or ())}
    )


def free_host_bytes(freezer: Freezer, memory_cgroup: Path | None) -> int | None:
    """What the GPUs' content may take of host memory: what the node has free, and what the container's limit leaves.

    Cached files count as free, as in MemAvailable: a container that has read its model from files is at its limit by them alone.
    """
    available = _meminfo_bytes("MemAvailable:")
    limits = [] if available is None else [available]
    folder = memory_cgroup or (freezer.path if freezer.version == 2 else None)
    if folder is not None:
        for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            with suppress(OSError, ValueError):
                most = int((folder / limit).read_text())
                if most < _UNLIMITED_BYTES:
                    taken = int((folder / used).read_text()) - _cached_bytes(folder)
                    limits.append(max(0, most - taken))
    return min(limits) if limits else None


def _cached_bytes(memory_cgroup: Path) -> int:
    """Pages of files, which the kernel gives back before a limit is reached. Version 1 tells of children in ``total_`` lines."""
    lines = dict(line.split()[:2] for line in _text(memory_cgroup / "memory.stat").splitlines() if " " in line)
    names = [name for name in _FILE_PAGES if f"total_{name}" in lines]
    return sum(int(lines.get(f"total_{name}" if names else name, 0)) for name in _FILE_PAGES)


def _meminfo_bytes(name: str) -> int | None:
    for line in _text(Path("/proc/meminfo")).splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    return None


def _text(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(errors="replace")
    return ""
