"""What happens on the way to a snapshot: from a dump's begin to its last byte in the store, or to its failure."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from woodfrog.protocol.amounts import size
from woodfrog.protocol.events.base import AboutSnapshot
from woodfrog.protocol.events.measures import Measure, Metric
from woodfrog.protocol.facts import ContainerFacts, NodeFacts
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import CommandId, NodeName

__all__ = [
    "DumpEvent",
    "DumpFailed",
    "DumpStage",
    "DumpStarted",
    "RehearsalOutcome",
    "ReportedDumpEvent",
    "SnapshotCaptured",
    "SnapshotImported",
    "SnapshotRehearsed",
    "SnapshotStoreDelayed",
    "SnapshotStored",
    "Trigger",
]


class Trigger(StrEnum):
    """Why a dump was taken."""

    STOP_SIGNAL = "stop-signal"
    COMMAND = "command"
    SCHEDULE = "schedule"


class DumpStage(StrEnum):
    """Where a dump was when it failed. Up to ``capture`` the container was frozen; afterwards it was not."""

    PREFLIGHT = "preflight"
    CAPTURE = "capture"
    REHEARSAL = "rehearsal"
    STORE = "store"


class RehearsalOutcome(StrEnum):
    """What a rehearsal of a snapshot's restore showed."""

    RESTORABLE = "restorable"
    FAILED = "failed"
    NOT_REHEARSED = "not-rehearsed"
    """It was due and could not be done: that says nothing about the snapshot."""


class DumpStarted(AboutSnapshot, frozen=True, tag="snapshot.dump-started"):
    """A worker is about to freeze the container. ``final`` means that the container ends with this dump."""

    node: NodeName
    trigger: Trigger
    final: bool
    command_id: CommandId | None = None

    def __str__(self) -> str:
        return f"{'final dump' if self.final else 'dump'} {self.snapshot_id} began ({self.trigger})"


class SnapshotCaptured(AboutSnapshot, frozen=True, tag="snapshot.captured"):
    """All that the dump takes along lies on the node; the container is thawed, or ended. Not yet valid."""

    node: NodeName
    freeze_seconds: float
    raw_bytes: int

    def __str__(self) -> str:
        frozen = f"frozen for {self.freeze_seconds:.2f} s"
        return f"snapshot {self.snapshot_id} was captured: {size(self.raw_bytes)}, {frozen}"

    def measures(self) -> tuple[Measure, ...]:
        """Count how long the container stood still."""
        return (Measure(Metric.FREEZE_SECONDS, value=self.freeze_seconds),)


class SnapshotRehearsed(AboutSnapshot, frozen=True, tag="snapshot.rehearsed"):
    """A restore of the capture was rehearsed in a container that never ran, or should have been. One that failed is never valid."""

    node: NodeName
    outcome: RehearsalOutcome
    failure: Failure | None = None
    """Why it failed, or could not be done."""
    seconds: float = 0.0
    """How long it took."""

    def __str__(self) -> str:
        restore = f"a restore of snapshot {self.snapshot_id}"
        if self.outcome is RehearsalOutcome.RESTORABLE:
            return f"{restore} was rehearsed in {self.seconds:.1f} s: it can be restored"
        showed = "failed in a rehearsal" if self.outcome is RehearsalOutcome.FAILED else "was not rehearsed"
        return f"{restore} {showed}: {self.failure.cause if self.failure else 'no reason is known'}"

    def measures(self) -> tuple[Measure, ...]:
        """Count it by what it showed."""
        return (Measure(Metric.REHEARSALS, (self.outcome.value,)),)


class SnapshotStoreDelayed(AboutSnapshot, frozen=True, tag="snapshot.store-delayed"):
    """The store does not take a capture: it lies on the node only, and is tried again. Reported once for each reason."""

    node: NodeName
    failure: Failure
    since: datetime
    """When the store refused it first."""
    manifest_digest: str = ""
    """BLAKE3 of the manifest of the capture as it lies on the node, by which it can be restored there meanwhile; empty if it cannot."""
    taken_on: NodeFacts | None = None
    taken_from: ContainerFacts | None = None

    def __str__(self) -> str:
        delay = f"not stored: {self.failure.code} since {self.since:%H:%M}"
        return f"snapshot {self.snapshot_id} is on node {self.node}, {delay}; it is tried again. {self.failure}"


class SnapshotStored(AboutSnapshot, frozen=True, tag="snapshot.stored"):
    """Every byte is in the store and was read back and checked: the snapshot is valid."""

    node: NodeName
    manifest_digest: str
    """BLAKE3 of the manifest's bytes, 64 hex digits."""
    raw_bytes: int
    stored_bytes: int
    store_seconds: float
    taken_on: NodeFacts
    taken_from: ContainerFacts
    command_id: CommandId | None = None
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        cost = f"{size(self.stored_bytes)} in {self.store_seconds:.2f} s"
        return f"snapshot {self.snapshot_id} is stored and verified: {cost}"

    def measures(self) -> tuple[Measure, ...]:
        """Count the dump, and what storing it took."""
        return (
            Measure(Metric.DUMPS, ("stored",)),
            Measure(Metric.STORE_SECONDS, value=self.store_seconds),
            Measure(Metric.STORED_BYTES, value=max(self.stored_bytes, 0)),
        )


class SnapshotImported(AboutSnapshot, frozen=True, tag="snapshot.imported"):
    """Somebody brought an exported snapshot: every byte is in the store and was read back and checked, so it is valid.

    Its ``incarnation`` is a number of its own, as if the container had run elsewhere in between: earlier ones are older.
    """

    origin: str
    """What it was where it was exported: cluster, namespace, id and snapshot, separated by ``/``."""
    manifest_digest: str
    """BLAKE3 of the manifest's bytes, 64 hex digits."""
    raw_bytes: int
    stored_bytes: int
    taken_at: datetime
    taken_on: NodeFacts
    taken_from: ContainerFacts
    reason: str = ""

    def __str__(self) -> str:
        because = f": {self.reason}" if self.reason else ""
        return f"snapshot {self.snapshot_id} was imported, which was {self.origin}: {size(self.stored_bytes)}{because}"


class DumpFailed(AboutSnapshot, frozen=True, tag="snapshot.dump-failed"):
    """The dump came to nothing; the container was left as it was, or was ending anyway."""

    node: NodeName
    stage: DumpStage
    failure: Failure
    command_id: CommandId | None = None

    def __str__(self) -> str:
        return f"dump {self.snapshot_id} failed ({self.stage}): {self.failure}"

    def measures(self) -> tuple[Measure, ...]:
        """Count the dump, and its failure by stage and code."""
        return (
            Measure(Metric.DUMPS, ("failed",)),
            Measure(Metric.DUMP_FAILURES, (self.stage.value, self.failure.code)),
        )


DumpEvent = (
    DumpStarted
    | SnapshotCaptured
    | SnapshotRehearsed
    | SnapshotStoreDelayed
    | SnapshotStored
    | SnapshotImported
    | DumpFailed
)
ReportedDumpEvent = (
    DumpStarted | SnapshotCaptured | SnapshotRehearsed | SnapshotStoreDelayed | SnapshotStored | DumpFailed
)
