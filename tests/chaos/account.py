"""What the whole log of a run says beside the rules: what failed and how often, and which captures came to no end."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from controlplane.domain.invariants import Rule, Violation
from woodfrog.protocol.events import (
    AnyEvent,
    DumpFailed,
    DumpStarted,
    RestoreFailed,
    SnapshotCaptured,
    SnapshotStored,
    SnapshotStoreDelayed,
)
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import SnapshotId

Log = Iterable[tuple[AnyEvent, datetime]]


class Failed(NamedTuple):
    """One kind of failure; ``example`` is the first."""

    what: str
    times: int
    example: Failure


def failures(log: Log) -> list[Failed]:
    """Count the failures of dumps and restores, and the delays of captures, by stage and code."""
    found: dict[tuple[str, str], Failed] = {}
    for event, _ in log:
        match event:
            case DumpFailed(stage=stage, failure=failure):
                what = f"dump: {stage}"
            case RestoreFailed(stage=stage, failure=failure):
                what = f"restore: {stage}"
            case SnapshotStoreDelayed(failure=failure):
                what = "captured, not stored"
            case _:
                continue
        known = found.get((what, failure.code), Failed(what, 0, failure))
        found[what, failure.code] = known._replace(times=known.times + 1)
    return sorted(found.values(), key=lambda each: (each.what, each.example.code))


def unfinished(log: Log) -> list[Violation]:
    """Return the dumps that were neither stored nor given up: each is lost, if it does not wait any more, or stuck."""
    waiting: dict[SnapshotId, DumpStarted | SnapshotCaptured] = {}
    for event, _ in log:
        match event:
            case DumpStarted() | SnapshotCaptured():
                waiting[event.snapshot_id] = event
            case SnapshotStored() | DumpFailed():
                waiting.pop(event.snapshot_id, None)
            case _:
                pass
    return [
        Violation(Rule.LOST_CAPTURE, str(event.key), f"{name} on {event.node} is neither stored nor given up")
        for name, event in waiting.items()
    ]
