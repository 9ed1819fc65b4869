"""CRIU as the worker uses it: is it fit, what does it get told, what do its complaints mean, what can it not take along.

Which options and which complaints there are is pure knowledge and lies in ``nodeworker.domain``; here is the part that
touches the machine. CRIU itself is started by runc only.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from nodeworker.domain import criu_complaints, criu_failures, criu_options
from nodeworker.domain.common_failures import disk_full
from woodfrog.protocol.failures import Failure, FailureError
from woodfrog.service.procfs import descriptors, named, status_fields

_CHECK_SECONDS: Final = 60.0
_LOG_BYTES: Final = 4 * 1024 * 1024
_ROOM_FOR_A_LOG_BYTES: Final = 1024 * 1024
IO_URING: Final = "anon_inode:[io_uring]"
_KMSG_RECORD_BYTES: Final = 8192
_CRASH_AGE_SECONDS: Final = 10.0
_CRASH = re.compile(r"\bcriu\[\d+\]|\(criu\)|ld-linux\S*\[\d+\]")
"""A CRIU of a bundle is started by the bundle's loader, whose name the kernel may know it by."""


def version(criu: Path) -> str:
    """Ask CRIU for its version, e.g. ``4.1.1``.

    Raises:
        FailureError: ``criu-missing`` when it does not run or says none.
    """
    answer = _run([str(criu), "--version"])
    try:
        major, minor, patch = criu_options.parse_version(answer.stdout)
    except ValueError as problem:
        raise FailureError(criu_failures.criu_missing(str(criu), answer.stderr.strip())) from problem
    return f"{major}.{minor}.{patch}" if patch else f"{major}.{minor}"


def check(criu: Path) -> None:
    """Ask CRIU whether it works on the running kernel. Needs root.

    Raises:
        FailureError: ``criu-missing``, ``criu-unusable`` or ``self-test-timeout``, with CRIU's own words as detail.
    """
    answer = _run([str(criu), "check"])
    if answer.returncode != 0:
        raise FailureError(criu_failures.criu_unusable(str(criu), (answer.stderr + answer.stdout).strip()))


def refuse_too_old(criu: Path, criu_version: str | None) -> None:
    """Refuse a CRIU that cannot restore with OCI's semantics; one that says no version is refused where it is needed.

    Raises:
        FailureError: ``criu-unusable``.
    """
    if criu_version is not None and criu_options.parse_version(criu_version) < criu_options.OLDEST:
        oldest = ".".join(map(str, criu_options.OLDEST[:2]))
        detail = f"it has version {criu_version}; {oldest} or later is needed"
        raise FailureError(criu_failures.criu_unusable(str(criu), detail))


def explain(log_path: Path | None, stderr: str, criu: Path | None = None) -> Failure:
    """Return what a failed dump or restore means, from CRIU's log (where there is one) and what runc wrote to stderr.

    On a full disk there is no room for the log either, so where it names no cause, the room beside it is looked at. Of a
    crash only the kernel's log knows more; ``criu`` is asked for its version then.
    """
    failure = criu_failures.explain("" if log_path is None else _end_of(log_path), stderr)
    if failure.code == criu_complaints.CRASHED:
        number = None
        try:
            number = version(criu) if criu is not None else None
        except FailureError as problem:  # it ends before it does anything, and may say why
            said = criu_failures.explain("", problem.failure.detail)
            if said.code != criu_complaints.UNKNOWN.code:
                return said
        return criu_failures.crashed(failure, number, _kernel_line_of_a_crash())
    if failure.code == criu_complaints.UNKNOWN.code and log_path is not None:
        with suppress(OSError):
            if shutil.disk_usage(log_path.parent).free < _ROOM_FOR_A_LOG_BYTES:
                return disk_full(str(log_path.parent), failure.detail).failure
    return failure


def has_complained(log_path: Path) -> bool:
    """Say whether CRIU's log reports an error: without one, whatever went wrong was runc's, or CRIU was ended."""
    return bool(criu_failures.complaints(_end_of(log_path)))


def _end_of(log_path: Path) -> str:
    with suppress(OSError), log_path.open("rb") as log:
        size = log.seek(0, 2)
        log.seek(max(0, size - _LOG_BYTES))
        return log.read().decode(errors="replace")
    return ""


def _kernel_line_of_a_crash() -> str | None:
    """Return the kernel's newest line about a CRIU that ended by a signal, if it is recent (/dev/kmsg, printk's ABI)."""
    newest = None
    with suppress(OSError):
        descriptor = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        try:
            while True:
                try:
                    record = os.read(descriptor, _KMSG_RECORD_BYTES).decode(errors="replace")
                except BrokenPipeError:  # the record was overwritten; the next read goes on behind it
                    continue
                prefix, _, line = record.partition(";")
                age_seconds = time.monotonic() - int(prefix.split(",")[2]) / 1e6
                if _CRASH.search(line) and age_seconds < _CRASH_AGE_SECONDS:
                    newest = line.splitlines()[0]
        except (BlockingIOError, ValueError, IndexError):
            return newest
        finally:
            os.close(descriptor)
    return newest


