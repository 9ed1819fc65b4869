"""Running runc from the runtime's slow path: as a child, or in our place.

Python ignores SIGPIPE and SIGXFSZ, and a child would inherit that; a container must not. ``subprocess`` is left out for
the time that its import takes. Standard input, output and error are passed on untouched: they become the container's.
"""

from __future__ import annotations

import os
import time

from nodeworker.runtime.minimal_stdlib import signal, suppress

_RESET = (signal.SIGPIPE, signal.SIGXFSZ)


def become(command: list[str]) -> int:
    """Put the command in our place. Never returns; the return type lets callers end with it."""
    for number in _RESET:
        signal.signal(number, signal.SIG_DFL)
    os.execv(command[0], command)  # noqa: S606  # the command is runc's, built here


def spawn(command: list[str], *, path_first: str | None = None) -> int:
    """Start the command and return its pid. ``path_first`` is looked at before the other folders of PATH."""
    environment = dict(os.environ)
    if path_first is not None:
        environment["PATH"] = f"{path_first}{os.pathsep}{environment.get('PATH', os.defpath)}"
    return os.posix_spawn(command[0], command, environment, setsigdef=_RESET)


def wait(pid: int) -> int:
    """Wait for a child and return its exit code as a shell would put it."""
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def end(pid: int, grace_seconds: float) -> None:
    """Wait for a child that is about to end; kill it when it is not."""
    deadline = time.monotonic() + grace_seconds
    with suppress(ChildProcessError):
        while os.waitpid(pid, os.WNOHANG)[0] == 0:
            if time.monotonic() >= deadline:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return
            time.sleep(0.01)


def birth(pid: int) -> str:
    """When the process started, in the kernel's ticks; empty if there is none. With the pid it names a process for good."""
    with suppress(OSError), open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        fields = file.read().rpartition(") ")[2].split()
        return "" if fields[0] in {"Z", "X"} else fields[19]
    return ""
