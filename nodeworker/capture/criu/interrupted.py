"""A dump that somebody ended: told from one that CRIU could not take, whose log says nothing of it.

CRIU complains of a container whose processes vanish in words that change with what it was looking at, and a runc that is killed says nothing at all.
"""

from __future__ import annotations

import signal
from contextlib import suppress
from pathlib import Path
from typing import Final

from nodeworker.domain.criu_complaints import CRASHED, UNKNOWN
from woodfrog.protocol.failures import Failure

KILLED: Final = "dump-killed"
_UNCLEAR: Final = frozenset({UNKNOWN.code, CRASHED})
"""What is said of a CRIU whose processes vanish under it: it does not know why it failed, or ends without an answer."""
_PENDING: Final = ("SigPnd:", "ShdPnd:")
_ENDED: Final = frozenset({"Z", "X"})


def interruption(exit_code: int, first_pid: int, failure: Failure) -> Failure:
    """Return the truth about a dump that failed: ``failure`` itself, unless runc or the container was killed meanwhile.

    ``exit_code`` is runc's, as ``subprocess`` has it, ``first_pid`` the container's first process.
    """
    if exit_code < 0:
        cause = f"runc was killed by signal {-exit_code} in the middle of the dump"
        advice = "Find out who killed it: if memory ran out, the kernel's log (`dmesg`) says so. A container that was not ended runs on, and can be dumped again."
        return Failure(KILLED, cause, advice, failure.detail)
    if failure.code in _UNCLEAR and is_killed(_status(first_pid)):
        cause = "the container was killed while its dump was being taken"
        return Failure(
            "container-gone", cause, "Nothing to do, unless it should have had more time to end.", failure.detail
        )
    return failure


def is_killed(status: str) -> bool:
    """Whether a process has ended, or will end as soon as it is thawed, by its ``/proc/PID/status``; empty if there is none."""
    fields = dict(line.split(maxsplit=1) for line in status.splitlines() if len(line.split(maxsplit=1)) == 2)
    if not fields or fields.get("State:", "")[:1] in _ENDED:
        return True
    kill = 1 << (signal.SIGKILL - 1)
    return any(int(fields.get(name, "0"), 16) & kill for name in _PENDING)


def _status(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/status").read_text()
    return ""
