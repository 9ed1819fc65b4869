"""What happens to a snapshot that is there: it proves too late or unusable, expires, is deleted, or somebody decides about it."""

from __future__ import annotations

from datetime import datetime

from woodfrog.protocol.amounts import to_the_second
from woodfrog.protocol.events.base import AboutSnapshot
from woodfrog.protocol.ids import CommandId, IncarnationNumber, NodeName

__all__ = [
    "ReportedSnapshotEvent",
    "SnapshotDeleted",
    "SnapshotEvent",
    "SnapshotExpired",
    "SnapshotInvalidated",
    "SnapshotPinned",
    "SnapshotRetried",
    "SnapshotSuperseded",
    "SnapshotUnpinned",
]


class SnapshotSuperseded(AboutSnapshot, frozen=True, tag="snapshot.superseded"):
    """The snapshot came too late: the start of incarnation ``by`` was decided without it. It is not chosen unless it is retried or pinned."""

    by: IncarnationNumber

    def __str__(self) -> str:
        return f"snapshot {self.snapshot_id} came too late: the start of incarnation {self.by} was decided without it"


class SnapshotInvalidated(AboutSnapshot, frozen=True, tag="snapshot.invalidated"):
    """The snapshot proved unusable and is never chosen again."""

    reason: str

    def __str__(self) -> str:
        return f"snapshot {self.snapshot_id} is never chosen again: {self.reason}"


class SnapshotExpired(AboutSnapshot, frozen=True, tag="snapshot.expired"):
    """The snapshot expires, because of ``reason``: it is never chosen again, and deleted from ``delete_after`` on."""

    reason: str
    delete_after: datetime

    def __str__(self) -> str:
        when = to_the_second(self.delete_after)
        return f"snapshot {self.snapshot_id} has expired and may be deleted after {when}: {self.reason}"


class SnapshotDeleted(AboutSnapshot, frozen=True, tag="snapshot.deleted"):
    """No byte of the snapshot is in the store any more. ``node`` is where the worker is that removed it."""

    node: NodeName
    command_id: CommandId

    def __str__(self) -> str:
        return f"snapshot {self.snapshot_id} was deleted by node {self.node}"


class SnapshotPinned(AboutSnapshot, frozen=True, tag="snapshot.pinned"):
    """Somebody wants this snapshot kept, and chosen before all others while it is valid."""

    reason: str = ""

    def __str__(self) -> str:
        return f"snapshot {self.snapshot_id} was pinned{_because(self.reason)}"


class SnapshotUnpinned(AboutSnapshot, frozen=True, tag="snapshot.unpinned"):
    """The snapshot is one like the others again."""

    reason: str = ""

    def __str__(self) -> str:
        return f"snapshot {self.snapshot_id} was unpinned{_because(self.reason)}"


class SnapshotRetried(AboutSnapshot, frozen=True, tag="snapshot.retried"):
    """Somebody wants the snapshot chosen again: failed restores and short lives until now do not count, nor that it was invalidated or superseded."""

    reason: str = ""

    def __str__(self) -> str:
        return f"snapshot {self.snapshot_id} is to be tried again{_because(self.reason)}"


SnapshotEvent = (
    SnapshotSuperseded
    | SnapshotInvalidated
    | SnapshotExpired
    | SnapshotDeleted
    | SnapshotPinned
    | SnapshotUnpinned
    | SnapshotRetried
)
ReportedSnapshotEvent = SnapshotDeleted


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""
