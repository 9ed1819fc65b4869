"""The GPUs of the nodes, for whoever has to know where a container with GPUs can go on.

Registrations have told of them before; the view now shows it. Each row points at its registration, so the new columns are filled
from there, as the fold does: a rebuild is not to be had where events are archived. A node that registers with an old control
plane between this migration and that one's end shows no GPUs until it registers again, which every node does when its worker is
updated.

A view that is replaced keeps its readers' rights, which one that is dropped and made anew does not, and PostgreSQL can replace a
view by one with more columns at its end. SQLite has no rights.
"""

from __future__ import annotations

import json
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
    """Add the columns and fill them."""
    sqlite = op.get_context().dialect.name == "sqlite"
    if sqlite:
        op.execute("DROP VIEW nodes")
    for name, kind in COLUMNS.items():
        op.add_column("node_states", sa.Column(name, kind))
    _fill()
    op.execute(f"CREATE {'' if sqlite else 'OR REPLACE '}VIEW nodes AS {AFTER}")


def downgrade() -> None:
    """Remove them again; on PostgreSQL, readers need their rights to the view anew."""
    op.execute("DROP VIEW nodes")
    for name in reversed(COLUMNS):
        op.drop_column("node_states", name)
    op.execute(f"CREATE VIEW nodes AS {BEFORE}")


def _fill() -> None:
    rows = sa.table("node_states", *(sa.column(name) for name in ("generation", "node", "position", *COLUMNS)))
    events = sa.table("events", *(sa.column(name) for name in ("position", "type", "data")))
    registered = sa.select(rows.c.generation, rows.c.node, events.c.data).where(
        events.c.position == rows.c.position, events.c.type == "node.registered"
    )
    connection = op.get_bind()
    for generation, node, data in connection.execute(registered).all():
        this = (rows.c.generation == generation) & (rows.c.node == node)
        connection.execute(sa.update(rows).where(this).values(**_columns(json.loads(data).get("facts", {}))))


def _columns(facts: dict[str, Any]) -> dict[str, Any]:
    gpus = facts.get("gpus", [])
    models = dict.fromkeys(gpu["model"] for gpu in gpus if gpu.get("model"))
    memory_bytes = [gpu["memory_bytes"] for gpu in gpus if gpu.get("memory_bytes") is not None]
    return {
        "gpu_driver": facts.get("gpu_driver"),
        "gpu_count": len(gpus),
        "gpu_models": ", ".join(models) or None,
        "gpu_memory_bytes": sum(memory_bytes) if memory_bytes else None,
        "gpus": json.dumps(gpus, ensure_ascii=False, separators=(",", ":")) if gpus else None,
    }
