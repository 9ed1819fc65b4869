"""``python -m nodeworker.rehearsal``: one rehearsal, asked on standard input and answered on standard output.

This process and the one that it forks end with the worker (PR_SET_PDEATHSIG), and with the forked one, the first of a PID
namespace, everything that it started; its mounts are in a namespace of its own. So a worker that dies leaves an empty cgroup and nothing
else. Both give way to everybody: lowest priority for the CPU and the disk, and the first to go when memory runs out.
"""

from __future__ import annotations

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
from woodfrog.service import faultpoints, libc, logs

_NAMESPACES: Final = libc.CLONE_NEWNS | libc.CLONE_NEWUTS | libc.CLONE_NEWIPC | libc.CLONE_NEWPID | libc.CLONE_NEWNET
_IOPRIO_SET: Final = {"x86_64": 251, "aarch64": 30}
_IDLE: Final = 3 << 13


def main() -> int:
    """Rehearse; return the exit code."""
    task = wire.decode(sys.stdin.buffer.read(), RehearsalTask)
    answers = os.dup(1)
    os.dup2(2, 1)  # what is logged is no answer
    logs.configure(os.environ.get("WOODFROG_LOG_LEVEL", "info"))
    _end_with(task.worker_pid)
    _give_way()
    Path(task.procs).write_text(str(os.getpid()))
    try:
        libc.unshare(_NAMESPACES)
    except OSError as problem:
        _answer(answers, Rehearsed(skipped(f"no namespaces could be made: {problem.strerror}")))
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
    libc.process_option(libc.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _give_way() -> None:
    os.setpriority(os.PRIO_PROCESS, 0, 19)
    if (number := _IOPRIO_SET.get(os.uname().machine)) is not None:
        with suppress(OSError):
            libc.call("syscall", number, 1, 0, _IDLE)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _answer(answers: int, rehearsed: Rehearsed) -> None:
    os.write(answers, wire.encode(rehearsed) + b"\n")


if __name__ == "__main__":
    sys.exit(main())
