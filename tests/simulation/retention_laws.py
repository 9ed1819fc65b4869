"""What must hold of pins, retention, deletions and schedules, told from the log alone and from what is true of the bytes.

Nothing here asks the domain what it thinks: which snapshot is the latest, which are in use and which a policy keeps is found
out anew from the events before, so that a rule left out there is missed here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from controlplane.domain import Policy
from woodfrog.protocol.commands import DeleteCommand, DumpCommand
from woodfrog.protocol.events import (
    ColdStartChosen,
    CommandFinished,
    CommandIssued,
    ContainerEnded,
    ContainerStarted,
    DumpFailed,
    DumpStarted,
    IncarnationOpened,
    KeyEvent,
    RestoreChosen,
    RestoreFailed,
    SnapshotCaptured,
    SnapshotDeleted,
    SnapshotExpired,
    SnapshotInvalidated,
    SnapshotPinned,
    SnapshotRetried,
    SnapshotStored,
    SnapshotStoreDelayed,
    SnapshotSuperseded,
    SnapshotUnpinned,
)
from woodfrog.protocol.facts import ContainerFacts
from woodfrog.protocol.ids import CheckpointKey

from .network import LawBrokenError


@dataclass
class Stored:
    """A snapshot in the log, from ``snapshot.stored`` on."""

    incarnation: int
    order: int
    """Where the log first mentions it."""
    at: datetime
    stored_bytes: int
    missed: set[int]
    """Later starts that had their answer already."""
    proved: bool = False
    """Whether a container resumed from it."""
    usable: bool = True
    """Whether nothing was said that rules it out for ever."""
    expired: bool = False
    delete_after: datetime | None = None
    grace_seconds: float = 0.0
    """Of the policy by which it expired: a later one does not undo that."""
    deleted: bool = False
    unusable_since: datetime | None = None


@dataclass
class Kept:
    """What the log says of one key."""

    snapshots: dict[str, Stored] = field(default_factory=dict)
    first_mention: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Of every dump: its incarnation, and where the log first mentions it."""
    in_flight: dict[str, int] = field(default_factory=dict)
    pinned: set[str] = field(default_factory=set)
    retried: Counter[str] = field(default_factory=Counter)
    """The newest start when somebody had a snapshot retried: what was decided without it until then does not count."""
    opened_at: dict[int, datetime] = field(default_factory=dict)
    nodes: dict[int, str] = field(default_factory=dict)
    containers: dict[int, ContainerFacts] = field(default_factory=dict)
    told: dict[int, str | None] = field(default_factory=dict)
    """Starts that have an answer which was not withdrawn; ``None`` is a cold start."""
    vouched: dict[str, str] = field(default_factory=dict)
    """Captures that are not stored, and their nodes, which could restore them."""
    proved: set[str] = field(default_factory=set)
    """From which containers went on."""
    begun: set[int] = field(default_factory=set)
    """Starts that have begun to run, or have ended."""
    started: set[int] = field(default_factory=set)
    """Those of them that were seen to run."""
    overtaken: set[int] = field(default_factory=set)
    """Starts that were told how when a newer one was opened."""
    came_to_nothing: set[int] = field(default_factory=set)
    """Those of them that never ran."""
    dumps_asked_at: dict[int, datetime] = field(default_factory=dict)
    open_dumps: dict[str, int] = field(default_factory=dict)
    delayed: set[str] = field(default_factory=set)
    """Captures that their stores have refused: they hold up no other dump."""
    failed_in_a_row: dict[int, int] = field(default_factory=dict)

    @property
    def newest(self) -> int:
        """The newest start that did not come to nothing; 0 if there is none."""
        return max(set(self.opened_at) - self.came_to_nothing, default=0)

    @property
    def running(self) -> int:
        """The newest start that ran, or that may have: it was told how when a newer one was opened. It need not run any more."""
        return max((self.started | self.overtaken) - self.came_to_nothing, default=0)

    def note_delayed(self, event: SnapshotStoreDelayed) -> None:
        if event.manifest_digest:
            self.vouched[event.snapshot_id] = event.node
        if event.snapshot_id not in self.delayed:
            self.delayed.add(event.snapshot_id)
            self.open_dumps = {name: of for name, of in self.open_dumps.items() if of != event.incarnation}

    def in_use(self, at: datetime, grace_seconds: float, lost: Mapping[str, bool] | None = None) -> set[str]:
        """Name what containers were told to resume from and may still be reading: once a newer one is opened, for a while only; on nodes that are lost, not."""

        def is_reading(number: int) -> bool:
            if lost and lost.get(self.nodes[number], False):
                return False
            overtaken_at = min(
                (opened_at for other, opened_at in self.opened_at.items() if other > number), default=None
            )
            return overtaken_at is None or at < overtaken_at + timedelta(seconds=grace_seconds)

        return {name for number, name in self.told.items() if name and number not in self.begun and is_reading(number)}

    def newest_first(self) -> list[str]:
        """Name what a start could resume from, pins apart: stored, not ruled out, and not too late."""
        good = [name for name, one in self.snapshots.items() if one.usable and not one.missed]
        return sorted(
            good, key=lambda name: (self.snapshots[name].incarnation, self.snapshots[name].order), reverse=True
        )

    def begin(self, event: ContainerStarted | ContainerEnded) -> None:
        """Note that a start has begun to run, and that what it resumed from restores."""
        self.begun.add(event.incarnation)
        if isinstance(event, ContainerStarted):
            self.started.add(event.incarnation)
        restored_from = getattr(event, "restored_from", None) or ""
        self.proved.add(restored_from)
        proved = self.snapshots.get(restored_from)
        if proved is not None:
            proved.proved = True

    def turn_back(self, number: int) -> None:
        """Note that a start does not go on as it was told: nothing is too late for it any more."""
        self.told.pop(number, None)
        for stored in self.snapshots.values():
            stored.missed.discard(number)

    def line(self, number: int) -> set[str]:
        """Name what a start resumes from: what it was restored from, what that was captured after, and so on."""
        found = set[str]()
        while (name := self.told.get(number)) is not None:
            found.add(name)
            number, _ = self.first_mention[name]
        return found

    def last_proved(self) -> str | None:
        """Name the newest from which a container went on."""
        return next((name for name in self.newest_first() if self.snapshots[name].proved), None)


