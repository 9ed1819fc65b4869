"""Who a lease's holder is: a name for people, and what proves to a neighbour that its process is dead.

A lease must be waited for because nobody can tell a dead holder from a silent one, unless both live on one machine. There the
kernel can: a process is named for good by the boot, its pid namespace, its pid and the clock tick in which it was started
(proc(5), ``/proc/<pid>/stat`` field 22). Who is in the same namespace of the same boot and finds no such process need not
wait: a control plane killed and started again leads at once.

A pid namespace's number may be given again once the namespace is gone, and then the processes in it are dead too, so that
this mistakes nobody living for dead.
"""

from __future__ import annotations

import os
import socket
import uuid
from pathlib import Path
from typing import Final

_PARTS: Final = 6
_STATE, _STARTED = 0, 19
"""Places in ``/proc/<pid>/stat`` behind the command's name, which may hold blanks and ends with the last parenthesis."""
_DEAD: Final = {"Z", "X", "x"}


def holder_identity(name: str = "") -> str:
    """Name this process, under ``name`` or that of its host; every call gives another name."""
    pid = os.getpid()
    stat = _stat(pid)
    started = stat[_STARTED] if stat else ""
    return "/".join((name or socket.gethostname(), _boot(), _namespace(), str(pid), started, uuid.uuid4().hex[:8]))


def is_dead(holder: str) -> bool:
    """Whether the holder's process is known to have ended; False if that cannot be known from here."""
    parts = holder.split("/")
    if len(parts) != _PARTS or not all(parts):
        return False
    _, boot, namespace, pid, started, _ = parts
    if not pid.isdecimal() or (boot, namespace) != (_boot(), _namespace()):
        return False
    stat = _stat(int(pid))
    return stat is None or stat[_STATE] in _DEAD or stat[_STARTED] != started


def _boot() -> str:
    return _text("/proc/sys/kernel/random/boot_id")


def _namespace() -> str:
    """Number the pid namespace; empty if ``/proc`` shows another one than this process is in."""
    try:
        own_proc = str(Path("/proc/self").readlink()) == str(os.getpid())
        return str(Path("/proc/self/ns/pid").readlink()) if own_proc else ""
    except OSError:
        return ""


def _stat(pid: int) -> list[str] | None:
    text = _text(f"/proc/{pid}/stat")
    return text.rpartition(")")[2].split() if text else None


def _text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
