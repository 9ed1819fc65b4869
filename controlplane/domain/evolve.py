"""The fold: how one event changes what is known, and the only thing that changes it.

Total by design. The log is the truth, so whatever stands in it has happened; a fold that raised on an odd order of
events would keep the control plane from starting at the very moment when somebody needs to look into the log. What is
unknown is opened as far as the event tells, and what is settled is not unsettled by a word that comes late. Whether a
report is *believed* is asked before it is recorded, in :mod:`controlplane.domain.decide`.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from msgspec.structs import replace

from controlplane.domain.pods import pods_after
from controlplane.domain.state import (
    REMEMBERED,
    REMEMBERED_STORED,
    Cold,
    Incarnation,
    KeyState,
    NodeState,
    Restore,
    Snapshot,
    SnapshotStatus,
    State,
    image_of,
)
from protocol.commands import DeleteCommand, DumpCommand
from protocol.events import (
    AnyEvent,
    ColdStartChosen,
    CommandFinished,
    CommandIssued,
    ContainerEnded,
    ContainerStarted,
    DumpFailed,
    DumpStarted,
    IncarnationOpened,
    KeyEvent,
    NodeEnding,
    NodeEvent,
    NodeLost,
    NodeRegistered,
    NodeReturned,
    NodeSpared,
    Outcome,
    PodFact,
    RestoreChosen,
    RestoreFailed,
    RestoreStage,
    SnapshotCaptured,
    SnapshotDeleted,
    SnapshotExpired,
    SnapshotInvalidated,
    SnapshotPinned,
    SnapshotStored,
    SnapshotSuperseded,
    SnapshotUnpinned,
    StartDeferred,
    UnknownEvent,
)
from protocol.ids import IncarnationNumber

_Upkeep = SnapshotExpired | SnapshotDeleted | SnapshotPinned | SnapshotUnpinned
_SnapshotEvent = (
    DumpStarted
    | SnapshotCaptured
    | SnapshotStored
    | DumpFailed
    | SnapshotSuperseded
    | SnapshotInvalidated
    | SnapshotExpired
    | SnapshotDeleted
    | SnapshotPinned
    | SnapshotUnpinned
)
_FORWARD = tuple(SnapshotStatus)
_FIRST_DELETE_PAUSE_SECONDS = 10.0
_LONGEST_DELETE_PAUSE_SECONDS = 3600.0


def evolve(state: State, event: AnyEvent, at: datetime) -> None:
    """Take ``event``, which occurred ``at``, into ``state``. Never raises, whatever came before.

    What a newer release wrote and this one does not understand changes nothing.
    """
    if isinstance(event, UnknownEvent):
        return
    if isinstance(event, NodeEvent):
        state.nodes[event.node] = _node_after(state.nodes.get(event.node), event, at)
        return
    if isinstance(event, CommandIssued):
        state.commands[event.command.command_id] = event.command
    elif isinstance(event, CommandFinished):
        state.commands.pop(event.command_id, None)
    state.keys[event.key] = key_after(state.keys.get(event.key, KeyState()), event, at)


def key_after(key: KeyState, event: KeyEvent, at: datetime) -> KeyState:
    """Say how the key stands once ``event`` has happened; ``key`` itself stays as it is."""
    if isinstance(event, PodFact):
        return pods_after(key, event, at)
    return _forget(_snapshots_after(_incarnations_after(key, event, at), event, at))


def _incarnations_after(key: KeyState, event: KeyEvent, at: datetime) -> KeyState:
    number = event.incarnation
    incarnation = key.incarnations.get(number, Incarnation(number=number))
    if isinstance(event, CommandIssued | CommandFinished | _Upkeep):
        return _commands_after(key, incarnation, event)
    latest_start = key.latest_start
    match event:
        case IncarnationOpened(node=node, container_id=container_id, container=container):
            # An earlier start that has its answer may be running by now; nobody can tell it to choose again.
            answered = (other.number for other in key.incarnations.values() if other.choice is not None)
            latest_start = max((latest_start, *(other for other in answered if other < number)))
            incarnation = replace(incarnation, node=node, container_id=container_id, container=container, opened_at=at)
        case StartDeferred(until=until):
            incarnation = replace(incarnation, wait_until=incarnation.wait_until or until)
        case RestoreChosen(snapshot_id=snapshot_id, reason=reason):
            incarnation = replace(incarnation, choice=Restore(snapshot_id, reason))
        case ColdStartChosen(reason=reason):
            incarnation = replace(incarnation, choice=Cold(reason))
        case RestoreFailed(snapshot_id=snapshot_id):
            incarnation = replace(incarnation, choice=None, set_aside=incarnation.set_aside | {snapshot_id})
        case ContainerStarted() | DumpStarted():  # what is dumped has started, even if that word was lost
            incarnation = replace(incarnation, started=True)
            latest_start = max(latest_start, number)
        case ContainerEnded():
            incarnation = replace(incarnation, ended=True)
        case _:
            pass
    return replace(key, incarnations={**key.incarnations, number: incarnation}, latest_start=latest_start)


def _commands_after(key: KeyState, incarnation: Incarnation, event: KeyEvent) -> KeyState:
    """Follow the commands to dump an incarnation. Of a snapshot's upkeep it learns nothing: it may be long forgotten."""
    match event:
        case CommandIssued(command=DumpCommand() as command):
            asked = {"dump_asked_at": command.issued_at, "dump_asked_for": key.newest}
            changed = replace(incarnation, dump_command=command.command_id, **asked)
        case CommandFinished(command_id=command_id, outcome=outcome) if incarnation.dump_command == command_id:
            failed = 0 if outcome is Outcome.SUCCEEDED else incarnation.dumps_failed + 1
            changed = replace(incarnation, dump_command=None, dumps_failed=failed)
        case _:
            return key
    return replace(key, incarnations={**key.incarnations, incarnation.number: changed})


