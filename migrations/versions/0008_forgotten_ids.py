"""When an id was forgotten, in the row of its last start: lists of ids leave it out from then on.

Filled in from the events, as the fold does. Of an id whose forgetting is archived nothing is known here, and it stays in the lists as ended.
As in 0005, a view that is replaced keeps its readers' rights, and PostgreSQL can replace a view by one with more columns at its end.
"""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision: str | None = "0007"
branch_labels: str | None = None
depends_on: str | None = None

MOMENT = sa.DateTime(timezone=True).with_variant(sa.String(27), "sqlite")

_SELECTED = """
        SELECT position, cluster, namespace, id, incarnation, node, container_id, opened_at,
               waited_for, deferred_until AS waited_until, choice, snapshot_id, reason, chosen_at, failed_restores,
               started_at, restored_from, create_seconds, ended_at, exit_code"""
_FROM = """
        FROM incarnations
        WHERE generation = (SELECT generation FROM projection_state)
    """
BEFORE = f"{_SELECTED}{_FROM}"
AFTER = f"{_SELECTED}, forgotten_at{_FROM}"


def upgrade() -> None:
    """Add the column and fill it."""
    sqlite = op.get_context().dialect.name == "sqlite"
    if sqlite:
        op.execute("DROP VIEW restore_history")
    op.add_column("incarnations", sa.Column("forgotten_at", MOMENT))
    _fill()
    op.execute(f"CREATE {'' if sqlite else 'OR REPLACE '}VIEW restore_history AS {AFTER}")


def downgrade() -> None:
    """Remove it again; on PostgreSQL, readers need their rights to the view again."""
    op.execute("DROP VIEW restore_history")
    op.drop_column("incarnations", "forgotten_at")
    op.execute(f"CREATE VIEW restore_history AS {BEFORE}")


def _fill() -> None:
    key = ("cluster", "namespace", "id", "incarnation")
    rows = sa.table("incarnations", *(sa.column(name) for name in key), sa.column("forgotten_at", MOMENT))
    events = sa.table("events", *(sa.column(name) for name in ("type", "data")), sa.column("occurred_at", MOMENT))
    connection = op.get_bind()
    forgotten = sa.select(events.c.data, events.c.occurred_at).where(events.c.type == "checkpoint.forgotten")
    for data, at in connection.execute(forgotten).all():
        event = json.loads(data)
        of = {**event["key"], "incarnation": event["incarnation"]}
        this = sa.and_(*(rows.c[name] == of[name] for name in key))
        connection.execute(sa.update(rows).where(this).values(forgotten_at=at))
