"""What NVML tells: which GPUs this node has, and which processes use them, by their pids as the host sees them.

NVML needs no CUDA context and costs a few milliseconds once it is initialized, but like all of the driver it can hang when
a GPU falls off its bus: ``cuda_process`` calls it where that does no harm. Owners of memory by virtual addresses only may be
missing in its list of processes, so the list is joined with what the driver says of each process.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pynvml

from woodfrog.protocol.facts import GpuFacts


class Inventory(msgspec.Struct, frozen=True):
    """The node's driver and GPUs."""

    driver: str | None = None
    gpus: tuple[GpuFacts, ...] = ()


class Usage(msgspec.Struct, frozen=True):
    """Who uses which GPU now."""

    bytes_by_pid: dict[str, int] = {}
    """Pid (JSON has no other keys than text) to bytes on all GPUs; 0 where NVML does not say how many."""
    mps_pids: tuple[int, ...] = ()


class Nvml:
    """NVML, initialized once."""

    def __init__(self, library: Path) -> None:
        """Initialize.

        Raises:
            OSError: if the library cannot be loaded.
            pynvml.NVMLError: if it does not work.
        """
        # pynvml loads by name; the loader answers with what is loaded under that name already.
        ctypes.CDLL(str(library))
        pynvml.nvmlInit()

    def inventory(self) -> Inventory:
        """Look at all GPUs; what one of them does not tell stays unknown."""
        return Inventory(
            driver=_asked(pynvml.nvmlSystemGetDriverVersion),
            gpus=tuple(self._facts(handle) for handle in self._handles()),
        )

    def usage(self) -> Usage:
        """List the processes on all GPUs."""
        used: dict[str, int] = {}
        through_mps: set[int] = set()
        for handle in self._handles():
            for process in _asked(pynvml.nvmlDeviceGetComputeRunningProcesses, handle) or ():
                pid = str(process.pid)
                used[pid] = used.get(pid, 0) + int(process.usedGpuMemory or 0)
            for process in _asked(pynvml.nvmlDeviceGetMPSComputeRunningProcesses, handle) or ():
                through_mps.add(int(process.pid))
        return Usage(used, tuple(sorted(through_mps)))

    def _handles(self) -> list[Any]:
        count = _asked(pynvml.nvmlDeviceGetCount) or 0
        handles = (_asked(pynvml.nvmlDeviceGetHandleByIndex, index) for index in range(count))
        return [handle for handle in handles if handle is not None]

    def _facts(self, handle: Any) -> GpuFacts:
        capability = _asked(pynvml.nvmlDeviceGetCudaComputeCapability, handle)
        memory = _asked(pynvml.nvmlDeviceGetMemoryInfo, handle)
        mig = _asked(pynvml.nvmlDeviceGetMigMode, handle)
        persistence = _asked(pynvml.nvmlDeviceGetPersistenceMode, handle)
        return GpuFacts(
            uuid=str(_asked(pynvml.nvmlDeviceGetUUID, handle) or "unknown"),
            model=_asked(pynvml.nvmlDeviceGetName, handle),
            compute_capability=None if capability is None else ".".join(map(str, capability)),
            memory_bytes=None if memory is None else int(memory.total),
            mig=None if mig is None else bool(mig[0]),
            persistence=None if persistence is None else bool(persistence),
            minor=_asked(pynvml.nvmlDeviceGetMinorNumber, handle),
        )


def _asked(question: Callable[..., Any], *arguments: Any) -> Any:
    """Ask NVML; what a GPU or a driver cannot tell is ``None``."""
    with suppress(pynvml.NVMLError):
        answer = question(*arguments)
        return answer.decode() if isinstance(answer, bytes) else answer
    return None
