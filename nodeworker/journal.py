"""What a worker must still know after ``kill -9``: which containers it froze, which dumps it began, what it has yet to say.

One SQLite file with ``synchronous=FULL``: when a method returns, its change is on disk. A change of state and the reports
that tell of it are one transaction, so a crash never leaves a thing done but untold, or told but not done. Records are
JSON, because nothing but the worker itself asks for them by content.

Every method blocks for as long as the disk takes to sync and may be called from any thread; code in the event loop calls
them through ``asyncio.to_thread``.
"""

from __future__ import annotations

import sqlite3
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import msgspec

from woodfrog.protocol import wire
from woodfrog.protocol.commands import Command
from woodfrog.protocol.events import Outcome, ReportedEvent, Trigger
from woodfrog.protocol.facts import ContainerFacts
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import (
    CheckpointKey,
    CommandId,
    ContainerId,
    IncarnationNumber,
    NodeName,
    SnapshotId,
    WorkerId,
)
from woodfrog.protocol.manifest import EnvironmentMarks
from woodfrog.protocol.reports import Report
from woodfrog.service import tracing

_SCHEMA = """
CREATE TABLE IF NOT EXISTS containers (name TEXT PRIMARY KEY, record TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS frozen     (name TEXT PRIMARY KEY, record TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS dumps      (name TEXT PRIMARY KEY, record TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS commands   (name TEXT PRIMARY KEY, record TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS numbers    (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS identity   (value TEXT PRIMARY KEY) STRICT;
CREATE TABLE IF NOT EXISTS lives      (name TEXT PRIMARY KEY) STRICT;
CREATE TABLE IF NOT EXISTS outbox     (place INTEGER PRIMARY KEY AUTOINCREMENT, report TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS confirmed  (place INTEGER PRIMARY KEY, report_id TEXT NOT NULL UNIQUE, report TEXT NOT NULL) STRICT;
"""
_SCHEMA_VERSION = 1
_COMMANDS_KEPT = 10_000
"""Finished commands that are remembered, so that a late redelivery is recognized; the oldest go first."""

_LIVES_KEPT = 10_000
"""Containers that ran in a pod here; the oldest are forgotten first."""

_CONFIRMED_KEPT = 10_000
"""Reports that the broker confirmed and nobody has vouched for; the oldest are let go first, as the broker should have them."""


class ContainerState(StrEnum):
    """Where a container is in its life, as far as the runtime told."""

    CREATING = "creating"
    CREATED = "created"
    RUNNING = "running"
    ENDED = "ended"
    """Its final dump is captured and its processes are dead; runc has not deleted it yet."""


class ContainerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A protected container on this node, from its first ``create`` until ``delete``."""

    container_id: ContainerId
    key: CheckpointKey
    bundle: str
    runc_root: str
    facts: ContainerFacts
    asked_at: datetime
    state: ContainerState = ContainerState.CREATING
    create_id: str = ""
    """Names this create in every question about it; empty if an older worker began it."""
    incarnation: IncarnationNumber = IncarnationNumber(0)
    """0 until the control plane gave a number."""
    restored_from: SnapshotId | None = None
    applied: SnapshotId | None = None
    """The snapshot whose writable layer and shared memory lie in the container, until its start is reported."""
    create_seconds: float | None = None
    final_snapshot: SnapshotId | None = None
    warnings: tuple[str, ...] = ()
    """What is to be told with its start."""
    stopped: bool = False
    """Whether it was sent a stop signal."""
    reason: str = ""
    """Why it starts as it does, as the control plane said."""
    left: int = 0
    """How many snapshots with captured or stored work its start leaves behind."""
    environment: EnvironmentMarks | None = None
    """Of the variables that its processes were started with: of a restored one those of the snapshot."""
    generation: int = 0
    """How often its processes have been restored."""
    gpu_sources: tuple[str, ...] = ()
    """GPUs of the snapshot that is being restored, which ``runc restore`` brings back without their content."""
    given_up: bool = False
    """Whether it is no container any more: it was given up before its number was known, and the log may have opened its start."""

    @property
    def is_unstarted(self) -> bool:
        """Whether its start was not noted yet."""
        return self.state in {ContainerState.CREATING, ContainerState.CREATED}


class FrozenRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A container that the worker is about to freeze, or has frozen."""

    container_id: ContainerId
    freezer_path: str
    cgroup_version: int
    snapshot_id: SnapshotId
    since: datetime
    cuda_pids: tuple[int, ...] = ()
    """Processes, as the host sees them, that the driver may have locked for us or taken off their GPUs."""


