"""What is counted of events, by control planes and by workers: named here once, shown by each under names of its own."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Metric(StrEnum):
    """What can be counted of an event, with its labels."""

    DUMPS = "dumps"
    """By outcome."""
    DUMP_FAILURES = "dump-failures"
    """By stage and failure code."""
    STARTS = "starts"
    """By outcome."""
    STARTS_LEAVING_WORK = "starts-leaving-work"
    """By outcome."""
    RESTORE_FAILURES = "restore-failures"
    """By stage and failure code."""
    REHEARSALS = "rehearsals"
    """By outcome."""
    FREEZE_SECONDS = "freeze-seconds"
    STORE_SECONDS = "store-seconds"
    CREATE_SECONDS = "create-seconds"
    """By outcome."""
    STORED_BYTES = "stored-bytes"


class Measure(msgspec.Struct, frozen=True):
    """So much of a metric."""

    metric: Metric
    labels: tuple[str, ...] = ()
    value: float = 1.0
