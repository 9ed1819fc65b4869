"""The C library's calls that ``os`` of Python 3.11 lacks: mounts, namespaces, and system calls by their numbers.

Constants are those of Linux's headers (``linux/sched.h``, ``linux/mount.h``). ``nodeworker.runtime`` has two calls of its own: it reads nothing
but the standard library, because every ``runc`` command of a node waits for it.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any, Final

CLONE_FS: Final = 0x200
CLONE_NEWNS: Final = 0x20000
CLONE_NEWUTS: Final = 0x4000000
CLONE_NEWIPC: Final = 0x8000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000

MS_RDONLY: Final = 1
MS_REMOUNT: Final = 0x20
MS_BIND: Final = 0x1000
MS_REC: Final = 0x4000
MS_SLAVE: Final = 0x80000
MS_SHARED: Final = 0x100000
MS_RELATIME: Final = 0x200000

MNT_DETACH: Final = 2
UMOUNT_NOFOLLOW: Final = 8

PR_SET_PDEATHSIG: Final = 1
PR_SET_CHILD_SUBREAPER: Final = 36

_libc: Final = ctypes.CDLL(None, use_errno=True)


def call(function: str, *arguments: Any, about: str = "") -> int:
    """Call a function and return what it returned; ``about`` stands in the error.

    Raises:
        OSError: it returned -1.
    """
    result: int = getattr(_libc, function)(*arguments)
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), about or function)
    return result


def mount(
    source: str | Path, target: str | Path, kind: str | None = None, flags: int = 0, data: str | bytes = b""
) -> None:
    """Mount (mount(2)).

    Raises:
        OSError: as mount(2); its file name is the target.
    """
    words = None if kind is None else kind.encode()
    call("mount", os.fsencode(source), os.fsencode(target), words, flags, os.fsencode(data) or None, about=str(target))


def unmount(target: str | Path, flags: int = 0) -> None:
    """Unmount (umount2(2)).

    Raises:
        OSError: as umount2(2); its file name is the target.
    """
    call("umount2", os.fsencode(target), flags, about=str(target))


def unshare(flags: int) -> None:
    """Give this thread namespaces of its own (unshare(2)).

    Raises:
        OSError: as unshare(2).
    """
    call("unshare", flags)


def enter(namespace: Path, kind: int) -> None:
    """Let this thread enter a namespace, which must be of that kind (setns(2)).

    Raises:
        OSError: as open(2) and setns(2); its file name is the namespace.
    """
    descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        call("setns", descriptor, kind, about=str(namespace))
    finally:
        os.close(descriptor)


def process_option(option: int, value: int) -> None:
    """Set an option of this process (prctl(2)).

    Raises:
        OSError: as prctl(2).
    """
    call("prctl", option, value, 0, 0, 0)


def end_with_parent(parent: int, number: int) -> None:
    """Have this process sent a signal when the thread ends that made it; for a process that was just made, by ``parent``.

    It holds for what the process becomes by execve(2), and not for its children (PR_SET_PDEATHSIG in prctl(2)).

    Raises:
        OSError: as prctl(2).
    """
    process_option(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it ended before that
        os.kill(os.getpid(), number)
