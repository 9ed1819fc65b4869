"""Seeing whether a process stands between vfork and exec, where no debugger and no CRIU can take hold of it.

Its parent sleeps in the kernel until the child has called exec or ended, and ptrace(2) can stop it only then. dash, and
whatever uses posix_spawn(3), starts programs in this way, so a busy shell is in that state at every tenth glance.
The system call that a process is in comes from /proc/PID/syscall (proc_pid_syscall(5)).
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

_CLONE_VFORK: Final = 0x4000
_CLONE3: Final = 435
_VFORK_AND_CLONE: Final[dict[str, tuple[int | None, int]]] = {"x86_64": (58, 56), "aarch64": (None, 220)}
"""The numbers of vfork (which newer architectures lack) and clone; clone3 has the same number everywhere."""
_PAST_IT: Final = "__refrigerator"
"""Where a frozen task waits that is not in the middle of a system call: the child was started, the call has returned."""


def waits(pid: int) -> bool:
    """Say whether a thread of the process waits in vfork. Unknown architectures and ended processes do not."""
    with suppress(OSError):
        return any(_thread_waits(thread) for thread in Path(f"/proc/{pid}/task").iterdir())
    return False


def _thread_waits(thread: Path) -> bool:
    vfork, clone = _VFORK_AND_CLONE.get(os.uname().machine, (None, -1))
    with suppress(OSError, ValueError):
        words = (thread / "syscall").read_text().split()
        if len(words) < 2 or (thread / "wchan").read_text() == _PAST_IT:
            return False
        number = int(words[0])
        if number == _CLONE3:
            with (thread / "mem").open("rb", buffering=0) as memory:
                memory.seek(int(words[1], 16))
                return bool(int.from_bytes(memory.read(8), "little") & _CLONE_VFORK)
        return number == vfork or (number == clone and bool(int(words[1], 16) & _CLONE_VFORK))
    return False