def _snapshots_after(key: KeyState, event: KeyEvent, at: datetime) -> KeyState:
    if isinstance(event, CommandIssued | CommandFinished | _Upkeep):
        return _upkeep_after(key, event, at)
    match event:
        case DumpStarted(node=node, final=final):
            changed = [_moved(key, event, at, SnapshotStatus.DUMPING, node=node, final=final)]
        case SnapshotCaptured(node=node):
            changed = [_moved(key, event, at, SnapshotStatus.CAPTURED, node=node)]
        case SnapshotStored(node=node):
            changed = [
                _moved(
                    key,
                    event,
                    at,
                    SnapshotStatus.VALID,
                    node=node,
                    manifest_digest=event.manifest_digest,
                    stored_bytes=event.stored_bytes,
                    taken_on=event.taken_on,
                    taken_from=event.taken_from,
                    missed_by=_missed_by(key, event.incarnation),
                )
            ]
        case DumpFailed(node=node, failure=failure):
            changed = [_moved(key, event, at, SnapshotStatus.FAILED, node=node, note=failure.cause)]
        case SnapshotSuperseded(by=by):
            changed = [_moved(key, event, at, SnapshotStatus.SUPERSEDED, missed_by=by)]
        case SnapshotInvalidated(reason=reason):
            changed = [_moved(key, event, at, SnapshotStatus.INVALIDATED, note=reason)]
        case RestoreFailed():
            changed = [_after_failed_restore(key, snapshot, event) for snapshot in key.snapshots.values()]
        case _:
            return key
    return replace(key, snapshots={**key.snapshots, **{snapshot.snapshot_id: snapshot for snapshot in changed}})


def _upkeep_after(key: KeyState, event: CommandIssued | CommandFinished | _Upkeep, at: datetime) -> KeyState:
    """Follow what happens to a snapshot once it is stored: pins, expiry, deletion and the commands for it."""
    match event:
        case SnapshotExpired(reason=reason):
            before = key.snapshots.get(event.snapshot_id)
            sooner = before.delete_after if before is not None else None
            after = event.delete_after if sooner is None else min(sooner, event.delete_after)
            changed = [_moved(key, event, at, SnapshotStatus.EXPIRED, note=reason, delete_after=after)]
        case SnapshotDeleted():
            changed = [_moved(key, event, at, SnapshotStatus.DELETED, deleting=None)]
        case SnapshotPinned() | SnapshotUnpinned():
            changed = [_moved(key, event, at, SnapshotStatus.DUMPING, pinned=isinstance(event, SnapshotPinned))]
        case CommandIssued(command=DeleteCommand() as command):
            known = key.snapshots.get(command.snapshot_id)
            changed = [] if known is None else [replace(known, deleting=command.command_id)]
        case CommandIssued():
            return key
        case CommandFinished(command_id=command_id):
            changed = [_after_delete(each, at) for each in key.snapshots.values() if each.deleting == command_id]
    if not changed:
        return key
    return replace(key, snapshots={**key.snapshots, **{snapshot.snapshot_id: snapshot for snapshot in changed}})


