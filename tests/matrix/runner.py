"""Runs one program through its whole life: start, state, stop, start on the other node, look, and the same once more, back.

Everything is as a user has it: ``woodfrog run`` with the product's defaults, a network namespace for each container, and no option
for the program's sake. A snapshot that was restored once is taken again, because some faults show in the second generation only.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec
from matrix.program import Program
from support.stack import Run, Stack, until

from woodfrog import client
from woodfrog.dev_state import StateDirectory
from woodfrog.local.dev import NAMESPACE
from woodfrog.protocol.ids import CheckpointKey

WORKLOADS: Final = Path(__file__).parent / "workloads"
_READY_SECONDS: Final = 300
_SNIPPET_SECONDS: Final = 120
_STOP_SECONDS: Final = 120
_RESULT_SECONDS: Final = 300
_CODE: Final = re.compile(r"\(([a-z][a-z0-9]*(?:-[a-z0-9]+)+|cuda|device|netlink|traced|eventpoll|zombie)\)")
_ASK_SECONDS: Final = 60.0


class Row(msgspec.Struct, kw_only=True):
    """What one run of a program showed; a line of docs/reference/compatibility.json."""

    program: str
    version: str
    out_of_the_box: bool
    moves: int
    """How often it was started again on the other node with its state."""
    freeze_seconds: float | None = None
    """Of the first stop."""
    raw_bytes: int | None = None
    stored_bytes: int | None = None
    step: str | None = None
    """Where it ended: ``snapshot``, ``restore`` or ``state``."""
    code: str | None = None
    """Of the failure, see docs/reference/failures.md."""
    cause: str | None = None
    date: str = ""


class NotStartedError(Exception):
    """The program itself did not work, or its state could not be made: nothing is known of how it is restored."""


class _StoppedHereError(Exception):
    def __init__(self, step: str, code: str, cause: str) -> None:
        self.step, self.code, self.cause = step, code, cause
        super().__init__(f"{step}: {cause} ({code})")


def options(program: Program, lower: Path) -> tuple[str, ...]:
    """Return how the program is run: the options are about its files, not about Woodfrog."""
    found = ["--rootfs", str(lower), "--mount", f"{WORKLOADS}:/workloads:ro", "--name", "matrix"]
    if not _can_dump_other_users():
        found += ["--env", "ALL_ROOT=1"]
    if program.pip is not None:
        place = f"/opt/{program.pip.name}"
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        found += ["--env", f"PYTHONPATH={place}", "--env", f"PATH={place}/bin:{path}"]
    return tuple(found)


def _can_dump_other_users() -> bool:
    """Say whether this machine's root has CAP_SYS_RESOURCE (capabilities(7), bit 24)."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff:"))
    return bool(int(line.split()[1], 16) >> 24 & 1)


def _kill(run: Run) -> None:
    """Kill its first process; one that has ended has the pid 0, which would mean our own process group."""
    pid = run.init_pid()
    if pid > 0:
        os.kill(pid, 9)


