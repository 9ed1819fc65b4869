"""What every event has: the subject that it is about, a sentence for people, and what is counted of it.

An event names its key or node, so that read alone, by an auditor on NATS or in SQL, it makes sense. Its ``str`` is a
sentence: what happened, in one line.

Like every value that is made by the million (``gc=False``), an event is kept from Python's cyclic collector: frozen, it cannot
be part of a cycle.
"""

from __future__ import annotations

import msgspec

from woodfrog.protocol.events.measures import Measure
from woodfrog.protocol.ids import CheckpointKey, IncarnationNumber, NodeName, SnapshotId, WorkerId


class EventBase(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag_field="type"):
    """What was recorded, or reported to be recorded."""

    def measures(self) -> tuple[Measure, ...]:
        """Return what is counted of it; of most events nothing."""
        return ()


class AboutNode(EventBase, frozen=True, kw_only=True):
    """An event of a node."""

    node: NodeName
    worker_id: WorkerId


class AboutKey(EventBase, frozen=True, kw_only=True):
    """An event of a checkpoint key."""

    key: CheckpointKey
    incarnation: IncarnationNumber


class AboutSnapshot(AboutKey, frozen=True):
    """An event of one snapshot of a key; ``incarnation`` is the one that it was taken of."""

    snapshot_id: SnapshotId


class AboutPod(AboutKey, frozen=True):
    """An event of a pod with a container under the key; ``incarnation`` is 0 where no start is known that belongs to the pod."""

    pod: str
    uid: str
