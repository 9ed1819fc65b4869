"""Events in partitions that can be archived, their ids and versions taken for ever, and what every column means.

A partitioned table's unique index must contain the partition key (https://www.postgresql.org/docs/current/ddl-partitioning.html,
"Limitations"), and events that are archived leave the table, so the two rules "an event id is recorded once" and "a stream's versions
are 1, 2, 3 …" move out of ``events`` into two narrow tables that only triggers write. Partitions are ranges of positions and the next
but one is made by the trigger that sees the head of the log enter the last one: attaching an empty table waits for no
reader and no writer.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import UUID

revision = "0002"
down_revision: str | None = "0001"
branch_labels: str | None = None
depends_on: str | None = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
MOMENT = sa.DateTime(timezone=True).with_variant(sa.String(27), "sqlite")
EVENT_ID = sa.String(36).with_variant(UUID(as_uuid=False), "postgresql")

COLUMNS = "position, stream, version, event_id, type, schema_version, data, metadata, command_id, occurred_at, recorded_at, hash"

SQLITE_NEVER_UPDATED = (
    "CREATE TRIGGER events_are_never_updated BEFORE UPDATE ON events "
    "BEGIN SELECT RAISE(ABORT, 'events are never changed'); END"
)
SQLITE_BEFORE = (
    SQLITE_NEVER_UPDATED,
    (
        "CREATE TRIGGER events_are_never_deleted BEFORE DELETE ON events "
        "BEGIN SELECT RAISE(ABORT, 'events are never deleted'); END"
    ),
    """
    CREATE TRIGGER events_are_never_replaced BEFORE INSERT ON events
    WHEN EXISTS (SELECT 1 FROM events WHERE position = NEW.position)
      OR EXISTS (SELECT 1 FROM events WHERE event_id = NEW.event_id)
      OR EXISTS (SELECT 1 FROM events WHERE stream = NEW.stream AND version = NEW.version)
    BEGIN SELECT RAISE(ABORT, 'events are never replaced'); END
    """,
)
SQLITE_AFTER = (
    SQLITE_NEVER_UPDATED,
    """
    CREATE TRIGGER events_are_never_deleted BEFORE DELETE ON events
    WHEN NOT EXISTS (
        SELECT 1 FROM archived_segments WHERE OLD.position BETWEEN first_position AND last_position
    )
    BEGIN SELECT RAISE(ABORT, 'events are never deleted unless they are archived'); END
    """,
    """
    CREATE TRIGGER events_are_recorded_once BEFORE INSERT ON events
    WHEN NEW.position <= coalesce((SELECT max(last_position) FROM archived_segments), 0)
      OR EXISTS (SELECT 1 FROM events WHERE position = NEW.position)
      OR EXISTS (SELECT 1 FROM event_ids WHERE event_id = NEW.event_id)
      OR NEW.version <> 1 + coalesce((SELECT version FROM stream_versions WHERE stream = NEW.stream), 0)
    BEGIN SELECT RAISE(ABORT, 'events are never replaced, and a stream''s versions never jump'); END
    """,
    """
    CREATE TRIGGER events_keep_their_ids AFTER INSERT ON events
    BEGIN
        INSERT INTO event_ids (event_id, position) VALUES (NEW.event_id, NEW.position);
        INSERT INTO stream_versions (stream, version) VALUES (NEW.stream, NEW.version)
        ON CONFLICT (stream) DO UPDATE SET version = excluded.version;
    END
    """,
)
SQLITE_GUARDS = tuple(
    f"CREATE TRIGGER {table}_are_never_{word} BEFORE {verb} ON {table} "
    f"BEGIN SELECT RAISE(ABORT, '{table} are never {word}'); END"
    for table, verb, word in (
        ("event_ids", "UPDATE", "changed"),
        ("event_ids", "DELETE", "deleted"),
        ("stream_versions", "DELETE", "deleted"),
        ("archived_segments", "UPDATE", "changed"),
        ("archived_segments", "DELETE", "deleted"),
    )
)

POSTGRESQL_FUNCTIONS = (
    """
    CREATE FUNCTION events_in_partition() RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT 10000000::bigint'
    """,
    """
    CREATE FUNCTION rows_are_kept() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION '% is never changed this way', TG_TABLE_NAME; END $$
    """,
    """
    CREATE FUNCTION make_events_partition(number bigint) RETURNS void LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = {schema}, pg_temp AS $$
    DECLARE
        part text := 'events_' || lpad(number::text, 6, '0');
        size bigint := events_in_partition();
    BEGIN
        IF to_regclass(quote_ident(part)) IS NOT NULL THEN RETURN; END IF;
        EXECUTE format('CREATE TABLE %I (LIKE events INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', part);
        EXECUTE format(
            'CREATE TRIGGER events_come_through_the_log BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON %I '
            'FOR EACH STATEMENT EXECUTE FUNCTION rows_are_kept()', part);
        EXECUTE format(
            'ALTER TABLE events ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)',
            part, number * size + 1, (number + 1) * size + 1);
    END $$
    """,
    "REVOKE EXECUTE ON FUNCTION make_events_partition(bigint) FROM PUBLIC",
    """
    CREATE FUNCTION events_keep_a_partition_ahead() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = {schema}, pg_temp AS $$
    BEGIN
        PERFORM make_events_partition(NEW.position / events_in_partition() + 1);
        RETURN NULL;
    END $$
    """,
    """
    CREATE FUNCTION events_are_recorded_once() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = {schema}, pg_temp AS $$
    DECLARE astray bigint;
    BEGIN
        INSERT INTO event_ids (event_id, position) SELECT added.event_id::uuid, added.position FROM added;
        WITH ends AS MATERIALIZED (
            SELECT stream, min(version) AS first, max(version) AS last, count(*) AS many, count(DISTINCT version) AS unlike
            FROM added GROUP BY stream
        ), fit AS (
            SELECT * FROM ends WHERE many = unlike AND last - first + 1 = many
        ), moved AS (
            UPDATE stream_versions AS kept SET version = fit.last
            FROM fit WHERE kept.stream = fit.stream AND kept.version = fit.first - 1
            RETURNING 1
        ), begun AS (
            INSERT INTO stream_versions (stream, version) SELECT stream, last FROM fit WHERE first = 1
            RETURNING 1
        )
        SELECT (SELECT count(*) FROM ends) - (SELECT count(*) FROM moved) - (SELECT count(*) FROM begun) INTO astray;
        IF astray <> 0 THEN
            RAISE EXCEPTION 'the versions of a stream never jump' USING ERRCODE = 'integrity_constraint_violation';
        END IF;
        RETURN NULL;
    END $$
    """,
)
POSTGRESQL_TRIGGERS = (
    """
    CREATE TRIGGER events_are_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON events
    FOR EACH STATEMENT EXECUTE FUNCTION events_are_append_only()
    """,
    """
    CREATE TRIGGER events_are_recorded_once AFTER INSERT ON events REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION events_are_recorded_once()
    """,
    """
    CREATE TRIGGER events_keep_a_partition_ahead AFTER UPDATE ON log_head
    FOR EACH ROW EXECUTE FUNCTION events_keep_a_partition_ahead()
    """,
    (
        "CREATE TRIGGER log_head_is_never_emptied BEFORE TRUNCATE ON log_head "
        "FOR EACH STATEMENT EXECUTE FUNCTION rows_are_kept()"
    ),
    (
        "CREATE TRIGGER event_ids_are_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON event_ids "
        "FOR EACH STATEMENT EXECUTE FUNCTION rows_are_kept()"
    ),
    (
        "CREATE TRIGGER stream_versions_are_kept BEFORE DELETE OR TRUNCATE ON stream_versions "
        "FOR EACH STATEMENT EXECUTE FUNCTION rows_are_kept()"
    ),
    (
        "CREATE TRIGGER archived_segments_are_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON archived_segments "
        "FOR EACH STATEMENT EXECUTE FUNCTION rows_are_kept()"
    ),
)


def upgrade() -> None:
    """Move the events over; takes as long as copying them does."""
    _create_tables()
    _set_aside()
    _create_events(partitioned=True)
    if _sqlite():
        _move_back()
        _take_ids()
        for statement in (*SQLITE_AFTER, *SQLITE_GUARDS):
            op.execute(statement)
        return
    schema = op.get_bind().exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one()
    for statement in POSTGRESQL_FUNCTIONS:
        op.execute(statement.replace("{schema}", schema))
    op.execute(
        "SELECT make_events_partition(number) FROM log_head, "
        "generate_series(0, log_head.position / events_in_partition() + 1) AS number"
    )
    _move_back()
    _take_ids()
    for statement in POSTGRESQL_TRIGGERS:
        op.execute(statement)


def downgrade() -> None:
    """Move the events back into one table.

    Raises:
        RuntimeError: if events were archived; the older schema cannot say so.
    """
    if op.get_bind().exec_driver_sql("SELECT count(*) FROM archived_segments").scalar_one():
        raise RuntimeError("events were archived: the schema before cannot tell them from lost ones")
    _set_aside()
    _create_events(partitioned=False)
    _move_back()
    if _sqlite():
        for statement in SQLITE_BEFORE:
            op.execute(statement)
    else:
        op.execute(POSTGRESQL_TRIGGERS[0])
        op.execute("DROP TRIGGER events_keep_a_partition_ahead ON log_head")
        op.execute("DROP TRIGGER log_head_is_never_emptied ON log_head")
    for table in ("schema_dictionary", "archived_heads", "archived_segments", "stream_versions", "event_ids"):
        op.drop_table(table)
    if not _sqlite():
        for function in (
            "events_are_recorded_once()",
            "events_keep_a_partition_ahead()",
            "make_events_partition(bigint)",
            "rows_are_kept()",
            "events_in_partition()",
        ):
            op.execute(f"DROP FUNCTION {function}")


def _sqlite() -> bool:
    return op.get_context().dialect.name == "sqlite"


def _create_tables() -> None:
    op.create_table(
        "event_ids",
        sa.Column("event_id", EVENT_ID, nullable=False),
        sa.Column("position", BIG, nullable=False),
        sa.PrimaryKeyConstraint("event_id", name="pk_event_ids"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "stream_versions",
        sa.Column("stream", sa.Text, nullable=False),
        sa.Column("version", BIG, nullable=False),
        sa.PrimaryKeyConstraint("stream", name="pk_stream_versions"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "archived_segments",
        sa.Column("first_position", BIG, autoincrement=False),
        sa.Column("last_position", BIG, nullable=False),
        sa.Column("file", sa.Text, nullable=False),
        sa.Column("file_bytes", sa.BigInteger, nullable=False),
        *(sa.Column(name, sa.String(64), nullable=False) for name in ("file_digest", "heads_digest")),
        *(sa.Column(name, MOMENT, nullable=False) for name in ("first_recorded_at", "last_recorded_at", "archived_at")),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("first_position", name="pk_archived_segments"),
    )
    op.create_table(
        "archived_heads",
        sa.Column("stream", sa.Text),
        sa.Column("version", BIG, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("stream", name="pk_archived_heads"),
    )
    op.create_table(
        "schema_dictionary",
        sa.Column("object", sa.String(64)),
        sa.Column("column", sa.String(64)),
        sa.Column("type", sa.String(16), nullable=False),
        sa.Column("meaning", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("object", "column", name="pk_schema_dictionary"),
    )


def _set_aside() -> None:
    """Rename ``events`` and free the names of its indexes and triggers, which are the schema's on PostgreSQL."""
    if _sqlite():
        names = op.get_bind().exec_driver_sql(
            "SELECT type, name FROM sqlite_master WHERE tbl_name = 'events' AND type IN ('trigger', 'index') AND sql NOT NULL"
        )
        for kind, name in names.all():
            op.execute(f"DROP {kind} {name}")
        op.rename_table("events", "events_set_aside")
        return
    op.rename_table("events", "events_set_aside")
    names = op.get_bind().exec_driver_sql(
        "SELECT relname FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid "
        "WHERE indrelid = 'events_set_aside'::regclass"
    )
    for (name,) in names.all():
        op.execute(f"ALTER INDEX {name} RENAME TO set_aside_{name}")


