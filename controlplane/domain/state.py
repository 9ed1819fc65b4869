"""What the control plane knows at one point of the log: the fold of all events so far, kept to what decisions need.

Values are frozen and replaced, never changed in place: a decision can look at "the key as it would be after this event"
for the price of copying two small mappings, and a live state can be compared with a replayed one by ``==``. Only
:func:`controlplane.domain.evolve` puts new values in.

What is kept of a key is bounded: everything that may still be chosen or waited for, and of the rest the last
:data:`REMEMBERED`, which is enough to explain a choice and to recognise a report that is delivered twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Final

import msgspec

from woodfrog.protocol.commands import Command
from woodfrog.protocol.facts import ContainerFacts, NodeFacts
from woodfrog.protocol.ids import (
    CheckpointKey,
    CommandId,
    ContainerId,
    IncarnationNumber,
    NodeName,
    SnapshotId,
    WorkerId,
)

REMEMBERED = 8
"""How many snapshots that can never be chosen, ended incarnations and earlier lives of a worker are kept."""
REMEMBERED_PODS = 8
"""How many pods of a key are kept, those that are gone dropped first."""
REMEMBERED_STORED = 64
"""How many snapshots that can never be chosen, but still take room in the store, are kept: to be deleted some day."""


class SnapshotStatus(StrEnum):
    """How far a snapshot has come; it only ever moves down this list, unless it is retried. Only ``VALID`` may be chosen."""

    DUMPING = "dumping"
    CAPTURED = "captured"
    VALID = "valid"
    SUPERSEDED = "superseded"
    FAILED = "failed"
    INVALIDATED = "invalidated"
    EXPIRED = "expired"
    DELETED = "deleted"

    @property
    def in_flight(self) -> bool:
        """Whether the snapshot may yet become valid."""
        return self in {SnapshotStatus.DUMPING, SnapshotStatus.CAPTURED}

    @property
    def was_stored(self) -> bool:
        """Whether a snapshot comes to it only after it was stored."""
        return not self.in_flight and self is not SnapshotStatus.FAILED


RULED_OUT: Final = frozenset({SnapshotStatus.SUPERSEDED, SnapshotStatus.INVALIDATED})
"""Of snapshots that are stored and from which no start resumes, until somebody has them retried."""
_RANK: Final[Mapping[str, int]] = {status: rank for rank, status in enumerate(SnapshotStatus)}


def moves_on(status: str, to: str) -> bool:
    """Return whether a snapshot of ``status`` moves on ``to`` another: a late "captured" does not undo "valid"."""
    return _RANK[to] > _RANK[status]


class Snapshot(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One snapshot of a key, from the first word of its dump to its end."""

    snapshot_id: SnapshotId
    incarnation: IncarnationNumber
    node: NodeName | None = None
    status: SnapshotStatus = SnapshotStatus.DUMPING
    final: bool = False
    manifest_digest: str = ""
    """Known once valid."""
    local_digest: str = ""
    """Of the manifest of the capture on its node, which can restore it while the store does not take it."""
    taken_on: NodeFacts = NodeFacts()
    taken_from: ContainerFacts = ContainerFacts()
    failed_on: frozenset[tuple[NodeName, str]] = frozenset()
    """Where restoring it failed, as (node, :func:`image_of` the container that tried)."""
    retried_at: IncarnationNumber = IncarnationNumber(0)
    """The newest incarnation when somebody wanted it tried again; how those until then ended does not count against it."""
    missed_by: IncarnationNumber | None = None
    """The later incarnation that had its answer already when this one became valid."""
    note: str = ""
    """Why it is not stored yet, failed, was superseded, was invalidated or has expired, for people."""
    since: datetime | None = None
    """When it came to its present status, by the clock of whoever told."""
    stored_bytes: int = 0
    proved: bool = False
    """Whether a container has resumed from it: what was only read back may still fail to restore."""
    pinned: bool = False
    journal_gone: bool = False
    """Whether it failed for no other reason than that its node registered with another journal; the one that knew it may come back."""
    delete_after: datetime | None = None
    """From when on its bytes may be removed; known once expired."""
    deleting: CommandId | None = None
    """The command that is to remove its bytes, while it is open."""
    deletes_failed: int = 0
    delete_again_at: datetime | None = None
    """Before this, no other command to remove it is given."""

    def waits_on(self, node: NodeName) -> bool:
        """Whether it is not stored and that node, which captured it, can restore it nevertheless."""
        return self.status is SnapshotStatus.CAPTURED and bool(self.local_digest) and self.node == node

    @property
    def is_delayed(self) -> bool:
        """Whether it is whole on its node and waits there, because the store has not taken it."""
        return self.status is SnapshotStatus.CAPTURED and bool(self.note)

    @property
    def is_under_way(self) -> bool:
        """Whether it is being dumped or stored: what others wait for. One that waits for its store may wait for days."""
        return self.status.in_flight and not self.is_delayed

    def is_due(self, now: datetime) -> bool:
        """Whether it has expired and its bytes may be removed by now."""
        return self.status is SnapshotStatus.EXPIRED and self.delete_after is not None and self.delete_after <= now

    @property
    def takes_room(self) -> bool:
        """Whether the store holds bytes of it that somebody will have to remove."""
        return bool(self.manifest_digest) and self.status is not SnapshotStatus.DELETED


