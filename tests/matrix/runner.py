"""Runs one program through its whole life: start, state, stop, start on the other node, look; where there is time, the same once more, back.

Everything is as a user has it, with the product's defaults and no option for the program's sake. A snapshot that was restored once is taken
again, because some faults show in the second generation only.
"""

from __future__ import annotations

import re
import time
from contextlib import suppress
from typing import Any, Final

import msgspec
from matrix.place import Live, Place
from matrix.program import Program
from support.kube import until

_READY_SECONDS: Final = 300
_RECORDED_SECONDS: Final = 30
_STORED_SECONDS: Final = 120
_RESULT_SECONDS: Final = 300
_CODE: Final = re.compile(r"\(([a-z][a-z0-9]*(?:-[a-z0-9]+)+|cuda|device|netlink|traced|eventpoll|zombie)\)")


class Row(msgspec.Struct, kw_only=True):
    """What one run of a program showed; a line of docs/reference/compatibility.json or compatibility-cluster.json."""

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


class Life:
    """One program in one place."""

    def __init__(self, program: Program, place: Place) -> None:
        self._program = program
        self._place = place
        self._live: Live | None = None
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
            for moves, node in enumerate(self._place.moves, 1):
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

    def _start(self, node: int, suffix: str = "") -> Live:
        try:
            return self._place.start(self._program.name + suffix, self._program, node)
        except AssertionError as problem:
            raise NotStartedError(str(problem)) from problem

    def _begin(self) -> None:
        self._live = live = self._start(0)
        try:
            until(self._is_ready, _READY_SECONDS, "it is ready")
            done = live.shell(self._program.build or "true")
            assert done.returncode == 0, f"its state could not be made: {done.stdout}{done.stderr}"
        except AssertionError as problem:
            raise NotStartedError(f"{problem}\n{live.said()}") from problem
        self._row.version = live.shell(self._program.version).stdout.strip().splitlines()[0]

    def _is_ready(self) -> bool:
        assert self._running().runs(), "it has ended"
        return self._running().shell(self._program.ready).returncode == 0

    def _stop(self) -> str:
        """Stop it; return the snapshot's id."""
        self._running().stop()
        self._wait_for(_RECORDED_SECONDS, "snapshot.captured", "snapshot.dump-failed")
        captured = self._events("snapshot.captured")
        if not captured:
            raise _StoppedHereError("snapshot", *self._failure())
        self._wait_for(_STORED_SECONDS, "snapshot.stored")
        if not self._events("snapshot.stored"):
            raise _StoppedHereError("snapshot", *self._failure())
        return str(captured[-1]["snapshot_id"])

    def _wait_for(self, seconds: float, *kinds: str) -> None:
        with suppress(AssertionError):
            until(lambda: any(map(self._events, kinds)), seconds, " or ".join(kinds), every_seconds=1)

    def _measure(self, snapshot_id: str) -> None:
        if self._row.freeze_seconds is not None:
            return
        for event in self._history():
            data = event["data"]
            if data.get("snapshot_id") == snapshot_id and event["type"] == "snapshot.captured":
                self._row.freeze_seconds = round(data["freeze_seconds"], 3)
            if data.get("snapshot_id") == snapshot_id and event["type"] == "snapshot.stored":
                self._row.raw_bytes, self._row.stored_bytes = data["raw_bytes"], data["stored_bytes"]

    def _start_again(self, node: int, snapshot_id: str) -> None:
        try:
            self._live = self._place.start(self._program.name, self._program, node)
        except AssertionError as problem:
            raise _StoppedHereError("restore", *self._failure(str(problem))) from problem
        if self._live.restored_from != snapshot_id:
            raise _StoppedHereError("restore", *self._failure())

    def _look(self) -> None:
        done = self._running().shell(self._program.check)
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip().splitlines()
            raise _StoppedHereError("state", "state-differs", said[-1] if said else f"exit code {done.returncode}")

    def _compare(self, whole: bytes | None) -> None:
        if whole is not None and self._finish() != whole:
            cause = f"{self._program.result} differs from that of a run without interruption"
            raise _StoppedHereError("state", "state-differs", cause)

    def _finish(self) -> bytes:
        try:
            found: bytes = until(self._result, _RESULT_SECONDS, f"{self._program.result} is written")
        except AssertionError as problem:
            cause = f"{problem}; {self._running().said()}"
            raise _StoppedHereError("state", "state-differs", cause) from problem
        return found

    def _result(self) -> bytes | None:
        found = self._running().read(self._program.result)
        assert found or self._running().runs(), f"it has ended without {self._program.result}"
        return found

    def _uninterrupted(self) -> bytes:
        """Run it without a stop and return its result."""
        self._live = self._start(1, "-whole")
        try:
            return self._finish()
        except _StoppedHereError as problem:
            raise NotStartedError(problem.cause) from problem
        finally:
            self._end()

    def _running(self) -> Live:
        assert self._live is not None
        return self._live

    def _history(self) -> list[dict[str, Any]]:
        return self._place.history(self._program.name)

    def _events(self, kind: str) -> list[dict[str, Any]]:
        """Return what the log has of this kind since this container's start."""
        history = self._history()
        container = self._running().container
        mine = next(
            (number for number, event in enumerate(history) if event["data"].get("container_id") == container), 0
        )
        return [event["data"] for event in history[mine:] if event["type"] == kind]

    def _failure(self, said: str = "") -> tuple[str, str]:
        """Return code and cause of the last thing that failed."""
        for event in reversed(self._history()):
            failure = event["data"].get("failure")
            if failure:
                return str(failure["code"]), str(failure["cause"])
        said = said or self._running().said()
        code = _CODE.findall(said)
        return (code[-1] if code else "unknown"), said.strip()[-300:]

    def _end(self) -> None:
        """Kill what still runs."""
        if self._live is not None:
            self._live.end()
        self._live = None


def live(program: Program, place: Place) -> Row:
    """Run one program; see :class:`Life`."""
    return Life(program, place).live()
