"""The ends of the streams, kept by the triggers that watch over versions: one table and one write less for each event.

Until now ``stream_versions`` guarded the versions and ``streams``, written by the appender, held the same versions beside the
hashes. The trigger has the hash in its hands as well, so ``streams`` does both, and whoever appends needs no right to write it.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision: str | None = "0003"
branch_labels: str | None = None
depends_on: str | None = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

SQLITE_BEFORE = (
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
    (
        "CREATE TRIGGER stream_versions_are_never_deleted BEFORE DELETE ON stream_versions "
        "BEGIN SELECT RAISE(ABORT, 'stream_versions are never deleted'); END"
    ),
)
SQLITE_AFTER = (
    """
    CREATE TRIGGER events_are_recorded_once BEFORE INSERT ON events
    WHEN NEW.position <= coalesce((SELECT max(last_position) FROM archived_segments), 0)
      OR EXISTS (SELECT 1 FROM events WHERE position = NEW.position)
      OR EXISTS (SELECT 1 FROM event_ids WHERE event_id = NEW.event_id)
      OR NEW.version <> 1 + coalesce((SELECT version FROM streams WHERE stream = NEW.stream), 0)
    BEGIN SELECT RAISE(ABORT, 'events are never replaced, and a stream''s versions never jump'); END
    """,
    """
    CREATE TRIGGER events_keep_their_ids AFTER INSERT ON events
    BEGIN
        INSERT INTO event_ids (event_id, position) VALUES (NEW.event_id, NEW.position);
        INSERT INTO streams (stream, version, hash) VALUES (NEW.stream, NEW.version, NEW.hash)
        ON CONFLICT (stream) DO UPDATE SET version = excluded.version, hash = excluded.hash;
    END
    """,
    (
        "CREATE TRIGGER streams_are_never_deleted BEFORE DELETE ON streams "
        "BEGIN SELECT RAISE(ABORT, 'streams are never deleted'); END"
    ),
)

POSTGRESQL_RECORDED_ONCE = """
    CREATE OR REPLACE FUNCTION events_are_recorded_once() RETURNS trigger LANGUAGE plpgsql
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
"""
POSTGRESQL_KEPT_BEFORE = (
    "CREATE TRIGGER stream_versions_are_kept BEFORE DELETE OR TRUNCATE ON stream_versions "
    "FOR EACH STATEMENT EXECUTE FUNCTION rows_are_kept()"
)
POSTGRESQL_RECORDED_ONCE_WITH_HASHES = """
    CREATE OR REPLACE FUNCTION events_are_recorded_once() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = {schema}, pg_temp AS $$
    DECLARE astray bigint;
    BEGIN
        INSERT INTO event_ids (event_id, position) SELECT added.event_id::uuid, added.position FROM added;
        WITH placed AS MATERIALIZED (
            SELECT stream, version, hash, row_number() OVER one AS place, count(*) OVER one AS many,
                   first_value(version) OVER one AS first
            FROM added
            WINDOW one AS (PARTITION BY stream ORDER BY version ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)
        ), moved AS (
            UPDATE streams AS kept SET version = placed.version, hash = placed.hash
            FROM placed WHERE place = many AND kept.stream = placed.stream AND kept.version = first - 1
            RETURNING 1
        ), begun AS (
            INSERT INTO streams (stream, version, hash)
            SELECT stream, version, hash FROM placed WHERE place = many AND first = 1
            RETURNING 1
        )
        SELECT (SELECT count(*) FROM placed WHERE place = many OR version - first + 1 <> place)
             - (SELECT count(*) FROM moved) - (SELECT count(*) FROM begun) INTO astray;
        IF astray <> 0 THEN
            RAISE EXCEPTION 'the versions of a stream never jump' USING ERRCODE = 'integrity_constraint_violation';
        END IF;
        RETURN NULL;
    END $$
"""
POSTGRESQL_KEPT_AFTER = (
    "CREATE TRIGGER streams_are_kept BEFORE DELETE OR TRUNCATE ON streams "
    "FOR EACH STATEMENT EXECUTE FUNCTION rows_are_kept()"
)

FILL_IN = """
    INSERT INTO streams (stream, version, hash)
    SELECT kept.stream, kept.version, coalesce(
        (SELECT hash FROM events WHERE events.stream = kept.stream AND events.version = kept.version),
        (SELECT hash FROM archived_heads AS head WHERE head.stream = kept.stream AND head.version = kept.version), '')
    FROM stream_versions AS kept WHERE NOT EXISTS (SELECT 1 FROM streams WHERE streams.stream = kept.stream)
"""


def upgrade() -> None:
    """Let the triggers write ``streams``, and drop the other table."""
    op.execute(FILL_IN)
    if _sqlite():
        _drop_triggers("events_are_recorded_once", "events_keep_their_ids")
        op.drop_table("stream_versions")
        for statement in SQLITE_AFTER:
            op.execute(statement)
        return
    op.execute(POSTGRESQL_RECORDED_ONCE_WITH_HASHES.replace("{schema}", _schema()))
    op.drop_table("stream_versions")
    op.execute(POSTGRESQL_KEPT_AFTER)


def downgrade() -> None:
    """Make the other table again."""
    op.create_table(
        "stream_versions",
        sa.Column("stream", sa.Text, nullable=False),
        sa.Column("version", BIG, nullable=False),
        sa.PrimaryKeyConstraint("stream", name="pk_stream_versions"),
        sqlite_with_rowid=False,
    )
    op.execute("INSERT INTO stream_versions (stream, version) SELECT stream, version FROM streams")
    if _sqlite():
        _drop_triggers("events_are_recorded_once", "events_keep_their_ids", "streams_are_never_deleted")
        for statement in SQLITE_BEFORE:
            op.execute(statement)
        return
    op.execute(POSTGRESQL_RECORDED_ONCE.replace("{schema}", _schema()))
    op.execute(POSTGRESQL_KEPT_BEFORE)
    op.execute("DROP TRIGGER streams_are_kept ON streams")


def _sqlite() -> bool:
    return op.get_context().dialect.name == "sqlite"


def _schema() -> str:
    return str(op.get_bind().exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one())


def _drop_triggers(*names: str) -> None:
    for name in names:
        op.execute(f"DROP TRIGGER {name}")
