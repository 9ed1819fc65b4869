"""Tables beside the log: in its database, but no part of it and not derived from it.

``leader_lease`` says which control plane leads (:mod:`controlplane.election`); ``dead_letters`` keeps what was not believed
(:mod:`controlplane.log.deadletters`). Neither is an event, since an event is what happened and both may be forgotten.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, Float, Index, Integer, String, Table, Text, UniqueConstraint

from controlplane.log.schema import UtcTime, metadata

_big = BigInteger().with_variant(Integer(), "sqlite")

leader_lease = Table(
    "leader_lease",
    metadata,
    Column("one", Integer, primary_key=True, autoincrement=False),
    Column("holder", Text, nullable=False),
    Column("duration_seconds", Float, nullable=False),
    Column("version", _big, nullable=False),
    Column("renewed_at", UtcTime),
    CheckConstraint("one = 1", name="one_row"),
)

dead_letters = Table(
    "dead_letter_records",
    metadata,
    Column("number", _big, primary_key=True, autoincrement=False),
    Column("letter_id", String(36), nullable=False),
    Column("position", _big, nullable=False),
    Column("stream", Text, nullable=False),
    Column("sequence", _big, nullable=False),
    Column("subject", Text, nullable=False),
    Column("node", Text),
    Column("report_id", Text),
    Column("kind", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("excerpt", Text, nullable=False),
    Column("size_bytes", _big, nullable=False),
    Column("received_at", UtcTime, nullable=False),
    Column("recorded_at", UtcTime, nullable=False),
    UniqueConstraint("letter_id"),
    Index(None, "subject", "number"),
)
