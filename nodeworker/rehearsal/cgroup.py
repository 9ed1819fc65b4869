"""The cgroup that bounds a rehearsal's memory, and in which runc makes the container's own.

On v1 runc makes the container's cgroup in every hierarchy, so all of them are cleaned; that of the memory controller has the
limit. On v2 a cgroup with children holds no processes (cgroup-v2.rst, "No Internal Process Constraint"), so the rehearsing process gets
one beside the container's.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

_MOUNTS: Final = Path("/proc/self/mounts")
_COUNTS: Final = Path("/proc/vmstat")
_POLL_SECONDS: Final = 0.02
_END_SECONDS: Final = 10.0


class RehearsalCgroup:
    """The cgroup of one worker's rehearsals. ``name`` is one path component. Every method blocks."""

    def __init__(self, name: str, version: int) -> None:
        self._name = name
        self._version = version
        self._killed = 0
        self._roots: dict[Path, list[str]] = {}
        """Where hierarchies are mounted, with their options; of v2, which has none of v1's, ``cgroup2``."""
        for line in _MOUNTS.read_text(errors="replace").splitlines():
            _, place, kind, options, *_ = line.split(" ")
            if kind in {"cgroup", "cgroup2"}:
                self._roots[Path(place)] = options.split(",") if kind == "cgroup" else [kind]

    @property
    def container(self) -> str:
        """``linux.cgroupsPath`` of the container."""
        return f"/{self._name}/container"

    def make(self, limit_bytes: int) -> Path | None:
        """Make it and set its limit; return the file that takes the rehearsing process in, ``None`` without a memory controller.

        Raises:
            OSError: it cannot be made.
        """
        self.remove()
        self._killed = _killed()
        root = self._memory_root()
        if root is None:
            return None
        own = root / self._name
        own.mkdir()
        if self._version == 1:
            (own / "memory.limit_in_bytes").write_text(str(limit_bytes))
            return own / "cgroup.procs"
        (own / "memory.max").write_text(str(limit_bytes))
        with suppress(OSError):
            (own / "memory.oom.group").write_text("1")
        inner = own / "process"
        inner.mkdir()
        return inner / "cgroup.procs"

    def ran_out(self) -> bool:
        """Say whether the limit may have ended a process.

        v1 counts that where the process was, in a cgroup that runc has removed by then. So any on the node counts.
        """
        if _killed() > self._killed:
            return True
        root = self._memory_root()
        name = "memory.oom_control" if self._version == 1 else "memory.events"
        with suppress(OSError):
            lines = (line.split() for line in ((root or Path()) / self._name / name).read_text().splitlines())
            return any(words[0] == "oom_kill" and words[1] != "0" for words in lines)
        return False

    def remove(self) -> None:
        """End whatever is left in it, and remove it. What cannot be removed is left to the next rehearsal."""
        deadline = time.monotonic() + _END_SECONDS
        for root in self._roots:
            for folder, _, _ in os.walk(root / self._name, topdown=False):
                self._remove(Path(folder), deadline)

    def _remove(self, folder: Path, deadline: float) -> None:
        while True:
            with suppress(OSError):
                folder.rmdir()
                return
            pids: list[int] = []
            with suppress(OSError):
                pids = [int(line) for line in (folder / "cgroup.procs").read_text().splitlines()]
            for pid in pids:
                with suppress(ProcessLookupError):
                    if pid > 0:  # 0 is one of another PID namespace, and to kill(2) our own process group
                        os.kill(pid, signal.SIGKILL)
            if not folder.exists() or time.monotonic() > deadline:
                return
            time.sleep(_POLL_SECONDS)

    def _memory_root(self) -> Path | None:
        for root, options in self._roots.items():
            if self._version == 1 and "memory" in options:
                return root
            if self._version == 2 and "cgroup2" in options:
                return self._v2_root(root)
        return None

    @staticmethod
    def _v2_root(root: Path) -> Path | None:
        with suppress(OSError):
            if "memory" in (root / "cgroup.subtree_control").read_text().split():
                return root
        return None


def _killed() -> int:
    """Count the processes that the node has ended since its boot because memory ran out, within a cgroup or altogether."""
    with suppress(OSError, ValueError):
        counts = (line.split() for line in _COUNTS.read_text().splitlines())
        return next((int(words[1]) for words in counts if words[0] == "oom_kill"), 0)
    return 0
