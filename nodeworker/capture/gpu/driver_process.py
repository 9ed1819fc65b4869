"""The driver in a process of its own, which stays while it is needed: initialized once for many calls, and expendable.

A start of NVIDIA's tool for each step costs seconds, most of them in initializing the driver, so whoever calls it must
stay. But libcuda and NVML can crash, and can hang where nothing interrupts them; in the worker that would end every dump
on the node, or hold a thread for ever. So a small process holds them. It answers one line of JSON for each, in any order,
over a socket, each call in a thread; it is killed when a call does not end in time, and started again with the next one.
Whatever it was doing in another process is then up to the driver's own state machine, which is asked afterwards. When nothing is
asked of it for a while it is ended, too: it keeps the kernel's module in use, which whoever upgrades the driver must unload.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec
import pynvml

from nodeworker.capture.gpu import driver as cuda_driver
from nodeworker.capture.gpu.driver import Driver, DriverError, GpuPairs
from nodeworker.capture.gpu.nvml import Inventory, Nvml, Usage
from nodeworker.domain.gpu import CudaState

_PACKAGES: Final = Path(__file__).parents[3]
_THREADS: Final = 64
_SHORT_SECONDS: Final = 30.0
"""For what only asks: the first call initializes the driver, which takes seconds without persistence mode."""


class Request(msgspec.Struct, frozen=True, omit_defaults=True):
    """One call."""

    number: int
    call: str
    pid: int = 0
    timeout_seconds: float = 0.0
    pairs: tuple[tuple[str, str], ...] = ()


class Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    """Its end."""

    number: int
    value: Any = None
    error: str | None = None


class Server:
    """The process's inside: opens what is asked for when it is first asked for, and keeps it."""

    def __init__(self, folder: Path | None, prefer: str) -> None:
        self._folder = folder
        self._prefer = prefer
        self._opening = threading.Lock()
        self._driver: Driver | None = None
        self._nvml: Nvml | None = None

    def answer(self, request: Request) -> Reply:
        """Carry out one call."""
        try:
            return Reply(request.number, self._do(request))
        except (DriverError, OSError, pynvml.NVMLError) as problem:
            return Reply(request.number, error=str(problem) or repr(problem))
        except Exception as problem:  # noqa: BLE001 -- the asker must get an answer whatever went wrong
            return Reply(request.number, error=repr(problem))

    def _do(self, request: Request) -> Any:
        match request.call:
            case "inventory":
                return self._open_nvml().inventory()
            case "usage":
                return self._open_nvml().usage()
        driver = self._open_driver()
        match request.call:
            case "name":
                return driver.name
            case "restore_thread":
                return driver.restore_thread(request.pid)
            case "state":
                return driver.state(request.pid).value
            case "lock":
                return driver.lock(request.pid, request.timeout_seconds)
            case "checkpoint":
                return driver.checkpoint(request.pid)
            case "restore":
                return driver.restore(request.pid, request.pairs)
            case "unlock":
                return driver.unlock(request.pid)
        raise DriverError(f"unknown call {request.call}")

    def _open_nvml(self) -> Nvml:
        with self._opening:
            if self._nvml is None:
                self._nvml = Nvml(_library(cuda_driver.NVML_LIBRARY, self._folder))
            return self._nvml

    def _open_driver(self) -> Driver:
        version = self._open_nvml().inventory().driver or "0"
        with self._opening:
            if self._driver is None:
                library = _library(cuda_driver.CUDA_LIBRARY, self._folder)
                tool = shutil.which("cuda-checkpoint")
                self._driver = cuda_driver.open_driver(version, library, tool, prefer=self._prefer)
            return self._driver


def _library(name: str, folder: Path | None) -> Path:
    found = cuda_driver.find_library(name, folder)
    if found is None:
        raise DriverError(f"{name} is nowhere on this node")
    return found


def serve(descriptor: int, folder: str, prefer: str) -> None:
    """Be the process: answer until the asker is gone, then end at once, whatever hangs."""
    connection = socket.socket(fileno=descriptor)
    server, sending = Server(Path(folder) if folder else None, prefer), threading.Lock()
    threads = ThreadPoolExecutor(_THREADS)

    def answer(line: bytes) -> None:
        reply = msgspec.json.encode(server.answer(msgspec.json.decode(line, type=Request))) + b"\n"
        with sending, suppress(OSError):
            connection.sendall(reply)

    with connection.makefile("rb") as lines, suppress(OSError):
        for line in lines:
            threads.submit(answer, line)
    os._exit(0)


