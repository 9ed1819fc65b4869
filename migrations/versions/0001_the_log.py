"""The log, its projections and its views.

Triggers make the log append-only for everybody who does not drop them. On SQLite an INSERT OR REPLACE would delete the old
row without firing a delete trigger (https://www.sqlite.org/lang_conflict.html, REPLACE), so a third one refuses an insert that
would replace. PostgreSQL has TRUNCATE instead, refused by a statement trigger.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision: str | None = None
branch_labels: str | None = None
depends_on: str | None = None

VIEWS = {
    "checkpoint_history": """
        SELECT position, cluster, namespace, id, snapshot_id, incarnation, node, "trigger", final, command_id, status,
               dump_started_at, captured_at, stored_at, freeze_seconds, raw_bytes, stored_bytes, store_seconds,
               manifest_digest, superseded_by, invalidated_reason, failure_stage,
               failure_code, failure_cause, failure_advice,
               pinned, pinned_reason, expired_at, expired_reason, delete_after, deleted_at
        FROM snapshots
        WHERE generation = (SELECT generation FROM projection_state)
    """,
    "latest_snapshots": """
        SELECT position, cluster, namespace, id, snapshot_id, incarnation, node, captured_at, stored_at,
               raw_bytes, stored_bytes, manifest_digest, pinned
        FROM snapshots AS s
        WHERE status = 'valid'
          AND generation = (SELECT generation FROM projection_state)
          AND NOT EXISTS (
              SELECT 1 FROM snapshots AS better
              WHERE better.generation = s.generation
                AND better.cluster = s.cluster AND better.namespace = s.namespace AND better.id = s.id
                AND better.status = 'valid'
                AND (better.pinned > s.pinned
                     OR (better.pinned = s.pinned
                         AND (better.incarnation > s.incarnation
                              OR (better.incarnation = s.incarnation AND better.position > s.position))))
          )
    """,
    "restore_history": """
        SELECT position, cluster, namespace, id, incarnation, node, container_id, opened_at,
               waited_for, deferred_until AS waited_until, choice, snapshot_id, reason, chosen_at, failed_restores,
               started_at, restored_from, create_seconds, ended_at, exit_code
        FROM incarnations
        WHERE generation = (SELECT generation FROM projection_state)
    """,
    "failures": """
        SELECT position, cluster, namespace, id, type, incarnation, node, snapshot_id, command_id, stage, failed_at,
               code AS failure_code, cause AS failure_cause, advice AS failure_advice, detail AS failure_detail
        FROM failure_records AS f
        WHERE generation = (SELECT generation FROM projection_state)
          AND NOT (
            f.type = 'command.finished'
            AND EXISTS (
                SELECT 1 FROM failure_records AS dump
                WHERE dump.generation = f.generation AND dump.command_id = f.command_id AND dump.type = 'snapshot.dump-failed'
            )
        )
    """,
    "nodes": """
        SELECT position, node, worker_id, boot_id, status, registered_at, lost_at, silent_seconds, returned_at,
               architecture, kernel_release, page_size_bytes, cgroup_version, cpu_model, criu_version, runc_version
        FROM node_states
        WHERE generation = (SELECT generation FROM projection_state)
    """,
    "commands": """
        SELECT position, command_id, kind, cluster, namespace, id, incarnation, node, container_id, issued_at,
               deadline_at, status, snapshot_id, finished_at, failure_code, failure_cause, failure_advice
        FROM command_states
        WHERE generation = (SELECT generation FROM projection_state)
    """,
}

SQLITE_TRIGGERS = {
    "events_are_never_updated": "BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events are never changed'); END",
    "events_are_never_deleted": "BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'events are never deleted'); END",
    "events_are_never_replaced": """
        BEFORE INSERT ON events
        WHEN EXISTS (SELECT 1 FROM events WHERE position = NEW.position)
          OR EXISTS (SELECT 1 FROM events WHERE event_id = NEW.event_id)
          OR EXISTS (SELECT 1 FROM events WHERE stream = NEW.stream AND version = NEW.version)
        BEGIN SELECT RAISE(ABORT, 'events are never replaced'); END
    """,
    "log_head_never_goes_back": """
        BEFORE UPDATE ON log_head WHEN NEW.position < OLD.position OR NEW.epoch < OLD.epoch
        BEGIN SELECT RAISE(ABORT, 'the head of the log never goes back'); END
    """,
    "log_head_is_never_deleted": """
        BEFORE DELETE ON log_head BEGIN SELECT RAISE(ABORT, 'the head of the log is never deleted'); END
    """,
}

POSTGRESQL_TRIGGERS = (
    """
    CREATE FUNCTION events_are_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'events are never changed or deleted'; END $$
    """,
    """
    CREATE TRIGGER events_are_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON events
    FOR EACH STATEMENT EXECUTE FUNCTION events_are_append_only()
    """,
    """
    CREATE FUNCTION log_head_never_goes_back() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP <> 'UPDATE' OR NEW.position < OLD.position OR NEW.epoch < OLD.epoch THEN
            RAISE EXCEPTION 'the head of the log never goes back';
        END IF;
        RETURN NEW;
    END $$
    """,
    """
    CREATE TRIGGER log_head_never_goes_back BEFORE UPDATE OR DELETE ON log_head
    FOR EACH ROW EXECUTE FUNCTION log_head_never_goes_back()
    """,
)

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
MOMENT = sa.DateTime(timezone=True).with_variant(sa.String(27), "sqlite")


def upgrade() -> None:
    """Create everything, and the two one-row tables' rows."""
    _create_log()
    _create_projections()
    for name, select in VIEWS.items():
        op.execute(f"CREATE VIEW {name} AS {select}")
    if op.get_context().dialect.name == "sqlite":
        for name, body in SQLITE_TRIGGERS.items():
            op.execute(f"CREATE TRIGGER {name} {body}")
    else:
        for statement in POSTGRESQL_TRIGGERS:
            op.execute(statement)