def _moved(key: KeyState, event: _SnapshotEvent, at: datetime, status: SnapshotStatus, **changes: Any) -> Snapshot:
    """Move the event's snapshot on to ``status``, never back: a late "captured" does not undo "valid"."""
    known = key.snapshots.get(event.snapshot_id, Snapshot(event.snapshot_id, event.incarnation))
    now = max(known.status, status, key=_FORWARD.index)
    since = known.since if now is known.status and known.since is not None else at
    return replace(known, status=now, since=since, **changes)


def _after_delete(snapshot: Snapshot, at: datetime) -> Snapshot:
    """Have a deletion that came to nothing tried again, later each time."""
    if snapshot.status is SnapshotStatus.DELETED:
        return replace(snapshot, deleting=None)
    pause_seconds = min(
        _FIRST_DELETE_PAUSE_SECONDS * 2.0 ** min(snapshot.deletes_failed, 12), _LONGEST_DELETE_PAUSE_SECONDS
    )
    return replace(
        snapshot,
        deleting=None,
        deletes_failed=snapshot.deletes_failed + 1,
        delete_again_at=at + timedelta(seconds=pause_seconds),
    )


def _missed_by(key: KeyState, incarnation: IncarnationNumber) -> IncarnationNumber | None:
    """Name the later incarnation whose answer could not take a snapshot into account that becomes valid only now."""
    if key.latest_start > incarnation:
        return key.latest_start
    newest = key.newest
    return newest if newest > incarnation and key.incarnations[newest].choice is not None else None


def _after_failed_restore(key: KeyState, snapshot: Snapshot, event: RestoreFailed) -> Snapshot:
    """Hold the failure against the snapshot, and let those compete that came too late only for the failed choice.

    A fetch that failed says nothing about the snapshot: the store was away or a disk full. It is set aside for this start
    and no longer, or a store's bad hour would cost every id its newest snapshot.
    """
    if snapshot.snapshot_id == event.snapshot_id and event.stage is not RestoreStage.FETCH:
        tried_in = image_of(key.incarnations[event.incarnation].container)
        return replace(snapshot, failed_on=snapshot.failed_on | {(event.node, tried_in)})
    if snapshot.missed_by == event.incarnation > key.latest_start:
        return replace(snapshot, missed_by=None)
    return snapshot


def _forget(key: KeyState) -> KeyState:
    """Drop what no decision asks for any more, all but the last few."""
    if len(key.snapshots) <= min(REMEMBERED, REMEMBERED_STORED) and len(key.incarnations) <= REMEMBERED:
        return key  # nothing can be over: most keys, most of the time
    over = [snapshot for snapshot in key.snapshots.values() if not key.has_a_future(snapshot)]
    nowhere = [snapshot.snapshot_id for snapshot in over if not snapshot.takes_room]
    stored = [
        snapshot.snapshot_id
        for snapshot in over
        if snapshot.takes_room and snapshot.status is not SnapshotStatus.EXPIRED
    ]
    dropped = frozenset(nowhere[:-REMEMBERED]) | frozenset(stored[:-REMEMBERED_STORED])
    snapshots = {name: snapshot for name, snapshot in key.snapshots.items() if name not in dropped}
    origins = {snapshot.incarnation for snapshot in snapshots.values()}
    unreferred = sorted(number for number in key.incarnations if number not in origins)
    gone = frozenset(unreferred[:-REMEMBERED])
    incarnations = {number: incarnation for number, incarnation in key.incarnations.items() if number not in gone}
    return replace(key, snapshots=snapshots, incarnations=incarnations)


def _node_after(node: NodeState | None, event: NodeEvent, at: datetime) -> NodeState:
    known = node or NodeState(worker_id=event.worker_id)
    match event:
        case NodeRegistered(worker_id=worker_id, facts=facts, boot_id=boot_id):
            earlier = known.earlier_workers
            if known.worker_id != worker_id:
                earlier = (*earlier, known.worker_id)[-REMEMBERED:]
            ending = known.ending_since  # Kubernetes has its reasons, whichever worker lives there
            return NodeState(worker_id, facts, boot_id, since=at, ending_since=ending, earlier_workers=earlier)
        case NodeLost() | NodeReturned():
            if known.worker_id != event.worker_id:
                return known  # an earlier life's loss says nothing of this one
            return replace(known, lost=isinstance(event, NodeLost), since=at)
        case NodeEnding():
            return replace(known, ending_since=known.ending_since or at)
        case NodeSpared():
            return replace(known, ending_since=None)