class DriverProcess:
    """The process from outside: a driver (the port ``Driver``) whose every call ends in time. Any thread may call.

    A lock is given ``lock_grace_seconds`` beyond its own bound, every other step ``step_seconds``.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        prefer: str = "",
        step_seconds: float = 300.0,
        lock_grace_seconds: float = 10.0,
        environment: Mapping[str, str] = {},
    ) -> None:
        self._folder = folder
        self._prefer = prefer
        self._step_seconds = step_seconds
        self._lock_grace_seconds = lock_grace_seconds
        self._environment = environment
        self._guard = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._waiting: dict[int, Future[Any]] = {}
        self._numbers = 0
        self._used = 0.0
        self._presence = cuda_driver.presence(folder)

    @property
    def is_there(self) -> bool:
        """Whether this node has the driver's libraries at all; without them nothing is ever started."""
        return cuda_driver.find_library(cuda_driver.NVML_LIBRARY, self._folder) is not None

    @property
    def has_changed(self) -> bool:
        """Whether the node has got another driver since this was made, or its first, or has none any more."""
        return cuda_driver.presence(self._folder) != self._presence

    @property
    def name(self) -> str:
        """Which way the driver is called.

        Raises:
            DriverError: if there is none.
        """
        return str(self._call(_SHORT_SECONDS, "name"))

    def inventory(self) -> Inventory:
        """As :meth:`Nvml.inventory`."""
        return msgspec.convert(self._call(_SHORT_SECONDS, "inventory"), Inventory)

    def usage(self) -> Usage:
        """As :meth:`Nvml.usage`."""
        return msgspec.convert(self._call(_SHORT_SECONDS, "usage"), Usage)

    def restore_thread(self, pid: int) -> int | None:
        """As the port says."""
        found = self._call(_SHORT_SECONDS, "restore_thread", pid)
        return None if found is None else int(found)

    def state(self, pid: int) -> CudaState:
        """As the port says."""
        return CudaState(self._call(_SHORT_SECONDS, "state", pid))

    def lock(self, pid: int, timeout_seconds: float) -> None:
        """As the port says."""
        self._call(timeout_seconds + self._lock_grace_seconds, "lock", pid, timeout_seconds=timeout_seconds)

    def checkpoint(self, pid: int) -> None:
        """As the port says."""
        self._call(self._step_seconds, "checkpoint", pid)

    def restore(self, pid: int, pairs: GpuPairs) -> None:
        """As the port says."""
        self._call(self._step_seconds, "restore", pid, pairs=tuple(pairs))

    def unlock(self, pid: int) -> None:
        """As the port says."""
        self._call(self._step_seconds, "unlock", pid)

    def rest(self, after_seconds: float) -> None:
        """End the process if nothing was asked of it for so long: while it lives the kernel's module cannot be replaced."""
        with self._guard:
            if self._connection is not None and not self._waiting and time.monotonic() - self._used >= after_seconds:
                self._end("nothing was asked of it")

    def close(self) -> None:
        """End the process."""
        with self._guard:
            self._end("the worker ends")

    def _call(self, limit_seconds: float, call: str, pid: int = 0, **words: Any) -> Any:
        with self._guard:
            connection = self._connection or self._start()
            self._numbers += 1
            request = Request(self._numbers, call, pid, **words)
            future: Future[Any] = Future()
            self._waiting[request.number] = future
            self._used = time.monotonic()
            try:
                connection.sendall(msgspec.json.encode(request) + b"\n")
            except OSError as problem:
                self._end(f"it broke off: {problem}")
        try:
            return future.result(limit_seconds)
        except FutureTimeoutError:
            cause = f"timeout: the driver did not end {call} within {limit_seconds:g} s"
            with self._guard:
                if self._connection is connection:
                    self._end(cause)
            raise DriverError(cause) from None

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        program = (
            f"import sys; sys.path.append({str(_PACKAGES)!r}); from nodeworker.capture.gpu.driver_process import serve; "
            "serve(int(sys.argv[1]), sys.argv[2], sys.argv[3])"
        )
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", program, str(theirs.fileno()), str(self._folder or ""), self._prefer],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env={**os.environ, **self._environment},
                start_new_session=True,  # a signal to the worker's group must not end it in the middle of a step
            )
        self._connection = ours
        threading.Thread(target=self._listen, args=(ours,), name="cuda", daemon=True).start()
        return ours

    def _listen(self, connection: socket.socket) -> None:
        with suppress(OSError), connection.makefile("rb") as lines:
            for line in lines:
                reply = msgspec.json.decode(line, type=Reply)
                with self._guard:
                    future = self._waiting.pop(reply.number, None)
                    self._used = time.monotonic()
                if future is not None and reply.error is not None:
                    future.set_exception(DriverError(reply.error))
                elif future is not None:
                    future.set_result(reply.value)
        with self._guard:
            if self._connection is connection:
                self._end("the process that holds the driver ended")

    def _end(self, reason: str) -> None:
        """Kill the process and tell everybody who waits; the guard is held."""
        if self._connection is not None:
            with suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)
            self._connection.close()
            self._connection = None
        if self._process is not None:
            # With all that it started: a tool left behind could end its step after the process was set back.
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(DriverError(reason))