def stopped_pids(pids: Iterable[int]) -> tuple[int, ...]:
    """Which of these processes job control has stopped, by their pids inside the container. Ask before freezing.

    After a restore every process is stopped; these are the ones that ``start`` must leave so.
    """
    stopped = []
    for pid in pids:
        fields = status_fields(pid)
        if fields.get("State", "").startswith("T"):
            stopped.append(int(fields["NSpid"].split()[-1]))
    return tuple(sorted(stopped))


def pids_outside(pids: Iterable[int], inside: Collection[int]) -> tuple[int, ...]:
    """Which of these processes have one of the pids ``inside`` the container."""
    own = {pid: status_fields(pid).get("NSpid", "").split() for pid in pids}
    return tuple(pid for pid, levels in own.items() if levels and int(levels[-1]) in inside)


def descendants(pids: Collection[int], first: int) -> tuple[int, ...]:
    """Return those of a container's processes that CRIU dumps: the first one and its descendants, not sessions of ``exec``."""
    children: dict[int, list[int]] = {}
    for pid in pids:
        children.setdefault(int(status_fields(pid).get("PPid") or 0), []).append(pid)
    found, waiting = [], [first] if first in pids else []
    while waiting:
        found.append(pid := waiting.pop())
        waiting += children.pop(pid, ())
    return tuple(found)


def refuse_traced(pids: Iterable[int]) -> None:
    """Refuse processes that a debugger holds: a frozen one can let go of nobody, so CRIU would wait for its whole time limit.

    Raises:
        FailureError: ``traced``, naming the process and who traces it.
    """
    for pid in pids:
        tasks: Iterable[str] = ()
        with suppress(OSError):
            tasks = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 -- names are all that is wanted
        for task in tasks:
            tracer = int(status_fields(int(task)).get("TracerPid") or 0)
            if tracer:
                name, other = (status_fields(each).get("Name", "?") for each in (pid, tracer))
                row = criu_failures.rule("traced")
                raise FailureError(
                    Failure(row.code, f"process {pid} ({name}) is traced by process {tracer} ({other})", row.advice)
                )


def refuse_io_uring(pids: Iterable[int]) -> None:
    """Refuse what CRIU cannot dump before anything is frozen.

    An io_uring instance shows as a descriptor, and as a mapping where the descriptor is closed but the rings are mapped.

    Raises:
        FailureError: ``io-uring``, naming the process.
    """
    for pid in pids:
        if _maps_io_uring(pid) or IO_URING in descriptors(pid).values():
            raise FailureError(criu_failures.io_uring(f"{named(pid)} uses io_uring, which CRIU cannot dump"))


def refuse_adopted(pids: Collection[int], first: int) -> None:
    """Refuse processes that CRIU would not find: those that the pod's first process has adopted, not the container's.

    Where a pod shares its process namespace, that is what becomes of a process whose parent has ended. It stays in the
    container's cgroup and is no descendant of ``first``, the container's first process, which is where CRIU looks. A session
    of ``exec`` has its parent outside of the namespace.

    Raises:
        FailureError: ``process-adopted``, naming the process.
    """
    for pid in pids:
        parent = int(status_fields(pid).get("PPid") or 0)
        if pid == first or parent == 0 or parent in pids:
            continue
        rules = status_fields(parent).get("NSpid", "").split()[-1:] == ["1"]
        if rules and pid_namespace(parent) == pid_namespace(pid) is not None:
            name = status_fields(pid).get("Name", "?")
            raise FailureError(
                Failure(
                    "process-adopted",
                    f"process {pid} ({name}) outlived its parent and was adopted by the pod's first process",
                    "Do not share the process namespace (shareProcessNamespace), or let the program wait for its children.",
                )
            )


def pid_namespace(pid: int) -> str | None:
    """Return what names the PID namespace of a process, or ``None`` if it has ended."""
    with suppress(OSError):
        return str(Path(f"/proc/{pid}/ns/pid").readlink())
    return None


def refuse_unreadable_limits(pids: Iterable[int]) -> None:
    """Refuse processes whose resource limits CRIU could not read, as it must, and would find out only half-way.

    Those of another user need CAP_SYS_RESOURCE (prlimit(2)), which some virtual machines and containers take from root.

    Raises:
        FailureError: ``capability-missing``, naming the process.
    """
    for pid in pids:
        try:
            resource.prlimit(pid, resource.RLIMIT_CPU)
        except PermissionError as problem:
            cause = f"{named(pid)} is another user's, and the node's root lacks CAP_SYS_RESOURCE to read its limits"
            row = criu_failures.rule("capability-missing")
            raise FailureError(Failure(row.code, cause, row.advice)) from problem
        except ProcessLookupError:
            continue


def _maps_io_uring(pid: int) -> bool:
    with suppress(OSError):
        return IO_URING.encode() in Path(f"/proc/{pid}/maps").read_bytes()
    return False


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_CHECK_SECONDS,
            check=False,
        )
    except OSError as problem:
        raise FailureError(criu_failures.criu_missing(command[0], str(problem))) from problem
    except subprocess.TimeoutExpired as problem:
        raise FailureError(criu_failures.too_slow(f"`{' '.join(command)}` did not end", _CHECK_SECONDS)) from problem
