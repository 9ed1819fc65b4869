"""The tables, as SQLAlchemy knows them.

``events``, ``streams`` and ``log_head`` are the log. The others are projections: they can be dropped and rebuilt from it, and
nobody outside reads them, because the views (:mod:`controlplane.log.projections.views`) are the public contract. The migrations are
what creates the tables in a database; a test compares the two.

``events`` has no unique event id and no unique (stream, version) of its own: on PostgreSQL it is partitioned by position, where
a unique index would have to contain the position, and archived events leave it while their ids must stay taken. Triggers
keep both in two narrow tables instead, on either engine (docs/decisions/0007).
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Dialect,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import UUID as PostgresUuid  # noqa: N811 - a type, not a constant
from sqlalchemy.types import TypeDecorator, TypeEngine

_REMEMBERED_MOMENTS: Final = 4096
"""A moment is written several times: into the hash, the event and rows of projections."""


@lru_cache(_REMEMBERED_MOMENTS)
def utc_text(moment: datetime) -> str:
    """Write a moment in the one form used in hashes, rows of SQLite and answers: ``2026-11-23T21:45:01.000000Z``.

    Fixed width, so that text order is time order.

    Raises:
        ValueError: if the moment has no offset from UTC and so could mean anything.
    """
    if moment.tzinfo is None:
        raise ValueError(f"{moment} carries no offset from UTC")
    moment = moment if moment.tzinfo is UTC else moment.astimezone(UTC)
    return f"{moment.isoformat(timespec='microseconds')[:-6]}Z"


class UtcTime(TypeDecorator[datetime]):
    """A moment: ``timestamp with time zone`` where the database has it, :func:`utc_text` on SQLite, which has no such type."""

    impl = String(27)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Choose the database's own type."""
        if self.is_text(dialect):
            return dialect.type_descriptor(String(27))
        return dialect.type_descriptor(DateTime(timezone=True))

    @staticmethod
    def is_text(dialect: Dialect) -> bool:
        """Tell whether the database keeps moments as text."""
        return dialect.name == "sqlite"

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        """Write."""
        if value is None or not self.is_text(dialect):
            return value
        return utc_text(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Read; ``dialect`` says how it was written."""
        if value is None:
            return None
        moment = datetime.fromisoformat(value) if self.is_text(dialect) else value
        assert isinstance(moment, datetime)
        return moment if moment.tzinfo is UTC else moment.astimezone(UTC)


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_big = BigInteger().with_variant(Integer(), "sqlite")  # only INTEGER PRIMARY KEY is SQLite's rowid

log_head = Table(
    "log_head",
    metadata,
    Column("one", Integer, primary_key=True, autoincrement=False),
    Column("position", _big, nullable=False),
    Column("epoch", _big, nullable=False),
    CheckConstraint("one = 1", name="one_row"),
)

streams = Table(
    "streams",
    metadata,
    Column("stream", Text, primary_key=True),
    Column("version", _big, nullable=False),
    Column("hash", String(64), nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("position", _big, primary_key=True, autoincrement=False),
    Column("stream", Text, nullable=False),
    Column("version", _big, nullable=False),
    Column("event_id", String(36), nullable=False),
    Column("type", String(64), nullable=False),
    Column("schema_version", Integer, nullable=False),
    Column("data", Text, nullable=False),
    Column("metadata", Text, nullable=False),
    Column("command_id", Text),
    Column("occurred_at", UtcTime, nullable=False),
    Column("recorded_at", UtcTime, nullable=False),
    Column("hash", String(64), nullable=False),
    Index(None, "stream", "version"),
    Index(None, "type", "position"),
    Index(
        None,
        "command_id",
        sqlite_where=text("command_id IS NOT NULL"),
        postgresql_where=text("command_id IS NOT NULL"),
    ),
    postgresql_partition_by="RANGE (position)",
)

event_ids = Table(
    "event_ids",
    metadata,
    Column("event_id", String(36).with_variant(PostgresUuid(as_uuid=False), "postgresql"), primary_key=True),
    Column("position", _big, nullable=False),
    sqlite_with_rowid=False,
)

archived_segments = Table(
    "archived_segments",
    metadata,
    Column("first_position", _big, primary_key=True, autoincrement=False),
    Column("last_position", _big, nullable=False),
    Column("file", Text, nullable=False),
    Column("file_bytes", BigInteger, nullable=False),
    Column("file_digest", String(64), nullable=False),
    Column("heads_digest", String(64), nullable=False),
    Column("first_recorded_at", UtcTime, nullable=False),
    Column("last_recorded_at", UtcTime, nullable=False),
    Column("archived_at", UtcTime, nullable=False),
    Column("hash", String(64), nullable=False),
)

archived_heads = Table(
    "archived_heads",
    metadata,
    Column("stream", Text, primary_key=True),
    Column("version", _big, nullable=False),
    Column("hash", String(64), nullable=False),
)

schema_dictionary = Table(
    "schema_dictionary",
    metadata,
    Column("object", String(64), primary_key=True),
    Column("column", String(64), primary_key=True),
    Column("type", String(16), nullable=False),
    Column("meaning", Text, nullable=False),
)

projection_state = Table(
    "projection_state",
    metadata,
    Column("one", Integer, primary_key=True, autoincrement=False),
    Column("version", Integer, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("building_generation", Integer),
    Column("building_version", Integer),
    Column("building_position", _big),
    CheckConstraint("one = 1", name="one_row"),
)
"""Which generation of the projections' rows is shown, by which version of the fold it was written, and which is being built."""

state_copies = Table(
    "state_copies",
    metadata,
    Column("position", _big, primary_key=True, autoincrement=False),
    Column("form", String(64), nullable=False),
    Column("event_hash", String(64), nullable=False),
    Column("parts", Integer, nullable=False),
)
"""Copies of the domain's state, a cache: one row once every part is written."""

state_copy_parts = Table(
    "state_copy_parts",
    metadata,
    Column("position", _big, primary_key=True, autoincrement=False),
    Column("part", Integer, primary_key=True, autoincrement=False),
    Column("data", LargeBinary, nullable=False),
)

GENERATION = "generation"
"""The column by which rows of a rebuild lie beside the rows that are shown."""


def _generation() -> Column[Any]:
    return Column(GENERATION, Integer, primary_key=True, autoincrement=False)


def _key(*, primary_key: bool = False, nullable: bool = False) -> list[Column[Any]]:
    return [Column(part, Text, primary_key=primary_key, nullable=nullable) for part in ("cluster", "namespace", "id")]


def _failure() -> list[Column[Any]]:
    return [Column(f"failure_{part}", Text) for part in ("code", "cause", "advice")]


snapshots = Table(
    "snapshots",
    metadata,
    _generation(),
    *_key(primary_key=True),
    Column("snapshot_id", Text, primary_key=True),
    Column("position", _big, nullable=False),
    Column("incarnation", Integer, nullable=False),
    Column("node", Text),
    Column("trigger", Text),
    Column("final", Boolean),
    Column("command_id", Text),
    Column("status", String(16), nullable=False),
    Column("dump_started_at", UtcTime),
    Column("captured_at", UtcTime),
    Column("stored_at", UtcTime),
    Column("freeze_seconds", Float),
    Column("raw_bytes", BigInteger),
    Column("stored_bytes", BigInteger),
    Column("store_seconds", Float),
    Column("manifest_digest", String(64)),
    Column("superseded_by", Integer),
    Column("invalidated_reason", Text),
    Column("failure_stage", Text),
    *_failure(),
    Column("pinned", Boolean, nullable=False),
    Column("pinned_reason", Text),
    Column("expired_at", UtcTime),
    Column("expired_reason", Text),
    Column("delete_after", UtcTime),
    Column("deleted_at", UtcTime),
    Column("rehearsal", Text),
    Column("rehearsal_reason", Text),
    Column("rehearsal_seconds", Float),
    Index(None, "generation", "position"),
    Index(None, "generation", "command_id"),
    Index(
        None,
        "generation",
        "cluster",
        "namespace",
        "id",
        sqlite_where=text("\"trigger\" = 'import'"),
        postgresql_where=text("\"trigger\" = 'import'"),
    ),
)

incarnations = Table(
    "incarnations",
    metadata,
    _generation(),
    *_key(primary_key=True),
    Column("incarnation", Integer, primary_key=True, autoincrement=False),
    Column("position", _big, nullable=False),
    Column("node", Text),
    Column("container_id", Text),
    Column("opened_at", UtcTime),
    Column("waited_for", Text),
    Column("deferred_at", UtcTime),
    Column("deferred_until", UtcTime),
    Column("choice", String(16)),
    Column("snapshot_id", Text),
    Column("reason", Text),
    Column("chosen_at", UtcTime),
    Column("failed_restores", Integer, nullable=False),
    Column("started_at", UtcTime),
    Column("restored_from", Text),
    Column("create_seconds", Float),
    Column("ended_at", UtcTime),
    Column("exit_code", Integer),
    Column("forgotten_at", UtcTime),
    Index(None, "generation", "position"),
)

failures = Table(
    "failure_records",
    metadata,
    _generation(),
    Column("position", _big, primary_key=True, autoincrement=False),
    *_key(),
    Column("type", String(64), nullable=False),
    Column("incarnation", Integer, nullable=False),
    Column("node", Text),
    Column("snapshot_id", Text),
    Column("command_id", Text),
    Column("stage", Text),
    Column("code", Text, nullable=False),
    Column("cause", Text, nullable=False),
    Column("advice", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("failed_at", UtcTime, nullable=False),
    Index(None, "generation", "cluster", "namespace", "id"),
    Index(None, "generation", "command_id"),
)

nodes = Table(
    "node_states",
    metadata,
    _generation(),
    Column("node", Text, primary_key=True),
    Column("position", _big, nullable=False),
    Column("worker_id", Text, nullable=False),
    Column("boot_id", Text),
    Column("status", String(16), nullable=False),
    Column("registered_at", UtcTime),
    Column("lost_at", UtcTime),
    Column("silent_seconds", Float),
    Column("returned_at", UtcTime),
    Column("architecture", Text),
    Column("kernel_release", Text),
    Column("page_size_bytes", BigInteger),
    Column("cgroup_version", Integer),
    Column("cpu_model", Text),
    Column("criu_version", Text),
    Column("runc_version", Text),
    Column("gpu_driver", Text),
    Column("gpu_count", Integer),
    Column("gpu_models", Text),
    Column("gpu_memory_bytes", BigInteger),
    Column("gpus", Text),
    Column("store", Text),
    Column("clock_offset_seconds", Float),
)

commands = Table(
    "command_states",
    metadata,
    _generation(),
    Column("command_id", Text, primary_key=True),
    *_key(),
    Column("position", _big, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("incarnation", Integer, nullable=False),
    Column("node", Text, nullable=False),
    Column("container_id", Text),
    Column("issued_at", UtcTime, nullable=False),
    Column("deadline_at", UtcTime, nullable=False),
    Column("status", String(16), nullable=False),
    Column("snapshot_id", Text),
    Column("finished_at", UtcTime),
    *_failure(),
    Index(None, "generation", "cluster", "namespace", "id"),
    Index(None, "generation", "position"),
)

PROJECTIONS = (snapshots, incarnations, failures, nodes, commands)
"""Every table that is derived from ``events`` and may be rebuilt."""
