"""Freezing a container's cgroup by the kernel's own files, so that a dump and a copy of its files show one moment.

runc's ``pause`` would do it too, but it needs runc's state, which may be gone when a worker that died in the middle of
a dump comes back: a path and a version, as the journal keeps them, are enough here. Sources: the kernel's
Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst and cgroup-v2.rst.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from nodeworker.capture.criu import vfork
from woodfrog.protocol.failures import Failure, FailureError
from woodfrog.service.procfs import status_fields

_POLL_SECONDS: Final = 0.002
_REWRITE_EVERY: Final = 25
"""v1 can stay FREEZING for ever when a task forks at the wrong time; writing FROZEN again finishes it (runc does it too)."""
_THAW_SECONDS: Final = 5.0
_KILL_FREEZE_SECONDS: Final = 10.0


class HasCgroup(Protocol):
    """What knows the cgroup paths of a container, as runc's state.json spells them."""

    @property
    def cgroup_paths(self) -> Mapping[str, str]:
        """Controller name to path on v1; the empty name on v2."""


@dataclass(frozen=True, slots=True)
class Freezer:
    """A container's freezer. ``path`` and ``version`` (1 or 2) are all there is, so a journal can bring it back."""

    path: Path
    version: int

    @classmethod
    def of(cls, state: HasCgroup) -> Freezer:
        """Find the freezer among a container's cgroups.

        Raises:
            FailureError: ``no-freezer`` when the container has none.
        """
        paths = state.cgroup_paths
        if paths.get("freezer"):
            return cls(Path(paths["freezer"]), 1)
        if paths.get(""):
            return cls(Path(paths[""]), 2)
        raise FailureError(
            Failure(
                code="no-freezer",
                cause="the container has no freezer cgroup",
                advice="Mount the freezer controller (cgroup v1) or use cgroup v2, and create the container again.",
            )
        )

    def freeze(self, timeout_seconds: float = 10.0) -> None:
        """Stop every task at a moment at which CRIU can take hold of it, and wait until the kernel says that all stand.

        A process between vfork and exec stands, but cannot be seized, and CRIU would wait for it until its own time limit:
        the container runs on for a few milliseconds then, and is frozen again. Shells are in that state often.

        Raises:
            FailureError: ``freeze-timeout`` or ``vfork`` after ``timeout_seconds``, ``container-gone`` when the cgroup is
                not there; either way nothing is left frozen.
        """
        deadline = time.monotonic() + timeout_seconds
        self._freeze(deadline, timeout_seconds)
        while (waiting := next((pid for pid in self.pids() if vfork.waits(pid)), None)) is not None:
            self._order_thaw()
            if time.monotonic() >= deadline:
                raise FailureError(
                    Failure(
                        code="vfork",
                        cause=f"process {waiting} waited for a child between vfork and exec for {timeout_seconds:g} s",
                        advice="Try again; if it lasts, the program that the child is to start is slow to load.",
                    )
                )
            time.sleep(_POLL_SECONDS)
            self._freeze(deadline, timeout_seconds)

    def _freeze(self, deadline: float, timeout_seconds: float) -> None:
        tries = 0
        try:
            while True:
                if tries % _REWRITE_EVERY == 0:
                    self._order(frozen=True)
                if self.is_frozen():
                    return
                if time.monotonic() >= deadline:
                    break
                tries += 1
                time.sleep(_POLL_SECONDS)
        except FileNotFoundError as problem:
            raise FailureError(
                Failure("container-gone", f"the cgroup {self.path} does not exist", "Nothing to do: it has ended.")
            ) from problem
        except BaseException:
            self._order_thaw()
            raise
        stuck = ", ".join(str(pid) for pid in self.pids() if _state_of(pid) == "D") or "none is in state D"
        self._order_thaw()
        raise FailureError(
            Failure(
                code="freeze-timeout",
                cause=f"the container did not freeze within {timeout_seconds:g} s (uninterruptible processes: {stuck})",
                advice="Look for processes that wait for a disk or a network file system; try again when they are done.",
            )
        )

    def thaw(self) -> None:
        """Let every task run again, and wait until the kernel agrees. A cgroup that is gone needs no thawing.

        Raises:
            FailureError: ``thaw-failed`` when a cgroup above is frozen by somebody else.
        """
        deadline = time.monotonic() + _THAW_SECONDS
        while True:
            self._order_thaw()
            if not self._any_frozen():
                return
            if time.monotonic() >= deadline:
                raise FailureError(
                    Failure(
                        code="thaw-failed",
                        cause=f"the cgroup {self.path} stays frozen",
                        advice="A cgroup above it is frozen by another program: thaw that one.",
                    )
                )
            time.sleep(_POLL_SECONDS)

    def release(self, timeout_seconds: float = 60.0) -> None:
        """Thaw after a crash: first wait, no longer than the timeout, until no tracer holds any of the tasks.

        A CRIU that outlived its caller still holds the tasks, runs its own code in them, and writes FROZEN back before it
        lets go (``pstree_switch_state`` in criu/seize.c): thawing earlier would be undone, and killing CRIU would leave its
        code in the workload.

        Raises:
            FailureError: as :meth:`thaw` does.
        """
        deadline = time.monotonic() + timeout_seconds
        while self.traced() and time.monotonic() < deadline:
            time.sleep(0.02)
        self.thaw()

    def traced(self) -> bool:
        """Say whether another process (CRIU, a debugger) holds one of the tasks."""
        return any(status_fields(pid).get("TracerPid", "") not in {"0", ""} for pid in self.pids())

    def is_frozen(self) -> bool:
        """Say whether every task of the cgroup and of those below has stopped.

        Raises:
            FileNotFoundError: when the cgroup is gone.
        """
        if self.version == 1:
            return (self.path / "freezer.state").read_text().strip() == "FROZEN"
        return "frozen 1" in (self.path / "cgroup.events").read_text().splitlines()

    def pids(self) -> tuple[int, ...]:
        """List the processes of the cgroup and of those below; none if it is gone."""
        found: list[int] = []
        for folder in self._folders():
            with suppress(OSError):
                found += [int(line) for line in (folder / "cgroup.procs").read_text().split()]
        return tuple(sorted(set(found)))

    def kill_all(self) -> None:
        """Kill every task without letting one more instruction of it run: SIGKILL while frozen, then thaw.

        A task that thaws with SIGKILL pending dies on its way out of the kernel (kernel/signal.c: get_signal).

        Raises:
            FailureError: ``freeze-timeout``, ``container-gone``, or as :meth:`thaw` does.
        """
        self._freeze(time.monotonic() + _KILL_FREEZE_SECONDS, _KILL_FREEZE_SECONDS)
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.thaw()

    def _folders(self) -> Iterator[Path]:
        for folder, _, _ in os.walk(self.path):
            yield Path(folder)

    def _order(self, *, frozen: bool) -> None:
        if self.version == 1:
            (self.path / "freezer.state").write_text("FROZEN" if frozen else "THAWED")
        else:
            (self.path / "cgroup.freeze").write_text("1" if frozen else "0")

    def _order_thaw(self) -> None:
        with suppress(FileNotFoundError, OSError):
            self._order(frozen=False)

    def _any_frozen(self) -> bool:
        try:
            if self.version == 1:
                return (self.path / "freezer.state").read_text().strip() != "THAWED"
            return self.is_frozen()
        except OSError:
            return False


def _state_of(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1]
    return ""
