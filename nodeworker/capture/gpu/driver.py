"""NVIDIA's checkpoint calls, in the three ways in which a driver offers them, behind one port.

From driver 570 on there is an API, ``cuCheckpointProcess*`` in libcuda.so.1; NVIDIA's Python bindings are preferred for
it, because they follow its structures, and plain ctypes does without them. Drivers 550 to 565 have the tool
``cuda-checkpoint`` only. Calls block for as long as the driver takes, and may never return: ``cuda_process`` runs this in
a process that can be killed. Source: the driver API's page on checkpointing; every structure has 64 bytes, unused ones zero.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol

from nodeworker.domain.gpu import API_DRIVER, DEVICE_NODES, TOOL_DRIVER, CudaState
from woodfrog.protocol.facts import driver_order
from woodfrog.service.procfs import descriptors

CUDA_LIBRARY: Final = "libcuda.so.1"
NVML_LIBRARY: Final = "libnvidia-ml.so.1"
FOLDERS: Final = (
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib64",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib",
    "/run/nvidia/driver/usr/lib/x86_64-linux-gnu",
    "/run/nvidia/driver/usr/lib64",
    "/run/nvidia/driver/usr/lib/aarch64-linux-gnu",
    "/home/kubernetes/bin/nvidia/lib64",
    "/usr/local/nvidia/lib64",
)
"""Where distributions, the GPU operator's driver container, GKE and images for containers put the driver's libraries."""
_ARGUMENT_BYTES: Final = 64
_STATES: Final = (CudaState.RUNNING, CudaState.LOCKED, CudaState.CHECKPOINTED, CudaState.FAILED)
_TOOL_SECONDS: Final = 600.0
_TOOL_LOCK_GRACE_SECONDS: Final = 5.0
"""Less than what a lock is waited for from outside, so that the tool is ended first."""

GpuPairs = Sequence[tuple[str, str]]
"""UUIDs: a checkpointed GPU, and the one to restore it onto."""


KERNEL_MODULE: Final = Path("/sys/module/nvidia/version")
"""Of the module that is loaded; nothing is there where none is."""


def presence(folder: Path | None) -> tuple[bool, str | None]:
    """Say whether the libraries are there, and which version of the kernel's module; both come and go while a node runs."""
    with suppress(OSError):
        return find_library(NVML_LIBRARY, folder) is not None, KERNEL_MODULE.read_text().strip()
    return find_library(NVML_LIBRARY, folder) is not None, None


class DriverError(Exception):
    """The driver refused; the text begins with the name of its error, where it has one."""


class Driver(Protocol):
    """One driver's checkpoint calls. Every method raises :class:`DriverError`."""

    @property
    def name(self) -> str:
        """Which way it is, for logs and result files."""

    def restore_thread(self, pid: int) -> int | None:
        """The thread that must be able to run during a restore; ``None`` if the process does not use CUDA."""

    def state(self, pid: int) -> CudaState:
        """Where the process stands. May wait for its restore thread."""

    def lock(self, pid: int, timeout_seconds: float) -> None:
        """Wait for the work on the GPU and let every further CUDA call wait; the process keeps running."""

    def checkpoint(self, pid: int) -> None:
        """Move GPU memory into the process and let go of the GPU."""

    def restore(self, pid: int, pairs: GpuPairs) -> None:
        """Undo :meth:`checkpoint`, onto other GPUs if pairs are given; all checkpointed ones must be among them then."""

    def unlock(self, pid: int) -> None:
        """Undo :meth:`lock`."""


def find_library(name: str, folder: Path | None) -> Path | None:
    """Find one of the driver's libraries: in ``folder`` if one is named, else where they are known to be."""
    places = [folder] if folder is not None else [Path(place) for place in FOLDERS]
    return next((place / name for place in places if (place / name).exists()), None)


def open_driver(version: str, library: Path, tool: str | None, *, prefer: str = "") -> Driver:
    """Choose the way that this driver version offers, and initialize it. ``prefer`` names one, for comparisons.

    Raises:
        DriverError: if there is none, or it cannot be initialized.
    """
    order = driver_order(version)
    if order < TOOL_DRIVER:
        raise DriverError(f"driver {version} cannot checkpoint; 550 is the least, 580 is advised")
    if order < API_DRIVER or prefer == "tool":
        if tool is None:
            raise DriverError(
                f"driver {version} is checkpointed by NVIDIA's tool cuda-checkpoint, which is not in PATH"
            )
        return ToolDriver(tool)
    # What is loaded already is what later loads by the same name get, NVIDIA's bindings among them.
    try:
        loaded = ctypes.CDLL(str(library))
    except OSError as problem:
        raise DriverError(f"{library} cannot be loaded: {problem}") from problem
    if prefer != "ctypes":
        try:
            return BindingsDriver()
        except ImportError:
            pass
    return CtypesDriver(loaded)


def uuid_bytes(text: str) -> bytes:
    """The 16 bytes of ``GPU-xxxxxxxx-…``.

    Raises:
        DriverError: if it is none.
    """
    try:
        return uuid.UUID(text.removeprefix("GPU-")).bytes
    except ValueError as problem:
        raise DriverError(f"{text!r} is not a GPU's UUID") from problem


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


