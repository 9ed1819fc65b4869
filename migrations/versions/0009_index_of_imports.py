"""An index of imported snapshots alone: ids that are known by nothing else are found without a look at every snapshot."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision: str | None = "0008"
branch_labels: str | None = None
depends_on: str | None = None

NAME = "ix_snapshots_generation_cluster_namespace_id"
IMPORTS = sa.text("\"trigger\" = 'import'")


def upgrade() -> None:
    """Make it."""
    columns = ["generation", "cluster", "namespace", "id"]
    op.create_index(NAME, "snapshots", columns, sqlite_where=IMPORTS, postgresql_where=IMPORTS)


def downgrade() -> None:
    """Remove it again."""
    op.drop_index(NAME, "snapshots")
