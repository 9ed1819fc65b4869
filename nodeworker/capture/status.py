"""What the kernel tells of a process, as proc_pid_status(5) gives it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def status_fields(pid: int | str) -> dict[str, str]:
    """Read the fields of a process, or of a thread as ``PID/task/TID``, by their names; none if it is gone."""
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return {}
