"""``python -m nodeworker.rehearsal``: one rehearsal, asked on standard input and answered on standard output.

This process and the one that it forks end with the worker (PR_SET_PDEATHSIG), and with the forked one, the first of a PID
namespace, everything that it started; its mounts are in a namespace of its own. So a worker that dies leaves an empty cgroup and nothing
else. Both give way to everybody: lowest priority for the CPU and the disk, and the first to go when memory runs out.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from nodeworker.domain.rehearsal import skipped
from nodeworker.rehearsal.container import rehearse
from nodeworker.rehearsal.task import RehearsalTask, Rehearsed
from woodfrog.protocol import wire
from woodfrog.service import faultpoints, logs

_PR_SET_PDEATHSIG: Final = 1
_NEWNS, _NEWUTS, _NEWIPC, _NEWPID, _NEWNET = 0x00020000, 0x04000000, 0x08000000, 0x20000000, 0x40000000
_IOPRIO_SET: Final = {"x86_64": 251, "aarch64": 30}
_IDLE: Final = 3 << 13
_libc: Final = ctypes.CDLL(None, use_errno=True)


def main() -> int:
    """Rehearse; return the exit code."""
    task = wire.decode(sys.stdin.buffer.read(), RehearsalTask)
    answers = os.dup(1)
    os.dup2(2, 1)  # what is logged is no answer
    logs.configure(os.environ.get("WOODFROG_LOG_LEVEL", "info"))
    _end_with(task.worker_pid)
    _give_way()
    Path(task.procs).write_text(str(os.getpid()))
    if _libc.unshare(_NEWNS | _NEWUTS | _NEWIPC | _NEWPID | _NEWNET) != 0:
        _answer(answers, Rehearsed(skipped(f"no namespaces could be made: {os.strerror(ctypes.get_errno())}")))
        return 0
    child = os.fork()
    if child == 0:
        _inside(task, answers)
    _, status = os.waitpid(child, 0)
    return 0 if status == 0 else 1


def _inside(task: RehearsalTask, answers: int) -> None:
    """Rehearse as the first process of the PID namespace, whose end is the end of all others there."""
    code = 1
    try:
        _end_with(0)  # the parent's id in this namespace
        try:
            verdict = rehearse(task)
        except Exception as problem:  # noqa: BLE001 -- whatever it was, it says nothing about the snapshot
            verdict = skipped(f"the rehearsal failed: {problem!r}")
        faultpoints.reach("rehearsal.restored")
        _answer(answers, Rehearsed(verdict))
        code = 0
    finally:
        os._exit(code)


def _end_with(parent: int) -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _give_way() -> None:
    os.setpriority(os.PRIO_PROCESS, 0, 19)
    if (number := _IOPRIO_SET.get(os.uname().machine)) is not None:
        _libc.syscall(number, 1, 0, _IDLE)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _answer(answers: int, rehearsed: Rehearsed) -> None:
    os.write(answers, wire.encode(rehearsed) + b"\n")


if __name__ == "__main__":
    sys.exit(main())
