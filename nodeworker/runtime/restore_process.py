"""Waiting for ``runc restore``: no longer than its limit, nor for a lock that somebody else holds; and what a killed one leaves.

CRIU takes file locks in the name of the restored processes and waits for them without a bound (``flock`` in criu/file-lock.c).
/proc/locks names who waits and who holds the lock (proc(5)).
"""
# Paths here are text, and modules few: as in slowpath.py.

from __future__ import annotations

import os
import select
import time

from nodeworker.runtime import children
from nodeworker.runtime.minimal_stdlib import signal, suppress

LOCK_SECONDS = 10.0
"""A predecessor that is ending lets go of its locks within a moment."""
_LOOK_SECONDS = 0.5
_DEATH_SECONDS = 5.0
_MNT_DETACH = 2
_CGROUPS = "/sys/fs/cgroup"


def wait(pid: int, limit_seconds: float) -> tuple[int, str]:
    """Wait for a restore; return its exit code, and why it was killed if it was.

    ``limit_seconds`` 0 is no limit.
    """
    descriptor = os.pidfd_open(pid)
    try:
        ended = select.poll()
        ended.register(descriptor, select.POLLIN)
        began, locked = time.monotonic(), 0.0
        while not ended.poll(_LOOK_SECONDS * 1000):
            now = time.monotonic()
            if limit_seconds and now - began >= limit_seconds:
                kill(pid)
                return 1, f"restore-timeout: it was not done within {limit_seconds:g} s"
            held = blocked(descendants(pid))
            locked = (locked or now) if held else 0.0
            if held and now - locked >= LOCK_SECONDS:
                kill(pid)
                return 1, f"lock-taken: {held}"
    finally:
        os.close(descriptor)
    return children.wait(pid), ""


def descendants(pid: int) -> list[int]:
    """Every process that descends from ``pid``, parents first."""
    found: list[int] = []
    unseen = [pid]
    while unseen:
        parent = unseen.pop()
        with suppress(OSError):
            for task in os.listdir(f"/proc/{parent}/task"):
                with suppress(OSError), open(f"/proc/{parent}/task/{task}/children", encoding="ascii") as file:
                    more = [int(word) for word in file.read().split()]
                    found += more
                    unseen += more
    return found


def blocked(pids: list[int]) -> str:
    """Say for which lock one of the processes waits, and who holds it; nothing if none waits."""
    wanted = set(map(str, pids))
    holders: dict[str, list[str]] = {}
    with suppress(OSError), open("/proc/locks", encoding="ascii", errors="replace") as file:
        for line in file:
            words = line.split()
            if "->" in words:
                words.remove("->")
                if len(words) > 5 and words[4] in wanted and words[0] in holders:
                    return _lock(*holders[words[0]])
            elif len(words) > 5:
                holders[words[0]] = [words[4], words[5]]
    return ""


def _lock(holder: str, inode: str) -> str:
    name = ""
    with suppress(OSError), open(f"/proc/{holder}/comm", encoding="utf-8", errors="replace") as file:
        name = f" ({file.read().strip()})"
    who = f"process {holder}{name}" if holder.isdigit() else "another process"
    return f"{who} holds the lock on {_file(holder, inode)}"


def _file(holder: str, inode: str) -> str:
    number = inode.rpartition(":")[2]
    with suppress(OSError):
        for name in os.listdir(f"/proc/{holder}/fd"):
            path = f"/proc/{holder}/fd/{name}"
            with suppress(OSError):
                if str(os.stat(path).st_ino) == number:
                    return os.readlink(path)
    return f"the file {inode}"


def kill(pid: int) -> None:
    """Kill a child with all that descends from it, and wait for it: none of it has run for anybody yet."""
    deadline = time.monotonic() + _DEATH_SECONDS
    while True:
        doomed = [*descendants(pid), pid]
        for each in doomed:
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        if not any(children.birth(each) for each in doomed) or time.monotonic() >= deadline:
            return
        time.sleep(0.01)


def remove_leftovers(state_folder: str, cgroup: str, work_path: str = "") -> None:
    """Remove what ``runc delete`` does not know because the restore had not come to write its state: it would bar the name."""
    detach_mounts(work_path)
    mounted = any(os.path.ismount(folder) for folder, _, _ in os.walk(state_folder))
    if not mounted and not os.path.exists(os.path.join(state_folder, "state.json")):
        for folder, _, names in os.walk(state_folder, topdown=False):
            for name in names:
                with suppress(OSError):
                    os.unlink(os.path.join(folder, name))
            with suppress(OSError):
                os.rmdir(folder)
    remove_cgroups(cgroup)


def detach_mounts(work_path: str) -> None:
    """Detach what a killed CRIU left mounted where it worked: every hierarchy of cgroup v1 (``cgyard`` in criu/cgroup.c)."""
    with suppress(OSError):
        for name in os.listdir(work_path) if work_path else ():
            place = os.path.join(work_path, name)
            if os.path.ismount(place):
                detach(place)
                os.rmdir(place)


def detach(place: str) -> None:
    """Unmount lazily, with all that is mounted below."""
    import ctypes  # noqa: PLC0415  # slow to import and rarely needed

    ctypes.CDLL(None).umount2(os.fsencode(place), _MNT_DETACH)


def remove_cgroups(path: str) -> None:
    """Remove the empty cgroups of a container that ``runc delete`` does not know; systemd's own are its business."""
    if not path.startswith("/") or ".." in path.split("/") or path == "/":
        return
    with suppress(OSError):
        for controller in ("", *os.listdir(_CGROUPS)):
            for folder, _, _ in os.walk(os.path.join(_CGROUPS, controller, path.lstrip("/")), topdown=False):
                with suppress(OSError):
                    os.rmdir(folder)