class Cold(msgspec.Struct, frozen=True, gc=False, tag="cold"):
    """Start from the image, because of ``reason``."""

    reason: str
    fresh: bool = False
    """Whether it was requested; later starts do not go back before it either."""
    left: int = 0
    """How many snapshots with captured or stored work it leaves behind."""


class Restore(msgspec.Struct, frozen=True, gc=False, tag="restore"):
    """Go on from ``snapshot_id``; ``reason`` says why from this one and from no newer one."""

    snapshot_id: SnapshotId
    reason: str
    left: int = 0
    """How many newer snapshots with captured or stored work it leaves behind."""


class Incarnation(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One start of a container under a key."""

    number: IncarnationNumber
    node: NodeName | None = None
    container_id: ContainerId | None = None
    container: ContainerFacts = ContainerFacts()
    create_id: str = ""
    """Of the create that its worker asks about; empty from older workers."""
    opened_at: datetime | None = None
    wait_until: datetime | None = None
    """The end of its hand-over wait; set once, so that asking again does not prolong the wait."""
    choice: Restore | Cold | None = None
    """What it was told; ``None`` before, and again after a restore that failed."""
    set_aside: frozenset[SnapshotId] = frozenset()
    """Snapshots that this start tried in vain, or had as its answer before the present one."""
    too_much: Mapping[SnapshotId, str] = {}
    """Why, of each whose failure was reported."""
    overtaken: bool = False
    """Whether a newer one was opened when it had its answer: it may run by now, and nobody can tell it to choose again."""
    started: bool = False
    started_at: datetime | None = None
    ended: bool = False
    ended_at: datetime | None = None
    exit_code: int | None = None
    """Known once it has ended, where anybody knows."""
    stopped: bool | None = None
    """Whether it was sent a stop signal before it ended."""
    never_ran: bool = False
    """Whether its worker is sure that its processes never ran."""
    out_of_memory: bool = False
    """Whether the kubelet says that it ended for want of memory."""
    dump_command: CommandId | None = None
    """The command to dump it that is open."""
    dump_asked_at: datetime | None = None
    """When a dump of it was last commanded, by the control plane's clock."""
    dump_asked_for: IncarnationNumber = IncarnationNumber(0)
    """Which incarnation was the newest then: a successor's wish, if it is not this one itself."""
    dumps_failed: int = 0
    """How many commands to dump it have failed one after the other."""

    @property
    def resumes_from(self) -> SnapshotId | None:
        """The snapshot in its answer; ``None`` if it has none, or starts from its image."""
        return self.choice.snapshot_id if isinstance(self.choice, Restore) else None

    @property
    def running(self) -> bool:
        """Whether its container is known to run."""
        return self.started and not self.ended

    @property
    def came_to_nothing(self) -> bool:
        """Whether it was given up before its processes ran."""
        return self.never_ran and not self.started

    @property
    def went_on(self) -> bool:
        """Whether its processes have run, or may have."""
        return self.started or (self.overtaken and not self.never_ran)


class Pod(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What was seen of one pod with a container under the key; which start is its own says :mod:`controlplane.domain.pods`."""

    name: str
    uid: str
    node: NodeName | None = None
    terminating_at: datetime | None = None
    """When it was asked to end, by the control plane's clock."""
    grace_seconds: float = 0.0
    why: str = ""
    dumps_at_stop: bool = True
    gone_at: datetime | None = None
    """When it was seen that the API does not know it any more, by the control plane's clock."""


class KeyState(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """All that may matter about one checkpoint key."""

    incarnations: Mapping[IncarnationNumber, Incarnation] = {}
    snapshots: Mapping[SnapshotId, Snapshot] = {}
    """In the order in which the log first mentions them. Dumps of one container follow one another, so within an
    incarnation this is the order of capture, whatever a node's clock says and however long an upload takes."""
    latest_start: IncarnationNumber = IncarnationNumber(0)
    """The newest incarnation that has started, or may have: it had its answer when a newer one was opened, and did not come to
    nothing. What an older one stores from now on comes too late."""
    pods: Mapping[str, Pod] = {}
    """By uid, in the order in which they were first seen."""
    done_through: IncarnationNumber = IncarnationNumber(0)
    """The newest incarnation whose program has done its work; what comes after it does not go back before its end."""
    used_at: datetime | None = None
    """When something last happened under it that is not mere housekeeping."""
    fresh_since: IncarnationNumber = IncarnationNumber(0)
    """The newest incarnation that started fresh because it was requested; nothing before it is resumed."""
    fresh_used: tuple[str, ...] = ()
    """The last wishes for a fresh start that were fulfilled; each counts once."""

    @property
    def newest(self) -> IncarnationNumber:
        """The number of the newest incarnation; 0 if there is none."""
        return max(self.incarnations, default=IncarnationNumber(0))

    @property
    def current(self) -> Incarnation | None:
        """The newest incarnation that did not come to nothing: what a person means by the id's container. ``None`` if there is none."""
        return max(
            (start for start in self.incarnations.values() if not start.came_to_nothing),
            key=lambda start: start.number,
            default=None,
        )

    @property
    def running(self) -> Incarnation | None:
        """The container whose work is the id's: that of the newest start that ran, while it runs. ``None`` if there is none.

        A newer start that was opened may wait, or never come about; until it runs, this one is dumped, drained and stopped.
        """
        start = self.incarnations.get(self.latest_start)
        return start if start is not None and start.running else None

    def newest_first(self) -> list[Snapshot]:
        """Snapshots in the order of the selection law: newest incarnation first, then newest dump."""
        return sorted(self.snapshots.values(), key=lambda snapshot: snapshot.incarnation)[::-1]

    def candidates(self) -> list[Snapshot]:
        """Snapshots in the order in which they are considered: pinned ones before all others."""
        return sorted(self.newest_first(), key=lambda snapshot: not snapshot.pinned)

    def has_a_future(self, snapshot: Snapshot) -> bool:
        """Whether the snapshot is valid, or may become so and still be chosen."""
        if snapshot.status.in_flight:
            return not self.misses(self.latest_start, snapshot)
        return snapshot.status is SnapshotStatus.VALID

    def misses(self, number: IncarnationNumber, snapshot: Snapshot) -> bool:
        """Whether a snapshot that is not valid yet comes too late for a start, and nobody has had it retried since."""
        is_later = number > max(snapshot.incarnation, snapshot.retried_at)
        return is_later and not self._descends(number, snapshot)

    def _descends(self, number: IncarnationNumber, snapshot: Snapshot) -> bool:
        """Whether a start resumes from the snapshot, or from one that was captured after another start had resumed from it."""
        while (start := self.incarnations.get(number)) is not None and start.resumes_from is not None:
            if start.resumes_from == snapshot.snapshot_id:
                return True
            origin = self.snapshots.get(start.resumes_from)
            if origin is None or not snapshot.incarnation < origin.incarnation < number:
                return False
            number = origin.incarnation
        return False

    def too_late(self) -> list[Snapshot]:
        """Valid snapshots whose turn has passed: a later incarnation has gone on without them."""
        return [
            snapshot
            for snapshot in self.snapshots.values()
            if snapshot.status is SnapshotStatus.VALID
            and snapshot.missed_by is not None
            and snapshot.missed_by <= self.latest_start
        ]


class NodeState(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What is known of one node. ``since`` is when it was registered, lost or heard of again, whichever was last."""

    worker_id: WorkerId
    facts: NodeFacts = NodeFacts()
    boot_id: str = ""
    lost: bool = False
    since: datetime | None = None
    ending_since: datetime | None = None
    """Since when it is about to end, if it is."""
    earlier_workers: tuple[WorkerId, ...] = ()
    journal: str = ""
    """Identity of its worker's journal, as far as it is known."""
    clock_offset_seconds: float | None = None
    """By how much its clock was ahead of the control plane's, if it ever was worth recording."""


class Usage(msgspec.Struct, frozen=True, gc=False):
    """What the keys of one namespace come to."""

    ids: int = 0
    bytes: int = 0
    """In the store."""


class State(msgspec.Struct):
    """Everything, at one position of the log. ``commands`` holds the open ones only."""

    keys: dict[CheckpointKey, KeyState] = {}
    nodes: dict[NodeName, NodeState] = {}
    commands: dict[CommandId, Command] = {}
    floors: dict[str, IncarnationNumber] = {}
    """By :func:`namespace_of`: no key that becomes known is given a number that is not above this."""
    usage: dict[str, Usage] = {}
    """By :func:`namespace_of`; follows from ``keys``."""


def namespace_of(key: CheckpointKey) -> str:
    """Name a key's namespace among those of all clusters."""
    return f"{key.cluster}/{key.namespace}"


def usage_of(key: KeyState | None) -> Usage:
    """Say what one key takes; one under which nothing was ever started takes nothing."""
    if key is None:
        return Usage()
    taken = sum(snapshot.stored_bytes for snapshot in key.snapshots.values() if snapshot.takes_room)
    return Usage(int(bool(key.incarnations)), taken)


def count_usage(usage: dict[str, Usage], name: CheckpointKey, before: KeyState | None, after: KeyState | None) -> None:
    """Bring ``usage`` up to date once a key has become another."""
    was, now = usage_of(before), usage_of(after)
    if was == now:
        return
    namespace = namespace_of(name)
    total = usage.get(namespace, Usage())
    total = Usage(total.ids + now.ids - was.ids, total.bytes + now.bytes - was.bytes)
    if total == Usage():
        usage.pop(namespace, None)
    else:
        usage[namespace] = total


def image_of(container: ContainerFacts) -> str:
    """Name a container's image as exactly as is known."""
    return container.image_digest or container.image or ""