class CtypesDriver:
    """The API by plain ctypes on libcuda.so.1."""

    name = "ctypes"

    def __init__(self, library: Any) -> None:
        self._library = library
        for wanted in ("cuInit", "cuCheckpointProcessLock", "cuCheckpointProcessGetRestoreThreadId"):
            if not hasattr(library, wanted):
                raise DriverError(f"libcuda.so.1 has no {wanted}; it may be of another driver than the kernel's")
        self._call("cuInit", 0)

    def _error(self, code: int) -> str:
        text = ctypes.c_char_p()
        self._library.cuGetErrorName(code, ctypes.byref(text))
        return text.value.decode() if text.value else f"CUDA error {code}"

    def _call(self, function: str, *arguments: Any) -> None:
        code = int(getattr(self._library, function)(*arguments))
        if code != 0:
            raise DriverError(self._error(code))

    def restore_thread(self, pid: int) -> int | None:
        """As :class:`Driver` says."""
        tid = ctypes.c_int(0)
        code = int(self._library.cuCheckpointProcessGetRestoreThreadId(pid, ctypes.byref(tid)))
        return tid.value if code == 0 and tid.value > 0 else None

    def state(self, pid: int) -> CudaState:
        """As :class:`Driver` says."""
        state = ctypes.c_int(-1)
        self._call("cuCheckpointProcessGetState", pid, ctypes.byref(state))
        return _state(state.value)

    def lock(self, pid: int, timeout_seconds: float) -> None:
        """As :class:`Driver` says."""
        arguments = ctypes.create_string_buffer(_ARGUMENT_BYTES)
        ctypes.c_uint.from_buffer(arguments).value = _milliseconds(timeout_seconds)
        self._call("cuCheckpointProcessLock", pid, arguments)

    def checkpoint(self, pid: int) -> None:
        """As :class:`Driver` says."""
        self._call("cuCheckpointProcessCheckpoint", pid, None)

    def restore(self, pid: int, pairs: GpuPairs) -> None:
        """As :class:`Driver` says."""
        if not pairs:
            self._call("cuCheckpointProcessRestore", pid, None)
            return
        joined = b"".join(uuid_bytes(old) + uuid_bytes(new) for old, new in pairs)
        held = ctypes.create_string_buffer(joined, len(joined))
        arguments = ctypes.create_string_buffer(_ARGUMENT_BYTES)
        ctypes.c_void_p.from_buffer(arguments).value = ctypes.addressof(held)
        ctypes.c_uint.from_buffer(arguments, ctypes.sizeof(ctypes.c_void_p)).value = len(pairs)
        self._call("cuCheckpointProcessRestore", pid, arguments)

    def unlock(self, pid: int) -> None:
        """As :class:`Driver` says."""
        self._call("cuCheckpointProcessUnlock", pid, None)


