"""What rehearsals of a snapshot's restore showed.

Nothing was rehearsed before, so there is nothing to fill in. As in 0005, a view that is replaced keeps its readers' rights, and PostgreSQL
can replace a view by one with more columns at its end.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision: str | None = "0006"
branch_labels: str | None = None
depends_on: str | None = None

_SELECTED = """
        SELECT position, cluster, namespace, id, snapshot_id, incarnation, node, "trigger", final, command_id, status,
               dump_started_at, captured_at, stored_at, freeze_seconds, raw_bytes, stored_bytes, store_seconds,
               manifest_digest, superseded_by, invalidated_reason, failure_stage,
               failure_code, failure_cause, failure_advice,
               pinned, pinned_reason, expired_at, expired_reason, delete_after, deleted_at"""
_FROM = """
        FROM snapshots
        WHERE generation = (SELECT generation FROM projection_state)
    """
BEFORE = f"{_SELECTED}{_FROM}"
AFTER = f"{_SELECTED}, rehearsal, rehearsal_reason, rehearsal_seconds{_FROM}"
COLUMNS: dict[str, sa.types.TypeEngine[Any]] = {
    "rehearsal": sa.Text(),
    "rehearsal_reason": sa.Text(),
    "rehearsal_seconds": sa.Float(),
}


def upgrade() -> None:
    """Add the columns."""
    sqlite = op.get_context().dialect.name == "sqlite"
    if sqlite:
        op.execute("DROP VIEW checkpoint_history")
    for name, kind in COLUMNS.items():
        op.add_column("snapshots", sa.Column(name, kind))
    op.execute(f"CREATE {'' if sqlite else 'OR REPLACE '}VIEW checkpoint_history AS {AFTER}")


def downgrade() -> None:
    """Remove them again; on PostgreSQL, readers need their rights to the view again."""
    op.execute("DROP VIEW checkpoint_history")
    for name in reversed(COLUMNS):
        op.drop_column("snapshots", name)
    op.execute(f"CREATE VIEW checkpoint_history AS {BEFORE}")
