"""What the kernel tells of a process: its fields (proc_pid_status(5)), its descriptors (proc_pid_fd(5)) and its mounts (proc_pid_mountinfo(5))."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

_ESCAPED: Final = re.compile(r"\\([0-7]{3})")


def status_fields(pid: int | str) -> dict[str, str]:
    """Read the fields of a process, or of a thread as ``PID/task/TID``, by their names; none if it is gone."""
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return {}


def inside(process: int | str) -> int:
    """Return how the container calls a process, or a thread as ``PID/task/TID``; 0 if it is gone."""
    names = status_fields(process).get("NSpid", "").split()
    return int(names[-1]) if names else 0


def named(pid: int) -> str:
    """Name a process for a person: ``process 7 (sh)``."""
    return f"process {pid} ({status_fields(pid).get('Name', '?')})"


def descriptors(pid: int) -> dict[str, str]:
    """Return what each descriptor of a process leads to, by its number; none if it is gone."""
    found = {}
    folder = f"/proc/{pid}/fd"
    with suppress(OSError):
        for number in os.listdir(folder):  # noqa: PTH208 -- names are all that is wanted
            with suppress(OSError):
                found[number] = os.readlink(f"{folder}/{number}")  # noqa: PTH115 -- Path is 5 times slower
    return found


class Mount(NamedTuple):
    """One mount, as a process sees it."""

    device: str
    """Of the file system, as ``major:minor``."""
    root: str
    """What of the file system is mounted."""
    place: str
    kind: str
    """Of the file system, such as ``overlay``."""
    options: tuple[str, ...]
    """Of the file system."""

    @classmethod
    def read(cls, line: str) -> Mount:
        """Read a line of mountinfo."""
        mount, _, system = line.partition(" - ")
        _, _, device, root, place, *_ = mount.split(" ")
        kind, _, options = system.split(" ")[:3]
        return cls(device, _unescaped(root), _unescaped(place), kind, tuple(options.split(",")))


def mounts(process: int | str = "self") -> list[Mount]:
    """Return the mounts of a process's namespace, the earliest first.

    Raises:
        OSError: the process is gone.
    """
    text = Path(f"/proc/{process}/mountinfo").read_text(errors="surrogateescape")
    return [Mount.read(line) for line in text.split("\n") if line]


def _unescaped(path: str) -> str:
    """Undo what the kernel writes for a blank, a tab, a line's end and a backslash."""
    return _ESCAPED.sub(lambda escape: chr(int(escape[1], 8)), path)
