"""The leader's lease and the dead letters, beside the log."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision: str | None = "0002"
branch_labels: str | None = None
depends_on: str | None = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
MOMENT = sa.DateTime(timezone=True).with_variant(sa.String(27), "sqlite")

DEAD_LETTERS = """
    CREATE VIEW dead_letters AS
    SELECT position, number, stream, sequence, subject, node, report_id, kind, reason, excerpt, size_bytes,
           received_at, recorded_at
    FROM dead_letter_records
"""


def upgrade() -> None:
    """Create both; nobody leads."""
    lease = op.create_table(
        "leader_lease",
        sa.Column("one", sa.Integer, autoincrement=False),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("duration_seconds", sa.Float, nullable=False),
        sa.Column("version", BIG, nullable=False),
        sa.Column("renewed_at", MOMENT),
        sa.CheckConstraint("one = 1", name="one_row"),
        sa.PrimaryKeyConstraint("one", name="pk_leader_lease"),
    )
    op.bulk_insert(lease, [{"one": 1, "holder": "", "duration_seconds": 0.0, "version": 0}])
    op.create_table(
        "dead_letter_records",
        sa.Column("number", BIG, autoincrement=False),
        sa.Column("letter_id", sa.String(36), nullable=False),
        sa.Column("position", BIG, nullable=False),
        sa.Column("stream", sa.Text, nullable=False),
        sa.Column("sequence", BIG, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("node", sa.Text),
        sa.Column("report_id", sa.Text),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("excerpt", sa.Text, nullable=False),
        sa.Column("size_bytes", BIG, nullable=False),
        sa.Column("received_at", MOMENT, nullable=False),
        sa.Column("recorded_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_dead_letter_records"),
        sa.UniqueConstraint("letter_id", name="uq_dead_letter_records_letter_id"),
    )
    op.create_index("ix_dead_letter_records_subject_number", "dead_letter_records", ["subject", "number"])
    op.execute(DEAD_LETTERS)


def downgrade() -> None:
    """Forget both."""
    op.execute("DROP VIEW dead_letters")
    op.drop_table("dead_letter_records")
    op.drop_table("leader_lease")
