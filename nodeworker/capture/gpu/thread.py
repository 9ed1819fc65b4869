"""Letting one thread of a stopped process run: the one through which the driver brings GPU memory back.

After a restore every process is stopped until ``start``, but the driver needs its own thread in the process for its work.
The others must go on standing: they could touch memory that is not mapped again yet (so CRIU's own CUDA plugin says, which
does the same as here: criu/plugins/cuda). A debugger may let a single thread of a stopped process run, and when it lets go
the kernel stops the thread again with the others (ptrace(2), "Group-stop"; ``__ptrace_unlink`` in kernel/ptrace.c). The
kernel lets go as well if we die. Only the thread that seized it may give a tracee orders, so all happens in the caller's.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from woodfrog.protocol.failures import Failure, FailureError

_CONT: Final = 7
_DETACH: Final = 17
_SEIZE: Final = 0x4206
_INTERRUPT: Final = 0x4207
_GETSIGMASK: Final = 0x420A
_SETSIGMASK: Final = 0x420B
_SIGSET_BYTES: Final = 8
_ALL_SIGNALS: Final = (1 << 64) - 1
_WALL: Final = 0x40000000
_STOP_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 0.001

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)


@contextmanager
def running_alone(tid: int) -> Iterator[None]:
    """Let thread ``tid`` of a stopped process run, with every signal held back, and stop it again with the others.

    Who stopped the process may have come back before its threads have: a stop that comes later would take the thread away
    from the driver in the middle of its work. So it is waited for.

    Raises:
        FailureError: ``gpu-thread`` when it does not stop, or when the kernel does not let us take hold of it.
    """
    _wait_until_stopped(tid)
    _order(_SEIZE, tid)
    try:
        _wait_for_stop(tid)
        mask = ctypes.c_uint64(0)
        _order(_GETSIGMASK, tid, _SIGSET_BYTES, ctypes.addressof(mask))
        _order(_SETSIGMASK, tid, _SIGSET_BYTES, ctypes.addressof(ctypes.c_uint64(_ALL_SIGNALS)))
        _order(_CONT, tid)
        try:
            yield
        finally:
            _order(_INTERRUPT, tid)
            _wait_for_stop(tid)
            _order(_SETSIGMASK, tid, _SIGSET_BYTES, ctypes.addressof(mask))
    finally:
        with suppress(FailureError):
            _order(_DETACH, tid)


def _order(request: int, tid: int, address: int = 0, data: int = 0) -> None:
    if _libc.ptrace(request, tid, address, data) != 0:
        number = ctypes.get_errno()
        raise _failure(tid, os.strerror(number))


def _wait_until_stopped(tid: int) -> None:
    deadline = time.monotonic() + _STOP_SECONDS
    while not _is_stopped(tid):
        if time.monotonic() >= deadline:
            raise _failure(tid, "its process does not stand still")
        time.sleep(_POLL_SECONDS)


def _wait_for_stop(tid: int) -> None:
    deadline = time.monotonic() + _STOP_SECONDS
    while True:
        try:
            found, status = os.waitpid(tid, _WALL | os.WNOHANG)
        except ChildProcessError as problem:
            raise _failure(tid, "it is gone") from problem
        if found == tid:
            if os.WIFSTOPPED(status):
                return
            raise _failure(tid, "it has ended")
        if time.monotonic() >= deadline:
            raise _failure(tid, f"it did not stop within {_STOP_SECONDS:g} s")
        time.sleep(_POLL_SECONDS)


def _failure(tid: int, reason: str) -> FailureError:
    cause = f"the CUDA restore thread {tid} could not be let run: {reason}"
    return FailureError(
        Failure("gpu-thread", cause, "See whether a debugger or another tracer holds the container's processes.")
    )


def _is_stopped(tid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{tid}/stat").read_text().rpartition(") ")[2][:1] == "T"
    return False
