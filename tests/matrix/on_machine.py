"""Two node workers on this machine, whose programs are run as a user runs them: ``woodfrog run`` with the product's defaults.

Each container has a network namespace of its own. The options are about the program's files, none is for Woodfrog's sake.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from matrix.place import dumps_other_users, environment, snippet, words
from matrix.program import Program
from support.stack import Run, Stack

from woodfrog import client
from woodfrog.dev_state import StateDirectory
from woodfrog.local.dev import NAMESPACE
from woodfrog.protocol.ids import CheckpointKey

WORKLOADS: Final = Path(__file__).parent / "workloads"
_SNIPPET_SECONDS: Final = 120
_STOP_SECONDS: Final = 120
_ASK_SECONDS: Final = 60.0


class OneMachine:
    """Two stacks as a ``Place``; ``lowers`` has each suite's root filesystem."""

    moves = (1, 0)

    def __init__(self, nodes: tuple[Stack, Stack], lowers: dict[str, Path]) -> None:
        self._nodes = nodes
        self._lowers = lowers
        self._all_root = not dumps_other_users(Path("/proc/self/status").read_text())

    def start(self, name: str, program: Program, node: int) -> _Container:
        variables = environment(program, all_root=self._all_root)
        options = [
            "--rootfs", str(self._lowers[program.suite]), "--mount", f"{WORKLOADS}:/workloads:ro", "--name", "matrix",
            *(word for each in variables.items() for word in ("--env", "=".join(each))),
        ]  # fmt: skip
        return _Container(self._nodes[node].run(name, *words(program), options=tuple(options)))

    def history(self, name: str) -> list[dict[str, Any]]:
        reach = StateDirectory(self._nodes[0].state).described().reach
        key = CheckpointKey.checked(reach.cluster, NAMESPACE, name)
        return client.view(reach, "events", key, seconds=_ASK_SECONDS)


class _Container:
    """A run as ``Live``."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._out = ("", "")
        self.container = str(run.container["container_id"])
        self.restored_from: str | None = run.container["restored_from"]

    def runs(self) -> bool:
        return self._run.process.poll() is None

    def shell(self, text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["runc", "--root", self._run.stack.runc_root, "exec", self.container, "sh", "-c", snippet(text)],
            check=False, capture_output=True, text=True, timeout=_SNIPPET_SECONDS,
        )  # fmt: skip

    def read(self, path: str) -> bytes | None:
        place = self._run.root / path.lstrip("/")
        return place.read_bytes() if place.exists() else None

    def stop(self) -> None:
        with suppress(subprocess.TimeoutExpired):
            _, *out = self._run.stop(_STOP_SECONDS)
            self._out = (out[0], out[1])

    def said(self) -> str:
        with suppress(OSError, subprocess.TimeoutExpired, ValueError):
            if self.runs():
                self._kill()
            _, *out = self._run.wait(20)
            self._out = (out[0], out[1])
        return "\n".join(each[-1500:] for each in self._out)

    def end(self) -> None:
        if self.runs():
            with suppress(OSError, subprocess.CalledProcessError):
                self._kill()
            with suppress(subprocess.TimeoutExpired, ValueError):
                self._run.wait(30)
        if self.runs():
            self._run.process.kill()

    def _kill(self) -> None:
        """Kill its first process; one that has ended has the pid 0, which would mean our own process group."""
        pid = self._run.init_pid()
        if pid > 0:
            os.kill(pid, 9)
