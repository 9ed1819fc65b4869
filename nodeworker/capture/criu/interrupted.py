"""A dump that somebody ended: told from one that CRIU could not take, whose log says nothing of it.

CRIU complains of a container whose processes vanish in words that change with what it was looking at, and a runc that is killed says nothing at all.
If it had not taken hold of all processes yet, it looks for those that vanished until its time limit (criu/seize.c, ``freeze_processes``): whoever
waits for the container's end would wait a minute for a container that is dead.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from nodeworker.domain.criu_complaints import CRASHED, UNKNOWN
from nodeworker.errors import failure_of
from woodfrog.protocol.failures import Failure
from woodfrog.service import procfs

KILLED: Final = "dump-killed"
_UNCLEAR: Final = frozenset({UNKNOWN.code, CRASHED, "dump-timeout", "foreign-process", "traced"})
"""What is said of a CRIU whose processes vanish under it: it does not know why it failed, takes them for others, or ends without an answer."""
_WHERE_NOTHING_IS: Final = frozenset({"container-unknown", "internal", "runc-failed"})
"""What is said where files are looked for that are not there any more."""
_LOOK_SECONDS: Final = 1.0
_GRACE_SECONDS: Final = 2.0
"""How long a CRIU whose container was killed has to find out by itself."""
_PENDING: Final = ("SigPnd", "ShdPnd")
_ENDED: Final = frozenset({"Z", "X"})


def wait(runc: subprocess.Popen[bytes], first_pid: int, timeout_seconds: float) -> int:
    """Wait for a dump; end CRIU when the container was killed meanwhile and it does not find out. Return runc's exit code.

    With the first process of its namespace all others end, whatever CRIU has put into them.

    Raises:
        subprocess.TimeoutExpired: runc was killed, because it was not done in time.
    """
    began = time.monotonic()
    takes_all_along = procfs.inside(first_pid) == 1
    killed_at = None
    while True:
        try:
            left = began + timeout_seconds - time.monotonic()
            return runc.wait(min(_LOOK_SECONDS, max(left, 0)))
        except subprocess.TimeoutExpired:
            now = time.monotonic()
            if now - began > timeout_seconds:
                runc.kill()
                runc.wait()
                raise
        if takes_all_along and is_killed(procfs.status_fields(first_pid)):
            killed_at = killed_at or now
            if now - killed_at > _GRACE_SECONDS:
                for pid in _children(runc.pid):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)


def interruption(exit_code: int, first_pid: int, failure: Failure) -> Failure:
    """Return the truth about a dump that failed: ``failure`` itself, unless runc or the container was killed meanwhile.

    ``exit_code`` is runc's, as ``subprocess`` has it, ``first_pid`` the container's first process.
    """
    if exit_code < 0:
        cause = f"runc was killed by signal {-exit_code} in the middle of the dump"
        advice = "Find out who killed it: if memory ran out, the kernel's log (`dmesg`) says so. A container that was not ended runs on, and can be dumped again."
        return Failure(KILLED, cause, advice, failure.detail)
    if failure.code in _UNCLEAR and is_killed(procfs.status_fields(first_pid)):
        return _gone("killed", failure.detail)
    return failure


def removal(problem: BaseException, container: Path) -> Failure | None:
    """Return the truth about a dump that failed because its container was removed; ``container`` is its folder in runc's state."""
    failure = failure_of(problem)
    if failure.code not in _WHERE_NOTHING_IS or container.exists():
        return None
    return _gone("removed", failure.detail or str(problem))


def is_killed(fields: Mapping[str, str]) -> bool:
    """Whether a process has ended, or will end as soon as it is thawed, by the fields of its status; none if there is no process."""
    if not fields or fields.get("State", "")[:1] in _ENDED:
        return True
    kill = 1 << (signal.SIGKILL - 1)
    return any(int(fields.get(name, "0"), 16) & kill for name in _PENDING)


def _gone(how: str, detail: str) -> Failure:
    cause = f"the container was {how} while its dump was being taken"
    return Failure("container-gone", cause, "Nothing to do, unless it should have had more time to end.", detail)


def _children(pid: int) -> Iterator[int]:
    """Give the children of all threads of a process; needs CONFIG_PROC_CHILDREN, as CRIU does."""
    with suppress(OSError):
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            yield from map(int, children.read_text().split())
