"""Whether the work of a pod that was ended from outside is kept: what its containers' next start can resume from.

A Job must not pay for a preemption that cost nothing but time (design.md §13.11). Kubernetes cannot know which deletions those
are; the log can. A pod's end counts as captured if the next start of each of its protected containers has a snapshot to resume
from, whoever took it and when: the final dump, a periodic one where the node was lost or the final dump failed, or the one that
the pod itself was restored from. What was done since that snapshot is lost, but the program goes on and did not fail. A container
that was never started lost nothing either.

A dump that lies on its node complete counts, although it is not stored yet: waiting for the upload would hold up the replacement,
and a start waits for it anyway. A dump that was only begun does not count yet; it may fail.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum

from controlplane.domain.pods import ends_undumped, start_of
from controlplane.domain.state import Incarnation, KeyState, NodeState, Snapshot, SnapshotStatus
from woodfrog.protocol.ids import IncarnationNumber, NodeName


class Capture(StrEnum):
    """What became of the work of a pod, or of one of its containers."""

    KEPT = "kept"
    """The next start resumes from a snapshot, or there was nothing to lose."""
    OPEN = "open"
    """Its last dump may still be taken, or is being taken."""
    LOST = "lost"
    """The next start begins from the image."""


def capture_of(key: KeyState, nodes: Mapping[NodeName, NodeState], uid: str, pod: str, *, has_run: bool) -> Capture:
    """Return what became of the container under ``key`` of a pod that was ended from outside.

    ``has_run`` says whether the pod's containers are known to have run; then a log that knows nothing of it has lost it.
    """
    number = start_of(key, uid, pod)
    if any(_can_be_resumed(key, snapshot, number) for snapshot in key.snapshots.values()):
        return Capture.KEPT
    start = key.incarnations.get(number)
    if start is None or start.came_to_nothing or not (start.started or start.ended):
        return Capture.LOST if start is None and has_run else Capture.KEPT
    return Capture.OPEN if _may_be_dumped(key, nodes, start) else Capture.LOST


def together(captures: Iterable[Capture]) -> Capture:
    """Return what became of a pod's work: lost if that of any container is, open if any is open."""
    found = set(captures)
    return next((each for each in (Capture.LOST, Capture.OPEN) if each in found), Capture.KEPT)


def _can_be_resumed(key: KeyState, snapshot: Snapshot, number: IncarnationNumber) -> bool:
    """Whether the snapshot is there for the next start, or was: one that served and has expired since was there."""
    if snapshot.status in {SnapshotStatus.VALID, SnapshotStatus.CAPTURED}:
        return key.has_a_future(snapshot)
    was_valid = bool(snapshot.manifest_digest) and snapshot.status is not SnapshotStatus.INVALIDATED
    return was_valid and snapshot.incarnation == number


def _may_be_dumped(key: KeyState, nodes: Mapping[NodeName, NodeState], start: Incarnation) -> bool:
    """Whether a dump of the start may still come: once a later start runs, its containers ended, or its node is lost, none will."""
    node = None if start.node is None else nodes.get(start.node)
    if node is None or node.lost or key.latest_start > start.number:
        return False
    if any(each.incarnation == start.number and each.status.in_flight for each in key.snapshots.values()):
        return True
    return start.running and not ends_undumped(key, start)