def downgrade() -> None:
    """Drop everything, the log included."""
    for name in VIEWS:
        op.execute(f"DROP VIEW {name}")
    for table in (
        "command_states",
        "node_states",
        "failure_records",
        "incarnations",
        "snapshots",
        "projection_state",
        "state_copy_parts",
        "state_copies",
        "events",
        "streams",
        "log_head",
    ):
        op.drop_table(table)
    if op.get_context().dialect.name != "sqlite":
        op.execute("DROP FUNCTION events_are_append_only()")
        op.execute("DROP FUNCTION log_head_never_goes_back()")


def _create_log() -> None:
    head = op.create_table(
        "log_head",
        sa.Column("one", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("position", BIG, nullable=False),
        sa.Column("epoch", BIG, nullable=False),
        sa.CheckConstraint("one = 1", name="one_row"),
        sa.PrimaryKeyConstraint("one", name="pk_log_head"),
    )
    op.bulk_insert(head, [{"one": 1, "position": 0, "epoch": 0}])
    op.create_table(
        "streams",
        sa.Column("stream", sa.Text),
        sa.Column("version", BIG, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("stream", name="pk_streams"),
    )
    op.create_table(
        "events",
        sa.Column("position", BIG, autoincrement=False),
        sa.Column("stream", sa.Text, nullable=False),
        sa.Column("version", BIG, nullable=False),
        sa.Column("event_id", sa.String(36), nullable=False),
        sa.Column("type", sa.String(64), nullable=False),
        sa.Column("schema_version", sa.Integer, nullable=False),
        sa.Column("data", sa.Text, nullable=False),
        sa.Column("metadata", sa.Text, nullable=False),
        sa.Column("command_id", sa.Text),
        sa.Column("occurred_at", MOMENT, nullable=False),
        sa.Column("recorded_at", MOMENT, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("position", name="pk_events"),
        sa.UniqueConstraint("stream", "version", name="uq_events_stream_version"),
        sa.UniqueConstraint("event_id", name="uq_events_event_id"),
    )
    _index("events", "type", "position")
    op.create_index(
        "ix_events_command_id",
        "events",
        ["command_id"],
        sqlite_where=sa.text("command_id IS NOT NULL"),
        postgresql_where=sa.text("command_id IS NOT NULL"),
    )

    op.create_table(
        "state_copies",
        sa.Column("position", BIG, autoincrement=False),
        sa.Column("form", sa.String(64), nullable=False),
        sa.Column("event_hash", sa.String(64), nullable=False),
        sa.Column("parts", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("position", name="pk_state_copies"),
    )
    op.create_table(
        "state_copy_parts",
        sa.Column("position", BIG, autoincrement=False),
        sa.Column("part", sa.Integer, autoincrement=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("position", "part", name="pk_state_copy_parts"),
    )


def _create_projections() -> None:
    state = op.create_table(
        "projection_state",
        sa.Column("one", sa.Integer, autoincrement=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("building_generation", sa.Integer),
        sa.Column("building_version", sa.Integer),
        sa.Column("building_position", BIG),
        sa.CheckConstraint("one = 1", name="one_row"),
        sa.PrimaryKeyConstraint("one", name="pk_projection_state"),
    )
    op.bulk_insert(state, [{"one": 1, "version": 1, "generation": 1}])
    op.create_table(
        "snapshots",
        sa.Column("generation", sa.Integer, autoincrement=False),
        *_key(),
        sa.Column("snapshot_id", sa.Text),
        sa.Column("position", BIG, nullable=False),
        sa.Column("incarnation", sa.Integer, nullable=False),
        *_texts("node", "trigger"),
        sa.Column("final", sa.Boolean),
        sa.Column("command_id", sa.Text),
        sa.Column("status", sa.String(16), nullable=False),
        *_moments("dump_started_at", "captured_at", "stored_at"),
        sa.Column("freeze_seconds", sa.Float),
        sa.Column("raw_bytes", sa.BigInteger),
        sa.Column("stored_bytes", sa.BigInteger),
        sa.Column("store_seconds", sa.Float),
        sa.Column("manifest_digest", sa.String(64)),
        sa.Column("superseded_by", sa.Integer),
        *_texts("invalidated_reason", "failure_stage", "failure_code", "failure_cause", "failure_advice"),
        sa.Column("pinned", sa.Boolean, nullable=False),
        sa.Column("pinned_reason", sa.Text),
        sa.Column("expired_at", MOMENT),
        sa.Column("expired_reason", sa.Text),
        *_moments("delete_after", "deleted_at"),
        sa.PrimaryKeyConstraint("generation", "cluster", "namespace", "id", "snapshot_id", name="pk_snapshots"),
    )
    _index("snapshots", "generation", "position")
    _index("snapshots", "generation", "command_id")
    op.create_table(
        "incarnations",
        sa.Column("generation", sa.Integer, autoincrement=False),
        *_key(),
        sa.Column("incarnation", sa.Integer, autoincrement=False),
        sa.Column("position", BIG, nullable=False),
        *_texts("node", "container_id"),
        sa.Column("opened_at", MOMENT),
        sa.Column("waited_for", sa.Text),
        *_moments("deferred_at", "deferred_until"),
        sa.Column("choice", sa.String(16)),
        *_texts("snapshot_id", "reason"),
        sa.Column("chosen_at", MOMENT),
        sa.Column("failed_restores", sa.Integer, nullable=False),
        sa.Column("started_at", MOMENT),
        sa.Column("restored_from", sa.Text),
        sa.Column("create_seconds", sa.Float),
        sa.Column("ended_at", MOMENT),
        sa.Column("exit_code", sa.Integer),
        sa.PrimaryKeyConstraint("generation", "cluster", "namespace", "id", "incarnation", name="pk_incarnations"),
    )
    _index("incarnations", "generation", "position")
    op.create_table(
        "failure_records",
        sa.Column("generation", sa.Integer, autoincrement=False),
        sa.Column("position", BIG, autoincrement=False),
        *_key(),
        sa.Column("type", sa.String(64), nullable=False),
        sa.Column("incarnation", sa.Integer, nullable=False),
        *_texts("node", "snapshot_id", "command_id", "stage"),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("code", "cause", "advice", "detail")),
        sa.Column("failed_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("generation", "position", name="pk_failure_records"),
    )
    _index("failure_records", "generation", "cluster", "namespace", "id")
    _index("failure_records", "generation", "command_id")
    op.create_table(
        "node_states",
        sa.Column("generation", sa.Integer, autoincrement=False),
        sa.Column("node", sa.Text),
        sa.Column("position", BIG, nullable=False),
        sa.Column("worker_id", sa.Text, nullable=False),
        sa.Column("boot_id", sa.Text),
        sa.Column("status", sa.String(16), nullable=False),
        *_moments("registered_at", "lost_at"),
        sa.Column("silent_seconds", sa.Float),
        sa.Column("returned_at", MOMENT),
        *_texts("architecture", "kernel_release"),
        sa.Column("page_size_bytes", sa.BigInteger),
        sa.Column("cgroup_version", sa.Integer),
        *_texts("cpu_model", "criu_version", "runc_version"),
        sa.PrimaryKeyConstraint("generation", "node", name="pk_node_states"),
    )
    op.create_table(
        "command_states",
        sa.Column("generation", sa.Integer, autoincrement=False),
        sa.Column("command_id", sa.Text),
        *_key(),
        sa.Column("position", BIG, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("incarnation", sa.Integer, nullable=False),
        sa.Column("node", sa.Text, nullable=False),
        sa.Column("container_id", sa.Text),
        *(sa.Column(name, MOMENT, nullable=False) for name in ("issued_at", "deadline_at")),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("snapshot_id", sa.Text),
        sa.Column("finished_at", MOMENT),
        *_texts("failure_code", "failure_cause", "failure_advice"),
        sa.PrimaryKeyConstraint("generation", "command_id", name="pk_command_states"),
    )
    _index("command_states", "generation", "cluster", "namespace", "id")
    _index("command_states", "generation", "position")


def _key() -> list[sa.Column[Any]]:
    return [sa.Column(part, sa.Text, nullable=False) for part in ("cluster", "namespace", "id")]


def _texts(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.Text) for name in names]


def _moments(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, MOMENT) for name in names]


def _index(table: str, *columns: str) -> None:
    op.create_index(f"ix_{table}_{'_'.join(columns)}", table, list(columns))
