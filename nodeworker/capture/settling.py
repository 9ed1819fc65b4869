"""Freezing at a moment at which CRIU can take every task.

A parent between ``vfork`` and its child's ``exec`` waits uninterruptibly. Frozen there, the child cannot go on to ``exec``
and the parent cannot stop for CRIU: the dump hangs until it times out ("Unseizable non-zombie ..., state D"). Shells,
``posix_spawn`` and Python's ``subprocess`` all start programs in this way, so a busy workload is met there quite often. The
window is about a millisecond long: thawing for a moment and freezing again leaves it.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from nodeworker.capture.freezer import Freezer
from protocol.failures import Failure, FailureError

_VFORK_WAITS: Final = frozenset({"kernel_clone", "wait_for_vfork_done", "_do_fork", "do_fork"})
"""Where such a parent sleeps, by kernel version (kernel/fork.c), as /proc/PID/wchan names it."""
_RUN_SECONDS: Final = 0.003
_LIMIT_SECONDS: Final = 10.0


def freeze_settled(freezer: Freezer) -> None:
    """Freeze so that no task is in the middle of a ``vfork``.

    Raises:
        FailureError: as :meth:`Freezer.freeze` does, or ``vfork-lasting``; nothing is left frozen then.
    """
    deadline = time.monotonic() + _LIMIT_SECONDS
    while True:
        freezer.freeze()
        waiting = [pid for pid in freezer.pids() if _waits_for_vfork(pid)]
        if not waiting:
            return
        freezer.thaw()
        if time.monotonic() >= deadline:
            cause = f"process {waiting[0]} waits in vfork for a child that does not call exec"
            raise FailureError(Failure("vfork-lasting", cause, "Try again later; CRIU cannot dump a process in vfork."))
        time.sleep(_RUN_SECONDS)


def _waits_for_vfork(pid: int) -> bool:
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                if (task / "wchan").read_text() in _VFORK_WAITS:
                    return True
    return False