class BindingsDriver:
    """The API by NVIDIA's ``cuda-bindings``, 13 or newer."""

    name = "cuda-bindings"

    def __init__(self) -> None:
        """Initialize.

        Raises:
            ImportError: if the bindings are not there, or too old.
        """
        from cuda.bindings import driver  # noqa: PLC0415 -- slow, an extra, and useless without a driver

        self._driver: Any = driver
        if not hasattr(driver, "CUcheckpointGpuPair"):
            raise ImportError("cuda-bindings is older than 13")
        self._call(driver.cuInit, 0)
        self.restore_thread(os.getpid())  # the bindings look for a function when it is called, not before

    def _answer(self, function: Any, *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except RuntimeError as problem:
            raise DriverError(f"libcuda.so.1 is of another driver, or too old: {problem}") from problem

    def _call(self, function: Any, *arguments: Any) -> Any:
        code, *answer = self._answer(function, *arguments)
        if int(code) != 0:
            raise DriverError(str(getattr(code, "name", code)))
        return answer[0] if answer else None

    def restore_thread(self, pid: int) -> int | None:
        """As :class:`Driver` says."""
        code, tid = self._answer(self._driver.cuCheckpointProcessGetRestoreThreadId, pid)
        return int(tid) if int(code) == 0 and int(tid) > 0 else None

    def state(self, pid: int) -> CudaState:
        """As :class:`Driver` says."""
        return _state(int(self._call(self._driver.cuCheckpointProcessGetState, pid)))

    def lock(self, pid: int, timeout_seconds: float) -> None:
        """As :class:`Driver` says."""
        arguments = self._driver.CUcheckpointLockArgs()
        arguments.timeoutMs = _milliseconds(timeout_seconds)
        self._call(self._driver.cuCheckpointProcessLock, pid, arguments)

    def checkpoint(self, pid: int) -> None:
        """As :class:`Driver` says."""
        self._call(self._driver.cuCheckpointProcessCheckpoint, pid, None)

    def restore(self, pid: int, pairs: GpuPairs) -> None:
        """As :class:`Driver` says."""
        arguments = None
        if pairs:
            arguments = self._driver.CUcheckpointRestoreArgs()
            made = []
            for old, new in pairs:
                pair = self._driver.CUcheckpointGpuPair()
                pair.oldUuid, pair.newUuid = self._uuid(old), self._uuid(new)
                made.append(pair)
            arguments.gpuPairs = made
            arguments.gpuPairsCount = len(made)
        self._call(self._driver.cuCheckpointProcessRestore, pid, arguments)

    def _uuid(self, text: str) -> Any:
        """A CUuuid; its bytes can be written only where it lies (it copies from an address at construction)."""
        held = ctypes.create_string_buffer(uuid_bytes(text), 16)
        made = self._driver.CUuuid()
        ctypes.memmove(made.getPtr(), held, 16)
        return made

    def unlock(self, pid: int) -> None:
        """As :class:`Driver` says."""
        self._call(self._driver.cuCheckpointProcessUnlock, pid, None)


class ToolDriver:
    """NVIDIA's tool ``cuda-checkpoint``: with actions from driver 555 on, with a toggle only before."""

    name = "cuda-checkpoint"

    def __init__(self, tool: str) -> None:
        self._tool = tool
        help_text = self._say("--help", fine=(0, 1, 255))
        self._has_actions, self._has_timeout = "--action" in help_text, "--timeout" in help_text

    def _say(self, *words: str, fine: tuple[int, ...] = (0,), limit_seconds: float = _TOOL_SECONDS) -> str:
        try:
            done = subprocess.run(
                [self._tool, *words],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=limit_seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as problem:
            raise DriverError(
                f"timeout: {words[0]} of {self._tool} did not end within {limit_seconds:g} s"
            ) from problem
        except OSError as problem:
            raise DriverError(f"{self._tool} did not answer: {problem}") from problem
        said = f"{done.stdout}{done.stderr}".strip()
        if done.returncode not in fine:
            raise DriverError(f"{os.path.basename(self._tool)} {words[0]}: {said or done.returncode}")  # noqa: PTH119
        return said

    def restore_thread(self, pid: int) -> int | None:
        """As :class:`Driver` says."""
        if not self._has_actions:
            return None if not self._toggles(pid) else pid
        try:
            said = self._say("--get-restore-tid", "--pid", str(pid))
        except DriverError:
            return None
        numbers = re.findall(r"\d+", said)
        return int(numbers[-1]) if numbers and int(numbers[-1]) > 0 else None

    def _toggles(self, pid: int) -> bool:
        """Whether a process can be toggled: the first tool tells of no thread, so a CUDA process is one that maps libcuda."""
        try:
            return "/libcuda.so" in Path(f"/proc/{pid}/maps").read_text(errors="replace")
        except OSError:
            return False

    def state(self, pid: int) -> CudaState:
        """As :class:`Driver` says."""
        if not self._has_actions:
            # It can toggle but not tell; but what is on no GPU has no device open.
            return CudaState.RUNNING if _opens_device(pid) else CudaState.CHECKPOINTED
        said = self._say("--get-state", "--pid", str(pid)).lower()
        found = next((state for state in _STATES if state.value in said), None)
        if found is None:
            raise DriverError(f"cuda-checkpoint named no state: {said!r}")
        return found

    def lock(self, pid: int, timeout_seconds: float) -> None:
        """As :class:`Driver` says."""
        if self._has_actions:
            bound = ("--timeout", str(_milliseconds(timeout_seconds))) if self._has_timeout else ()
            # A tool without that option waits for ever; ended by us, it leaves the process as it was, or locked.
            self._say(
                "--action", "lock", "--pid", str(pid), *bound, limit_seconds=timeout_seconds + _TOOL_LOCK_GRACE_SECONDS
            )

    def checkpoint(self, pid: int) -> None:
        """As :class:`Driver` says."""
        self._act("checkpoint", pid)

    def restore(self, pid: int, pairs: GpuPairs) -> None:
        """As :class:`Driver` says."""
        if any(old != new for old, new in pairs):
            raise DriverError("this driver cannot restore onto other GPUs; 580 is the first that can")
        self._act("restore", pid)

    def unlock(self, pid: int) -> None:
        """As :class:`Driver` says."""
        if self._has_actions:
            self._say("--action", "unlock", "--pid", str(pid))

    def _act(self, action: str, pid: int) -> None:
        if self._has_actions:
            self._say("--action", action, "--pid", str(pid))
            return
        self._say("--toggle", "--pid", str(pid))


def _opens_device(pid: int) -> bool:
    return any(held.startswith(DEVICE_NODES) for held in descriptors(pid).values())


def _state(code: int) -> CudaState:
    """Name a state by its number; those in the middle of a step (newer drivers: 4, 5) count as where they came from."""
    if code == 4:  # checkpointing
        return CudaState.LOCKED
    if code == 5:  # restoring
        return CudaState.CHECKPOINTED
    if not 0 <= code < len(_STATES):
        raise DriverError(f"the driver named an unknown state {code}")
    return _STATES[code]
