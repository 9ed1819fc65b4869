"""The GPUs of the nodes, for whoever has to know where a container with GPUs can go on.

Registrations have told of them before; the view now shows it. A view that is replaced keeps its readers' rights, which one that
is dropped and made anew does not, and PostgreSQL can replace a view by one with more columns at its end. SQLite has no rights.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision: str | None = "0004"
branch_labels: str | None = None
depends_on: str | None = None

BEFORE = """
        SELECT position, node, worker_id, boot_id, status, registered_at, lost_at, silent_seconds, returned_at,
               architecture, kernel_release, page_size_bytes, cgroup_version, cpu_model, criu_version, runc_version
        FROM node_states
        WHERE generation = (SELECT generation FROM projection_state)
    """
AFTER = """
        SELECT position, node, worker_id, boot_id, status, registered_at, lost_at, silent_seconds, returned_at,
               architecture, kernel_release, page_size_bytes, cgroup_version, cpu_model, criu_version, runc_version,
               gpu_driver, gpu_count, gpu_models, gpu_memory_bytes, gpus
        FROM node_states
        WHERE generation = (SELECT generation FROM projection_state)
    """
COLUMNS: dict[str, sa.types.TypeEngine[Any]] = {
    "gpu_driver": sa.Text(),
    "gpu_count": sa.Integer(),
    "gpu_models": sa.Text(),
    "gpu_memory_bytes": sa.BigInteger(),
    "gpus": sa.Text(),
}


def upgrade() -> None:
    """Add the columns. The fold that fills them is of a new version, so opening the log fills them from the events."""
    sqlite = op.get_context().dialect.name == "sqlite"
    if sqlite:
        op.execute("DROP VIEW nodes")
    for name, kind in COLUMNS.items():
        op.add_column("node_states", sa.Column(name, kind))
    op.execute(f"CREATE {'' if sqlite else 'OR REPLACE '}VIEW nodes AS {AFTER}")


def downgrade() -> None:
    """Remove them again; on PostgreSQL, readers need their rights to the view anew."""
    op.execute("DROP VIEW nodes")
    for name in reversed(COLUMNS):
        op.drop_column("node_states", name)
    op.execute(f"CREATE VIEW nodes AS {BEFORE}")