class Life:
    """One program on two nodes."""

    def __init__(self, program: Program, nodes: tuple[Stack, Stack], lower: Path) -> None:
        self._program = program
        self._nodes = nodes
        self._options = options(program, lower)
        self._command = ("sh", "-c", f". /workloads/lib.sh; {program.command}")
        self._run: Run | None = None
        self._row = Row(program=program.name, version="", out_of_the_box=False, moves=0)
        self._row.date = time.strftime("%Y-%m-%d", time.gmtime())

    def live(self) -> Row:
        """Run it; every outcome but :class:`NotStartedError` is a row.

        Raises:
            NotStartedError: when it did not come as far as its first stop.
        """
        whole = self._uninterrupted() if self._program.result else None
        try:
            self._begin()
            for moves, node in enumerate((self._nodes[1], self._nodes[0]), 1):
                snapshot_id = self._stop()
                self._measure(snapshot_id)
                self._start_again(node, snapshot_id)
                self._look()
                self._row.moves = moves
            self._compare(whole)
            self._row.out_of_the_box = True
        except _StoppedHereError as end:
            self._row.step, self._row.code, self._row.cause = end.step, end.code, end.cause
        finally:
            self._end()
        return self._row

    def _start(self, node: Stack, suffix: str = "") -> Run:
        try:
            return node.run(self._program.name + suffix, *self._command, options=self._options)
        except AssertionError as problem:
            raise NotStartedError(str(problem)) from problem

    def _begin(self) -> None:
        self._run = self._start(self._nodes[0])
        try:
            until(self._is_ready, _READY_SECONDS, saying="it is ready")
            done = self._shell(self._program.build or "true")
            assert done.returncode == 0, f"its state could not be made: {done.stdout}{done.stderr}"
        except AssertionError as problem:
            raise NotStartedError(f"{problem}\n{self._said()}") from problem
        self._row.version = self._shell(self._program.version).stdout.strip().splitlines()[0]

    def _is_ready(self) -> bool:
        assert self._running().process.poll() is None, "it has ended"
        return self._shell(self._program.ready).returncode == 0

    def _stop(self) -> str:
        """Stop it as Ctrl-C does; return the snapshot's id."""
        run = self._running()
        with suppress(subprocess.TimeoutExpired):
            self._out = run.stop(_STOP_SECONDS)
        found = self._events("snapshot.stored", run)
        captured = self._events("snapshot.captured", run)
        if not captured:
            code, cause = self._failure("dump")
            raise _StoppedHereError("snapshot", code, cause)
        if not found:
            with suppress(AssertionError):
                until(lambda: self._events("snapshot.stored", run), 60)
            if not self._events("snapshot.stored", run):
                code, cause = self._failure("store")
                raise _StoppedHereError("snapshot", code, cause)
        return str(captured[-1]["snapshot_id"])

    def _measure(self, snapshot_id: str) -> None:
        if self._row.freeze_seconds is not None:
            return
        for event in self._history():
            data = event["data"]
            if data.get("snapshot_id") == snapshot_id and event["type"] == "snapshot.captured":
                self._row.freeze_seconds = round(data["freeze_seconds"], 3)
            if data.get("snapshot_id") == snapshot_id and event["type"] == "snapshot.stored":
                self._row.raw_bytes, self._row.stored_bytes = data["raw_bytes"], data["stored_bytes"]

    def _start_again(self, node: Stack, snapshot_id: str) -> None:
        try:
            self._run = node.run(self._program.name, *self._command, options=self._options)
        except AssertionError as problem:
            code, cause = self._failure("restore", str(problem))
            raise _StoppedHereError("restore", code, cause) from problem
        if self._run.container["restored_from"] != snapshot_id:
            code, cause = self._failure("restore")
            raise _StoppedHereError("restore", code, cause)

    def _look(self) -> None:
        done = self._shell(self._program.check)
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip().splitlines()
            raise _StoppedHereError("state", "state-differs", said[-1] if said else f"exit code {done.returncode}")

    def _compare(self, whole: bytes | None) -> None:
        if whole is not None and self._finish() != whole:
            cause = f"{self._program.result} differs from that of a run without interruption"
            raise _StoppedHereError("state", "state-differs", cause)

    def _finish(self) -> bytes:
        run = self._running()
        place = run.root / self._program.result.lstrip("/")
        try:
            until(place.exists, _RESULT_SECONDS, saying=f"{place.name} is written")
        except AssertionError as problem:
            raise _StoppedHereError("state", "state-differs", f"{problem}; {self._said()}") from problem
        return place.read_bytes()

    def _uninterrupted(self) -> bytes:
        """Run it without a stop and return its result."""
        self._run = self._start(self._nodes[1], "-whole")
        try:
            return self._finish()
        except _StoppedHereError as problem:
            raise NotStartedError(problem.cause) from problem
        finally:
            self._end()

    def _running(self) -> Run:
        assert self._run is not None
        return self._run

    def _shell(self, snippet: str) -> subprocess.CompletedProcess[str]:
        run = self._running()
        container = run.container["container_id"]
        return subprocess.run(
            ["runc", "--root", run.stack.runc_root, "exec", container, "sh", "-c", f". /workloads/lib.sh; {snippet}"],
            check=False, capture_output=True, text=True, timeout=_SNIPPET_SECONDS,
        )  # fmt: skip

    def _history(self) -> list[dict[str, Any]]:
        reach = StateDirectory(self._nodes[0].state).described().reach
        key = CheckpointKey.checked(reach.cluster, NAMESPACE, self._program.name)
        return client.view(reach, "events", key, seconds=_ASK_SECONDS)

    def _events(self, kind: str, run: Run) -> list[dict[str, Any]]:
        """Return what the log has of this kind since this container's start."""
        history = self._history()
        mine = next(
            (number for number, event in enumerate(history) if event["data"].get("container_id") == run.container["container_id"]), 0
        )  # fmt: skip
        return [event["data"] for event in history[mine:] if event["type"] == kind]

    def _failure(self, of: str, said: str = "") -> tuple[str, str]:
        """Return code and cause of the last thing of this kind that failed."""
        for event in reversed(self._history()):
            failure = event["data"].get("failure")
            if failure:
                return str(failure["code"]), str(failure["cause"])
        said = said or self._said()
        code = _CODE.findall(said)
        return (code[-1] if code else "unknown"), said.strip()[-300:]

    def _said(self) -> str:
        """What the program and ``woodfrog run`` wrote, if that is over."""
        run = self._running()
        with suppress(OSError, subprocess.TimeoutExpired, ValueError):
            if run.process.poll() is None:
                _kill(run)
            _, out, err = run.wait(20)
            return f"{out[-1500:]}\n{err[-1500:]}"
        out, err = getattr(self, "_out", (0, "", ""))[1:]
        return f"{out[-1500:]}\n{err[-1500:]}"

    def _end(self) -> None:
        """Kill what still runs."""
        run = self._run
        if run is None:
            return
        if run.process.poll() is None:
            with suppress(OSError, subprocess.CalledProcessError):
                _kill(run)
            with suppress(subprocess.TimeoutExpired, ValueError):
                run.wait(30)
        if run.process.poll() is None:
            run.process.kill()
        self._run = None


def live(program: Program, nodes: tuple[Stack, Stack], lower: Path) -> Row:
    """Run one program; see :class:`Life`."""
    return Life(program, nodes, lower).live()