class Keeping:
    """Watches what becomes of snapshots once they are stored, and when dumps are asked for."""

    def __init__(self) -> None:
        self.policy = Policy()
        self.keys: dict[CheckpointKey, Kept] = {}
        self.deletes: dict[str, DeleteCommand] = {}
        self.scheduled = Counter[tuple[CheckpointKey, int]]()
        """How many dumps of a start were stored that a schedule had asked for; cleared by whoever wants to see it again."""
        self.lost: Mapping[str, bool] = {}
        """Which nodes have not been heard of: nobody who wants something deleted waits for what is there."""
        self.wanted_gone: set[str] = set()
        """Snapshots that somebody asked to be deleted."""
        self.forced: set[str] = set()
        """Those of them that somebody wanted gone at any cost."""
        self._commands: dict[str, DumpCommand] = {}

    def of(self, key: CheckpointKey) -> Kept:
        """Find what the log says of a key."""
        return self.keys.setdefault(key, Kept())

    def recorded(self, event: KeyEvent, at: datetime, position: int) -> None:  # noqa: C901, PLR0912, PLR0915 -- one case for each kind
        """Check an event against those before, and take it in."""
        key = self.of(event.key)
        match event:
            case IncarnationOpened():
                key.overtaken |= set(key.told)
                key.opened_at[event.incarnation] = at
                key.nodes[event.incarnation] = event.node
                key.containers[event.incarnation] = event.container
            case RestoreChosen():
                self._chosen(key, event)
                key.told[event.incarnation] = event.snapshot_id
            case ColdStartChosen():
                key.told[event.incarnation] = None
            case RestoreFailed(snapshot_id=name) if key.told.get(event.incarnation, name) == name:
                key.turn_back(event.incarnation)
            case ContainerEnded(never_ran=True) if event.incarnation not in key.begun:
                key.begun.add(event.incarnation)
                key.came_to_nothing.add(event.incarnation)
                key.turn_back(event.incarnation)
            case ContainerStarted() | ContainerEnded():
                key.begin(event)
            case DumpStarted() | SnapshotCaptured():
                if isinstance(event, DumpStarted):
                    key.begun.add(event.incarnation)
                    key.started.add(event.incarnation)
                key.first_mention.setdefault(event.snapshot_id, (event.incarnation, position))
                key.in_flight.setdefault(event.snapshot_id, event.incarnation)
            case DumpFailed():
                key.in_flight.pop(event.snapshot_id, None)
            case SnapshotStoreDelayed():
                key.first_mention.setdefault(event.snapshot_id, (event.incarnation, position))
                key.note_delayed(event)
            case SnapshotStored():
                self._stored(key, event, at, position)
            case SnapshotSuperseded() | SnapshotInvalidated():
                stored = self._settled(key, event.snapshot_id)
                stored.usable, stored.unusable_since = False, at
            case SnapshotRetried():
                self._retried(key, event)
            case SnapshotPinned():
                if not (stored := self._settled(key, event.snapshot_id)).usable or stored.expired:
                    raise LawBrokenError(f"pinned although it can never be chosen: {event}")
                key.pinned.add(event.snapshot_id)
            case SnapshotUnpinned():
                key.pinned.discard(event.snapshot_id)
            case SnapshotExpired():
                self._expired(key, event, at)
            case SnapshotDeleted():
                stored = self._settled(key, event.snapshot_id)
                if not stored.expired or stored.deleted or event.snapshot_id in key.pinned:
                    raise LawBrokenError(f"deleted what was not to go, or went before: {event}")
                stored.deleted = True
            case CommandIssued(command=DeleteCommand()):
                self._delete_issued(key, event.command, at)
            case CommandIssued(command=DumpCommand()):
                self._dump_issued(key, event.command)
            case CommandFinished():
                self._finished(key, event)
            case _:
                pass

    def interval_seconds(self, name: CheckpointKey, number: int) -> float:
        """Say how often a start is to be dumped: its own word, or the most specific one of the policy."""
        own = self.of(name).containers[number].interval_seconds
        if own is not None:
            return own
        schedule = self.policy.schedule
        for said in (schedule.ids.get((name.namespace, name.id)), schedule.namespaces.get(name.namespace)):
            if said is not None:
                return said
        return schedule.default_seconds

    def left_over(self, at: datetime) -> list[str]:
        """Name what shall go and is still there, or is kept although a policy that counts does not keep it."""
        expired = [
            name
            for key in self.keys.values()
            for name, stored in key.snapshots.items()
            if stored.expired and not stored.deleted
        ]
        return expired + self._not_kept(at)

    def _chosen(self, key: Kept, event: RestoreChosen) -> None:
        stored = key.snapshots.get(event.snapshot_id)
        if stored is None and event.snapshot_id in key.vouched and event.snapshot_id in key.in_flight:
            return  # whether it is by the node that holds it, the law of the best says
        if stored is None or not stored.usable:
            raise LawBrokenError(f"chosen although it was not stored, or was ruled out: {event}")

    def _settled(self, key: Kept, name: str) -> Stored:
        if name not in key.snapshots:
            raise LawBrokenError(f"{name} was never stored, and is spoken of as if it were")
        return key.snapshots[name]

    def _stored(self, key: Kept, event: SnapshotStored, at: datetime, position: int) -> None:
        key.in_flight.pop(event.snapshot_id, None)
        _, order = key.first_mention.setdefault(event.snapshot_id, (event.incarnation, position))
        since = max(event.incarnation, key.retried[event.snapshot_id])
        missed = {number for number in key.told if number > since and event.snapshot_id not in key.line(number)}
        stored = Stored(event.incarnation, order, at, event.stored_bytes, missed)
        stored.proved = event.snapshot_id in key.proved
        key.snapshots[event.snapshot_id] = stored

    def _retried(self, key: Kept, event: SnapshotRetried) -> None:
        key.retried[event.snapshot_id] = max(key.opened_at)
        stored = key.snapshots.get(event.snapshot_id)
        if stored is None:
            return
        if stored.expired:
            raise LawBrokenError(f"taken back although it is to go: {event}")
        stored.usable, stored.unusable_since = True, None
        stored.missed.clear()

    def _expired(self, key: Kept, event: SnapshotExpired, at: datetime) -> None:
        """What expires is neither pinned nor in use, nor the latest unless somebody insists; and a policy says so, or a person."""
        name = event.snapshot_id
        stored = self._settled(key, name)
        if name in key.pinned:
            raise LawBrokenError(f"a pinned snapshot expires: {event}")
        insisted = self.lost if name in self.wanted_gone else None
        if name in key.in_use(at, self.policy.retention.grace_seconds, insisted):
            raise LawBrokenError(f"a snapshot expires from which a container is being restored: {event}")
        ranked = key.newest_first()
        if ranked[:1] == [name] and name not in self.forced:
            raise LawBrokenError(f"the latest valid snapshot expires: {event}")
        if name == key.last_proved() and name not in self.wanted_gone:
            raise LawBrokenError(f"the last snapshot expires that is known to restore: {event}")
        if name not in self.wanted_gone:
            self._expired_by_policy(key, event, stored, at)
        stored.expired, stored.usable = True, False
        stored.grace_seconds = self.policy.retention.grace_seconds
        stored.delete_after = min(stored.delete_after or event.delete_after, event.delete_after)

    def _expired_by_policy(self, key: Kept, event: SnapshotExpired, stored: Stored, at: datetime) -> None:
        retention = self.policy.retention
        by_id = retention.ids.get((event.key.namespace, event.key.id))
        keep = by_id or retention.namespaces.get(event.key.namespace) or retention.default
        if (keep.last, keep.seconds, keep.bytes) == (None, None, None):
            raise LawBrokenError(f"no policy holds, and a snapshot expires: {event}")
        if not stored.usable:
            since = stored.unusable_since
            if since is not None and at - since < timedelta(seconds=retention.unusable_seconds):
                raise LawBrokenError(f"a snapshot expires before its time, unusable since {since}: {event}")
            return
        if stored.missed:
            raise LawBrokenError(f"a snapshot expires that may yet be the latest: {event}")
        newer = [one for one in key.newest_first() if one not in key.pinned]
        newer = newer[: newer.index(event.snapshot_id)]
        counted = keep.last is not None or keep.seconds is not None
        among = keep.last is not None and len(newer) < keep.last
        young = keep.seconds is not None and at - stored.at < timedelta(seconds=keep.seconds)
        room = (
            keep.bytes is None
            or sum(key.snapshots[one].stored_bytes for one in newer) + stored.stored_bytes <= keep.bytes
        )
        if (not counted or among or young) and room:
            raise LawBrokenError(f"a snapshot expires that the policy keeps: {event} under {keep}, behind {newer}")

    def _delete_issued(self, key: Kept, command: DeleteCommand, at: datetime) -> None:
        stored = self._settled(key, command.snapshot_id)
        if not stored.expired or stored.deleted or command.snapshot_id in key.pinned:
            raise LawBrokenError(f"what is not to go is to be deleted: {command}")
        if stored.delete_after is None or at < stored.delete_after:
            raise LawBrokenError(f"it is to be deleted before its time, {stored.delete_after}: {command}")
        reading = key.in_use(at, stored.grace_seconds)
        if command.snapshot_id in reading and command.snapshot_id not in self.wanted_gone:
            raise LawBrokenError(f"what a container is being restored from is to be deleted: {command}")
        if any(command.snapshot_id == other.snapshot_id for other in self.deletes.values()):
            raise LawBrokenError(f"two are to delete one snapshot at once: {command}")
        self.deletes[command.command_id] = command

    def _dump_issued(self, key: Kept, command: DumpCommand) -> None:
        number = command.incarnation
        if command.scheduled:
            under_way = {of for one, of in key.in_flight.items() if one not in key.delayed}
            if number in key.open_dumps.values() or number in under_way:
                raise LawBrokenError(f"a second dump of one container at a time: {command}")
            if number != key.running or number not in key.started:
                raise LawBrokenError(f"a schedule asks for a dump of what does not run: {command}")
            interval = timedelta(seconds=self.interval_seconds(command.key, number))
            before = key.dumps_asked_at.get(number)
            if not interval or (before is not None and command.issued_at < before + interval):
                raise LawBrokenError(f"a schedule asks too soon, {interval} after {before}: {command}")
        key.dumps_asked_at[number] = command.issued_at
        key.open_dumps[command.command_id] = number
        self._commands[command.command_id] = command

    def _finished(self, key: Kept, event: CommandFinished) -> None:
        self.deletes.pop(event.command_id, None)
        key.open_dumps.pop(event.command_id, None)
        command = self._commands.get(event.command_id)
        if command is not None and command.scheduled and event.outcome == "succeeded":
            self.scheduled[event.key, event.incarnation] += 1

    def _not_kept(self, at: datetime) -> list[str]:
        over = []
        for name, key in self.keys.items():
            retention = self.policy.retention
            keep = retention.ids.get((name.namespace, name.id)) or retention.namespaces.get(name.namespace)
            keep = keep or retention.default
            if keep.last is not None and keep.seconds is None:
                unpinned = [one for one in key.newest_first() if one not in key.pinned]
                used = key.in_use(at, retention.grace_seconds)
                over += [one for one in unpinned[keep.last :] if one not in used and one != key.last_proved()]
        return over