def _create_events(*, partitioned: bool) -> None:
    unique: list[sa.UniqueConstraint] = []
    options: dict[str, Any] = {"postgresql_partition_by": "RANGE (position)"}
    if not partitioned:
        unique = [
            sa.UniqueConstraint("stream", "version", name="uq_events_stream_version"),
            sa.UniqueConstraint("event_id", name="uq_events_event_id"),
        ]
        options = {}
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
        *unique,
        **options,
    )
    if partitioned:
        op.create_index("ix_events_stream_version", "events", ["stream", "version"])
    op.create_index("ix_events_type_position", "events", ["type", "position"])
    op.create_index(
        "ix_events_command_id",
        "events",
        ["command_id"],
        sqlite_where=sa.text("command_id IS NOT NULL"),
        postgresql_where=sa.text("command_id IS NOT NULL"),
    )


def _move_back() -> None:
    op.execute(f"INSERT INTO events ({COLUMNS}) SELECT {COLUMNS} FROM events_set_aside ORDER BY position")  # noqa: S608 - constants
    op.drop_table("events_set_aside")


def _take_ids() -> None:
    cast = "event_id" if _sqlite() else "event_id::uuid"
    op.execute(f"INSERT INTO event_ids (event_id, position) SELECT {cast}, position FROM events")  # noqa: S608 - constants
    op.execute("INSERT INTO stream_versions (stream, version) SELECT stream, max(version) FROM events GROUP BY stream")
