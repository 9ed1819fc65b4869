"""Logs of which a part can be archived without a million events."""

from __future__ import annotations

from datetime import UTC, datetime

from controlplane.core.loop import DecisionLoop
from controlplane.domain.inputs import Policy
from controlplane.log import EventLog
from support.databases import Database

SEGMENT_EVENTS = 10
FORM = "of this test"
"""The form of the copies of the state."""


def make_partitions_small(database: Database) -> None:
    """Let a segment be :data:`SEGMENT_EVENTS`, before there are any."""
    if database.engine == "postgresql":
        database.sql("DROP TABLE events_000000")
        database.sql("DROP TABLE events_000001")
        database.sql(
            f"CREATE OR REPLACE FUNCTION events_in_partition() RETURNS bigint LANGUAGE sql IMMUTABLE "
            f"AS 'SELECT {SEGMENT_EVENTS}::bigint'"
        )
        database.sql("SELECT make_events_partition(number) FROM generate_series(0, 1) AS number")


async def loop_on(log: EventLog) -> DecisionLoop:
    """Lead."""
    return DecisionLoop(log, epoch=await log.take_lead(), policy=Policy(), clock=lambda: datetime.now(UTC))
