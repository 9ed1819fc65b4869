"""``woodfrog demo``: the main job from start to end, seen and not believed.

A stack and containers of its own, in a directory that is removed afterwards. Every step looks at what the workload itself
wrote, at SQL, or at NATS; the first thing that is not as it should be ends the demonstration with a failure. However it ends, no
process, container or mount of it is left.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from nats.js.api import ConsumerConfig, DeliverPolicy

from woodfrog import client as ask
from woodfrog.dev_state import Description, StateDirectory
from woodfrog.local import orphans
from woodfrog.local.interrupts import deferred
from woodfrog.output import Form
from woodfrog.protocol import subjects
from woodfrog.protocol.amounts import size
from woodfrog.protocol.failures import Failure, FailureError
from woodfrog.protocol.runtime_api import ContainerStatus
from woodfrog.service.nats import connect

_ID = "demo"
_COUNT = "trap 'exit 0' TERM; i=0; while :; do i=$((i+1)); echo $i >> /count; sleep 0.05; done"
_STEP_SECONDS = float(os.environ.get("WOODFROG_DEMO_STEP_SECONDS") or "90")
"""On a slow machine that starts every program for the first time, a container needs half a minute to run."""
_END_SECONDS = 20.0
_KILL_SECONDS = 10.0
_STACK_SECONDS = 60.0
_FAILURES_SHOWN = 3
_HARMED_BYTES = 64
_T = TypeVar("_T")


def _woodfrog(*words: str) -> list[str]:
    return [sys.executable, "-m", "woodfrog.cli.main", *words]


def _failed(step: str, seen: object) -> FailureError:
    return FailureError(Failure("demo-failed", f"{step}: {seen}", "The lines above say how far it came."))


def _until(look: Callable[[], _T | None], step: str) -> _T:
    """Look until there is something to see; the demonstration fails if there is not in time."""
    deadline = time.monotonic() + _STEP_SECONDS
    while not (seen := look()):
        if time.monotonic() > deadline:
            raise _failed(step, f"not within {_STEP_SECONDS:g} s")
        time.sleep(0.05)
    return seen


def _saw(form: Form, text: str) -> None:
    sys.stdout.write(f"{msgspec.json.encode({'saw': text}).decode()}\n" if form is Form.JSON else f"  ✓ {text}\n")
    sys.stdout.flush()


class _Counter:
    """A container that counts into a file of its own writable layer."""

    def __init__(self, stack: Description, runs: list[subprocess.Popen[str]]) -> None:
        """Start it, and add its `woodfrog run` to ``runs`` before anything can go wrong with it."""
        self._stack = stack
        before = {container.container_id for container in ask.containers(stack.socket)}
        with deferred():  # nobody would know of the process yet
            self._process = subprocess.Popen(
                _woodfrog("run", "--state-dir", stack.state_dir, "--id", _ID, "--", "sh", "-c", _COUNT),
                stderr=subprocess.PIPE,
                text=True,
            )
            runs.append(self._process)
        self.status: ContainerStatus = _until(lambda: self._running(before), "the container runs")

    def _running(self, before: set[Any]) -> ContainerStatus | None:
        if self._process.poll() is not None:
            raise _failed("the container runs", self._process.communicate()[1])
        found = (c for c in ask.containers(self._stack.socket) if c.container_id not in before and c.state == "running")
        return next(found, None)

    def numbers(self) -> list[int]:
        """Read what it has counted; fail if a number is missing or repeated."""
        path = Path(self.status.bundle) / "rootfs" / "count"
        text = path.read_text() if path.exists() else ""
        numbers = [int(line) for line in text[: text.rfind("\n") + 1].split()]
        if numbers != list(range(1, len(numbers) + 1)):
            raise _failed("no number is missing or repeated", numbers)
        return numbers

    def until_beyond(self, number: int) -> int:
        """Wait until it has counted beyond ``number``; return how far it is."""
        return _until(lambda: self.numbers() if len(self.numbers()) > number else [], f"it counts beyond {number}")[-1]

    def stop(self) -> None:
        """Send the stop signal and wait for the end."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.communicate(timeout=_STEP_SECONDS)
        except subprocess.TimeoutExpired as problem:
            raise _failed("the stop signal ends the container", "it still runs") from problem