class DumpStep(StrEnum):
    """How far a dump has come."""

    STARTED = "started"
    """Nothing in the spool can be relied on."""
    COMPLETE = "complete"
    """The spool holds everything; whether the container was thawed or killed is not known yet."""
    CAPTURED = "captured"
    """The container was thawed or killed, and the capture is reported."""


class DumpRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A dump that has neither been stored nor failed."""

    snapshot_id: SnapshotId
    container_id: ContainerId
    key: CheckpointKey
    incarnation: IncarnationNumber
    trigger: Trigger
    final: bool
    facts: ContainerFacts
    started_at: datetime
    boot_id: str
    """A spool is not synced to disk, so it outlives the worker but not the machine's boot, unless it waits for the store."""
    command_id: CommandId | None = None
    step: DumpStep = DumpStep.STARTED
    stopped_pids: tuple[int, ...] = ()
    freeze_seconds: float = 0.0
    raw_bytes: int = 0
    warnings: tuple[str, ...] = ()
    delay: Failure | None = None
    """Why the store did not take it at the last try that was reported."""
    delayed_since: datetime | None = None
    durable: bool = False
    """Whether the spool was synced to disk."""
    manifest_digest: str = ""
    """Of the manifest in the spool, once it was reported: the capture can be restored from there."""
    environment: EnvironmentMarks | None = None
    generation: int = 0


class CommandRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A command that was taken; without an outcome it is being carried out."""

    command: Command
    outcome: Outcome | None = None
    failure: Failure | None = None


_Record = TypeVar("_Record")


class Journal:
    """The one journal of a node. ``node`` and ``worker_id`` sign the reports written through this object."""

    def __init__(self, path: Path, *, node: NodeName, worker_id: WorkerId) -> None:
        """Open or make the file; its folder must exist."""
        self._node = node
        self._worker_id = worker_id
        self._lock = threading.RLock()
        self._depth = 0
        self._reported: list[ReportedEvent] = []
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10.0)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.executescript(_SCHEMA)
        self._connection.execute(f"PRAGMA user_version={_SCHEMA_VERSION}")
        self._connection.execute(
            "INSERT INTO identity SELECT ? WHERE NOT EXISTS (SELECT * FROM identity)", (uuid.uuid4().hex,)
        )
        (self.identity,) = self._connection.execute("SELECT value FROM identity").fetchone()
        """Stays as long as the file: another one means that what this file knew is gone."""
        self.on_report: Callable[[], None] = lambda: None
        """Called, in the writing thread, after reports were committed."""
        self.on_events: Callable[[Sequence[ReportedEvent]], None] = lambda _events: None
        """Called likewise, with what was reported."""

    def close(self) -> None:
        """Close the file. Nothing is lost by not calling this."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make all changes within one: all of them are durable when it ends, or none if it ends with an exception."""
        with self._lock:
            if self._depth:
                yield
                return
            self._connection.execute("BEGIN IMMEDIATE")
            self._depth, self._reported = 1, []
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            finally:
                self._depth = 0
            reported = self._reported
        if reported:
            self.on_report()
            self.on_events(reported)

    def _put(self, table: str, name: str, record: msgspec.Struct) -> None:
        self._connection.execute(
            f"INSERT INTO {table} VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET record = excluded.record",  # noqa: S608
            (name, wire.encode(record).decode()),
        )

    def _get(self, table: str, name: str, as_type: type[_Record]) -> _Record | None:
        with self._lock:
            row = self._connection.execute(f"SELECT record FROM {table} WHERE name = ?", (name,)).fetchone()  # noqa: S608
        return None if row is None else wire.decode(row[0], as_type)

    def _all(self, table: str, as_type: type[_Record]) -> list[_Record]:
        with self._lock:
            rows = self._connection.execute(f"SELECT record FROM {table} ORDER BY rowid").fetchall()  # noqa: S608
        return [wire.decode(row[0], as_type) for row in rows]

    def _drop(self, table: str, name: str) -> None:
        self._connection.execute(f"DELETE FROM {table} WHERE name = ?", (name,))  # noqa: S608

    def container(self, container_id: ContainerId) -> ContainerRecord | None:
        """Look one container up."""
        return self._get("containers", container_id, ContainerRecord)

    def containers(self) -> list[ContainerRecord]:
        """List every container, in the order in which they were first asked for."""
        return [record for record in self._all("containers", ContainerRecord) if not record.given_up]

    def given_up(self) -> list[ContainerRecord]:
        """List those that were given up before their number was known."""
        return [record for record in self._all("containers", ContainerRecord) if record.given_up]

    def save_container(self, record: ContainerRecord, *events: ReportedEvent) -> None:
        """Write a container's record, with the reports that tell of its change."""
        with self.transaction():
            self._put("containers", record.container_id, record)
            self.report(*events)

    def forget_container(self, container_id: ContainerId, *events: ReportedEvent, at: datetime | None = None) -> None:
        """Drop a container that is gone, with the reports that tell of it."""
        with self.transaction():
            self._drop("containers", container_id)
            self.report(*events, at=at)

    def note_life(self, record: ContainerRecord) -> None:
        """Remember, beyond the container's end, that its id has run in its pod."""
        if record.facts.pod_uid:
            with self.transaction():
                self._connection.execute(
                    "INSERT OR IGNORE INTO lives VALUES (?)", (f"{record.facts.pod_uid} {record.key}",)
                )
                self._connection.execute(
                    "DELETE FROM lives WHERE rowid <= (SELECT max(rowid) FROM lives) - ?", (_LIVES_KEPT,)
                )

    def has_lived(self, record: ContainerRecord) -> bool:
        """Say whether a container of this id has run in the same pod before."""
        with self._lock:
            name = f"{record.facts.pod_uid} {record.key}"
            return self._connection.execute("SELECT 1 FROM lives WHERE name = ?", (name,)).fetchone() is not None

    def frozen(self) -> list[FrozenRecord]:
        """List the containers that may be frozen by us."""
        return self._all("frozen", FrozenRecord)

    def note_frozen(self, record: FrozenRecord) -> None:
        """Write down, before freezing, that a container will be frozen."""
        with self.transaction():
            self._put("frozen", record.container_id, record)

    def note_thawed(self, container_id: ContainerId) -> None:
        """Write down that a container is no longer frozen by us."""
        with self.transaction():
            self._drop("frozen", container_id)

    def dumps(self) -> list[DumpRecord]:
        """List the dumps in flight, oldest first."""
        return self._all("dumps", DumpRecord)

    def save_dump(self, record: DumpRecord, *events: ReportedEvent) -> None:
        """Write how far a dump has come, with the reports that tell of it."""
        with self.transaction():
            self._put("dumps", record.snapshot_id, record)
            self.report(*events)

    def is_newest_dump(self, record: DumpRecord) -> bool:
        """Say whether no later capture of the same id is on its way to the store."""
        return not any(
            other.key == record.key and other.started_at > record.started_at and other.step is not DumpStep.STARTED
            for other in self.dumps()
        )

    def finish_dump(self, record: DumpRecord, failure: Failure | None, event: ReportedEvent) -> None:
        """Close a dump, and the command that asked for it, with the report of its end; ``failure`` is None if stored."""
        with self.transaction():
            self._drop("dumps", record.snapshot_id)
            if record.command_id is not None:
                self.finish_command(record.command_id, failure)
            self.report(event)

    def command(self, command_id: CommandId) -> CommandRecord | None:
        """Look up a command that was taken."""
        return self._get("commands", command_id, CommandRecord)

    def take_command(self, command: Command) -> CommandRecord | None:
        """Take a command, once: answers what is known of it if it was taken before."""
        with self.transaction():
            known = self.command(command.command_id)
            if known is None:
                self._put("commands", command.command_id, CommandRecord(command=command))
            return known

    def finish_command(
        self, command_id: CommandId, failure: Failure | None, *events: ReportedEvent
    ) -> CommandRecord | None:
        """Write a command's one end, with the reports that tell of it; a second end changes nothing but is reported."""
        with self.transaction():
            known = self.command(command_id)
            if known is not None and known.outcome is None:
                outcome = Outcome.SUCCEEDED if failure is None else Outcome.FAILED
                known = msgspec.structs.replace(known, outcome=outcome, failure=failure)
                self._put("commands", command_id, known)
                self._connection.execute(
                    "DELETE FROM commands WHERE rowid <= (SELECT max(rowid) FROM commands) - ?"
                    " AND json_extract(record, '$.outcome') IS NOT NULL",
                    (_COMMANDS_KEPT,),
                )
            self.report(*events)
            return known

    def open_commands(self) -> list[CommandRecord]:
        """List the commands that were taken and have no outcome."""
        return [record for record in self._all("commands", CommandRecord) if record.outcome is None]

    def report(self, *events: ReportedEvent, at: datetime | None = None) -> None:
        """Put reports of ``events`` into the outbox. They happened ``at`` that time, or now."""
        if not events:
            return
        with self.transaction():
            self._reported.extend(events)
            for event in events:
                when, trace = at or datetime.now(UTC), tracing.traceparent()
                report = Report(uuid.uuid4(), self._node, self._worker_id, when, event, trace)
                self._connection.execute("INSERT INTO outbox (report) VALUES (?)", (wire.encode(report).decode(),))

    def outbox(self, limit: int = 100) -> list[tuple[int, Report]]:
        """List unconfirmed reports in the order to send them, each with its place in the outbox."""
        with self._lock:
            rows = self._connection.execute(
                "SELECT place, report FROM outbox ORDER BY place LIMIT ?", (limit,)
            ).fetchall()
        return [(place, wire.decode(text, Report)) for place, text in rows]

    def outbox_length(self) -> int:
        """Count the unconfirmed reports."""
        with self._lock:
            row = self._connection.execute("SELECT count(*) FROM outbox").fetchone()
        return int(row[0])

    def last_place(self) -> int:
        """Tell the outbox place of the newest report ever written; 0 if there was none."""
        with self._lock:
            row = self._connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'outbox'").fetchone()
        return 0 if row is None else int(row[0])

    def confirm(self, place: int, stream_sequence: int) -> None:
        """Take a report that the broker has out of the outbox, but keep it; remember where in the stream it lies."""
        with self.transaction():
            self._connection.execute(
                "INSERT OR REPLACE INTO confirmed"
                " SELECT place, json_extract(report, '$.report_id'), report FROM outbox WHERE place = ?",
                (place,),
            )
            self._connection.execute("DELETE FROM confirmed WHERE place <= ?", (place - _CONFIRMED_KEPT,))
            self._connection.execute("DELETE FROM outbox WHERE place = ?", (place,))
            self._connection.execute(
                "INSERT INTO numbers VALUES ('reports_sequence', ?)"
                " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                (stream_sequence,),
            )

    def reports_sequence(self) -> int:
        """Tell the REPORTS stream sequence of the last confirmed report; 0 before the first."""
        with self._lock:
            row = self._connection.execute("SELECT value FROM numbers WHERE name = 'reports_sequence'").fetchone()
        return 0 if row is None else int(row[0])

    def confirmed(self, limit: int = 200) -> list[UUID]:
        """List the oldest reports that the broker has confirmed and that are kept until somebody vouches for them."""
        with self._lock:
            rows = self._connection.execute(
                "SELECT report_id FROM confirmed ORDER BY place LIMIT ?", (limit,)
            ).fetchall()
        return [UUID(name) for (name,) in rows]

    def confirmed_report(self, report_id: UUID) -> Report | None:
        """Return a report that is kept."""
        with self._lock:
            row = self._connection.execute(
                "SELECT report FROM confirmed WHERE report_id = ?", (str(report_id),)
            ).fetchone()
        return None if row is None else wire.decode(row[0], Report)

    def let_go(self, settled: Sequence[UUID]) -> None:
        """Forget confirmed reports that the log has, or refused."""
        with self.transaction():
            self._connection.executemany(
                "DELETE FROM confirmed WHERE report_id = ?", [(str(name),) for name in settled]
            )

    def take_back(self, missing: Sequence[UUID]) -> None:
        """Put confirmed reports that the broker has lost back into the outbox, at their old places: before all newer ones."""
        with self.transaction():
            for name in missing:
                self._connection.execute(
                    "INSERT INTO outbox SELECT place, report FROM confirmed WHERE report_id = ?", (str(name),)
                )
            self._connection.executemany(
                "DELETE FROM confirmed WHERE report_id = ?", [(str(name),) for name in missing]
            )
