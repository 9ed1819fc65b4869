"""The store of each node, and how far its clock is off.

Registrations from before name no store, and nobody measured clocks, so there is nothing to fill in. As in 0005, a view that is
replaced keeps its readers' rights, and PostgreSQL can replace a view by one with more columns at its end.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision: str | None = "0005"
branch_labels: str | None = None
depends_on: str | None = None

_SELECTED = """
        SELECT position, node, worker_id, boot_id, status, registered_at, lost_at, silent_seconds, returned_at,
               architecture, kernel_release, page_size_bytes, cgroup_version, cpu_model, criu_version, runc_version,
               gpu_driver, gpu_count, gpu_models, gpu_memory_bytes, gpus"""
_FROM = """
        FROM node_states
        WHERE generation = (SELECT generation FROM projection_state)
    """
BEFORE = f"{_SELECTED}{_FROM}"
AFTER = f"{_SELECTED}, store, clock_offset_seconds{_FROM}"
COLUMNS: dict[str, sa.types.TypeEngine[Any]] = {"store": sa.Text(), "clock_offset_seconds": sa.Float()}


def upgrade() -> None:
    """Add the columns."""
    sqlite = op.get_context().dialect.name == "sqlite"
    if sqlite:
        op.execute("DROP VIEW nodes")
    for name, kind in COLUMNS.items():
        op.add_column("node_states", sa.Column(name, kind))
    op.execute(f"CREATE {'' if sqlite else 'OR REPLACE '}VIEW nodes AS {AFTER}")


def downgrade() -> None:
    """Remove them again; on PostgreSQL, readers need their rights to the view again."""
    op.execute("DROP VIEW nodes")
    for name in reversed(COLUMNS):
        op.drop_column("node_states", name)
    op.execute(f"CREATE VIEW nodes AS {BEFORE}")