@contextmanager
def _runs(stack: Description) -> Iterator[list[subprocess.Popen[str]]]:
    """Keep every `woodfrog run` that is started; at the end stop those that still run, and remove what they leave."""
    runs: list[subprocess.Popen[str]] = []
    try:
        yield runs
    finally:
        for process in runs:
            _end(process)
        orphans.remove_all(stack)


def _end(process: subprocess.Popen[str], grace_seconds: float = _END_SECONDS) -> None:
    """End a process by a signal that it can act on, by a second one, by force."""
    for end, seconds in ((process.terminate, grace_seconds), (process.terminate, _KILL_SECONDS), (process.kill, None)):
        if process.poll() is not None:
            return
        end()
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=seconds)


@contextmanager
def _stack(folder: Path) -> Iterator[Description]:
    process = subprocess.Popen(
        _woodfrog("dev", "--state-dir", str(folder), "-o", "json"), stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise _failed("woodfrog dev starts", f"it ended with {process.wait(timeout=_STEP_SECONDS)}")
        yield StateDirectory(folder).described()
    finally:
        _end(process, _STACK_SECONDS)


def _rows(stack: Description, query: str) -> list[dict[str, Any]]:
    """Ask SQL about the id, as a person would: the database is opened for reading only."""
    with closing(sqlite3.connect(f"file:{stack.database}?mode=ro", uri=True)) as database:
        database.row_factory = sqlite3.Row
        return [dict(row) for row in database.execute(query, (_ID,))]


def _valid_snapshots(stack: Description) -> list[dict[str, Any]]:
    """Read the snapshots from SQL. One that failed fails the demonstration."""
    rows = _rows(stack, "SELECT * FROM checkpoint_history WHERE id = ? ORDER BY position")
    for row in rows:
        if row["status"] == "failed":
            raise _failed("every snapshot is stored", f"the dump {row['snapshot_id']} failed")
    return [row for row in rows if row["status"] == "valid"]


def _failures(stack: Description) -> str:
    """Read from SQL what went wrong at last, for whoever reads that the demonstration failed."""
    with suppress(sqlite3.Error):
        rows = _rows(stack, "SELECT * FROM failures WHERE id = ? ORDER BY position DESC")[:_FAILURES_SHOWN]
        return "\n".join(
            f"{row['type']}: {row['failure_cause']} ({row['failure_code']}). {row['failure_advice'] or ''}".rstrip()
            for row in reversed(rows)
        )
    return ""


def _history(stack: Description) -> list[tuple[int, str, str]]:
    """Read position, event id and type of every event of the id from SQL."""
    with closing(sqlite3.connect(f"file:{stack.database}?mode=ro", uri=True)) as database:
        query = "SELECT position, event_id, type FROM events WHERE stream = ? ORDER BY position"
        stream = f"checkpoint/{stack.cluster}/{stack.namespace}/{_ID}"
        return [
            (int(position), str(event_id), str(kind)) for position, event_id, kind in database.execute(query, (stream,))
        ]


async def _audited(stack: Description, count: int) -> list[tuple[int, str, str]]:
    """Read the same from the AUDIT stream, as an auditor would."""
    client = await connect(stack.nats_url, name="demo auditor")
    try:
        subscription = await client.jetstream().subscribe(
            f"{subjects.PREFIX}.audit.id.*.{stack.cluster}.{stack.namespace}.{_ID}",
            stream=subjects.AUDIT_STREAM,
            ordered_consumer=True,
            config=ConsumerConfig(deliver_policy=DeliverPolicy.ALL),
        )
        seen: list[tuple[int, str, str]] = []
        async with asyncio.timeout(_STEP_SECONDS):
            while len(seen) < count:
                message = await subscription.next_msg(timeout=_STEP_SECONDS)
                headers = message.headers or {}
                kind = json.loads(message.data)["type"]
                seen.append((int(headers[subjects.POSITION_HEADER]), headers["ce-id"], kind))
        return seen
    finally:
        await client.close()


def _harm(stack: Description, snapshot_id: str) -> list[Path]:
    """Harm the largest file of a snapshot wherever it lies: in the store, and in the copy that the node keeps of it.

    One bit would not do: about one in a hundred of a compressed file changes nothing of what comes out.
    """
    copy = Path(stack.spool).with_name("copies") / stack.cluster / stack.namespace / _ID / snapshot_id
    _until(copy.is_dir, "the node has a copy of the snapshot")
    victims = []
    for folder in (next(Path(stack.store).rglob(snapshot_id)), copy):
        victim = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
        data = bytearray(victim.read_bytes())
        middle = len(data) // 2
        data[middle : middle + _HARMED_BYTES] = bytes(byte ^ 0xFF for byte in data[middle : middle + _HARMED_BYTES])
        victim.write_bytes(data)
        victims.append(victim)
    return victims


def show(form: Form = Form.TABLE) -> None:
    """Run the demonstration; each step is told when it was seen, as a line of text or of JSON.

    Raises:
        FailureError: ``demo-failed`` with what was not as it should be.
    """
    began = time.monotonic()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    saw = partial(_saw, form)
    with (
        tempfile.TemporaryDirectory(prefix="woodfrog-demo-", ignore_cleanup_errors=True) as folder,
        _stack(Path(folder)) as stack,
    ):
        saw("nats-server, control plane and node worker are up")
        with _runs(stack) as runs:
            try:
                _tell_the_story(stack, saw, runs)
            except FailureError as problem:
                failure = msgspec.structs.replace(problem.failure, detail=_failures(stack))
                raise FailureError(failure) from problem
    if form is Form.TABLE:
        sys.stdout.write(f"Seen, in {time.monotonic() - began:.0f} s.\n")


def _tell_the_story(stack: Description, saw: Callable[[str], None], runs: list[subprocess.Popen[str]]) -> None:
    counter = _Counter(stack, runs)
    first = counter.until_beyond(20)
    saw(f"a container counts into a file of its own: {first} and counting")
    counter.stop()
    older = _until(lambda: _valid_snapshots(stack), "the final snapshot is stored")[0]
    saw(
        f"the stop signal took snapshot {older['snapshot_id']}: frozen for {older['freeze_seconds']:.2f} s, "
        f"{size(older['raw_bytes'])} in {size(older['stored_bytes'])}"
    )

    counter = _Counter(stack, runs)
    if counter.status.restored_from != older["snapshot_id"]:
        raise _failed("the same id resumes from the snapshot", f"restored from {counter.status.restored_from}")
    second = counter.until_beyond(first + 20)
    saw(f"the same id, started again, continues: {second}, no number missing or repeated")
    counter.stop()
    newer = _until(lambda: _valid_snapshots(stack)[1:], "the second snapshot is stored")[0]

    stored, copied = _harm(stack, newer["snapshot_id"])
    saw(
        f"{_HARMED_BYTES} bytes of the newest snapshot are inverted in the store, in {stored.name[:20]}, "
        f"and {_HARMED_BYTES} in the node's own copy, in {copied.name}"
    )
    counter = _Counter(stack, runs)
    if counter.status.restored_from != older["snapshot_id"]:
        raise _failed("the start falls back to the older snapshot", f"restored from {counter.status.restored_from}")
    counter.until_beyond(first + 20)
    choices = [row for row in ask.view(stack.reach, "restore_history") if row["id"] == _ID]
    if newer["snapshot_id"] not in choices[-1]["reason"]:
        raise _failed("the reason names the snapshot that was skipped", choices[-1]["reason"])
    saw(f"the next start falls back and says so: {choices[-1]['reason']}")
    counter.stop()

    _until(lambda: len(_valid_snapshots(stack)) >= 2, "the last snapshot is stored")
    recorded = _history(stack)
    saw(f"SQL has the whole history: {len(recorded)} events")
    audited = asyncio.run(_audited(stack, len(recorded)))
    if audited != recorded:
        raise _failed("AUDIT says what SQL says", f"{audited} is not {recorded}")
    saw("a NATS subscriber of AUDIT sees the same events, at the same positions, in the same order")
