"""The fold: how one event changes what is known, and the only thing that changes it.

Total by design. The log is the truth, so whatever stands in it has happened; a fold that raised on an odd order of
events would keep the control plane from starting at the very moment when somebody needs to look into the log. What is
unknown is opened as far as the event tells, and what is settled is not unsettled by a word that comes late. Whether a
report is *believed* is asked before it is recorded, in :mod:`controlplane.domain.decide`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final

from msgspec.structs import replace

from controlplane.domain import fresh_starts, imported
from controlplane.domain.delays import as_opened, note_delayed
from controlplane.domain.draft import Draft, shared, with_shared_privileges
from controlplane.domain.pods import pods_after
from controlplane.domain.start_outcomes import is_done
from controlplane.domain.state import (
    REMEMBERED,
    Cold,
    KeyState,
    NodeState,
    Restore,
    Snapshot,
    SnapshotStatus,
    State,
    count_usage,
    image_of,
    namespace_of,
)
from woodfrog.protocol.commands import DeleteCommand, DumpCommand
from woodfrog.protocol.events import (
    AnyEvent,
    CheckpointForgotten,
    ColdStartChosen,
    CommandFinished,
    CommandIssued,
    ContainerEnded,
    ContainerStarted,
    DumpFailed,
    DumpStarted,
    IncarnationOpened,
    JobOutcome,
    KeyEvent,
    LogHeadSigned,
    NodeClockMeasured,
    NodeEnding,
    NodeEvent,
    NodeLost,
    NodeRegistered,
    NodeReturned,
    NodeSpared,
    Outcome,
    PodContainerEnded,
    PodEndCounted,
    PodFact,
    PodGone,
    PodReplaced,
    PodScheduled,
    PodTerminating,
    RestoreChosen,
    RestoreFailed,
    RestoreStage,
    SnapshotCaptured,
    SnapshotDeleted,
    SnapshotExpired,
    SnapshotImported,
    SnapshotInvalidated,
    SnapshotPinned,
    SnapshotRehearsed,
    SnapshotRetried,
    SnapshotStored,
    SnapshotStoreDelayed,
    SnapshotSuperseded,
    SnapshotUnpinned,
    StartDeferred,
    StartRefused,
    UnknownEvent,
)
from woodfrog.protocol.failures import PASSING_CODES, TOLD_CODES
from woodfrog.protocol.ids import CheckpointKey, IncarnationNumber
from woodfrog.protocol.pods import EndedBecause

_FIRST_DELETE_PAUSE_SECONDS = 10.0
_LONGEST_DELETE_PAUSE_SECONDS = 3600.0


def evolve(state: State, event: AnyEvent, at: datetime) -> None:
    """Take ``event``, which occurred ``at``, into ``state``. Never raises, whatever came before.

    What a newer release wrote and this one does not understand changes nothing.
    """
    if isinstance(event, _CHANGING_NOTHING):
        return
    if isinstance(event, NodeEvent):
        state.nodes[event.node] = _node_after(state.nodes.get(event.node), event, at)
        return
    _follow_commands(state, event)
    before = state.keys.get(event.key)
    if isinstance(event, CheckpointForgotten):
        _forget(state, event, before)
        return
    after = state.keys[event.key] = key_after(before or _NOTHING, event, at)
    if type(event) in _MOVING_BYTES or bool(after.incarnations) != (before is not None and bool(before.incarnations)):
        count_usage(state.usage, event.key, before, after)


def key_after(key: KeyState, event: KeyEvent, at: datetime) -> KeyState:
    """Say how the key stands once ``event`` has happened; ``key`` itself stays as it is."""
    draft = Draft.of(key)
    _take(draft, event, at)
    return draft.ended()


class Replay:
    """Many events taken into one state, for whoever owns it alone: ends as :func:`evolve` would, in half the time.

    A key that is met is copied once and changed in place until :meth:`end`; nothing may be read from the state before.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._drafts: dict[CheckpointKey, Draft] = {}

    def take(self, event: AnyEvent, at: datetime) -> None:
        """Do as :func:`evolve`."""
        if isinstance(event, _CHANGING_NOTHING):
            return
        if isinstance(event, NodeEvent):
            self._state.nodes[event.node] = _node_after(self._state.nodes.get(event.node), event, at)
            return
        _follow_commands(self._state, event)
        draft = self._drafts.get(event.key)
        if isinstance(event, CheckpointForgotten):
            self._drafts.pop(event.key, None)
            _forget(self._state, event, None if draft is None else draft.ended())
            return
        if draft is None:
            draft = self._drafts[event.key] = Draft.of(self._state.keys.get(event.key, _NOTHING))
        _take(draft, event, at)

    def end(self) -> State:
        """Give the state back; nothing more can be taken."""
        keys = self._state.keys
        while self._drafts:  # each goes as its value comes, so that they are not all there twice
            key, draft = self._drafts.popitem()
            keys[key] = draft.ended()
        self._state.usage.clear()
        for key, ended in keys.items():
            count_usage(self._state.usage, key, None, ended)
        return self._state


_NOTHING = KeyState()
_CHANGING_NOTHING = UnknownEvent | StartRefused | LogHeadSigned
"""What a worker was refused makes no key known: it may have named any."""


def _follow_commands(state: State, event: KeyEvent) -> None:
    if isinstance(event, CommandIssued):
        state.commands[event.command.command_id] = event.command
    elif isinstance(event, CommandFinished):
        state.commands.pop(event.command_id, None)


def _forget(state: State, event: CheckpointForgotten, key: KeyState | None) -> None:
    """Drop a key, and keep that its numbers were given."""
    known = key or state.keys.get(event.key)
    newest = max(event.incarnation, IncarnationNumber(0) if known is None else known.newest)
    namespace = namespace_of(event.key)
    state.floors[namespace] = max(newest, state.floors.get(namespace, newest))
    count_usage(state.usage, event.key, state.keys.pop(event.key, None), None)


def _take(draft: Draft, event: KeyEvent, at: datetime) -> None:
    if type(event) not in _HOUSEKEEPING and (draft.used_at is None or at > draft.used_at):
        draft.used_at = at
    _FOLDS[type(event)](draft, event, at)
    draft.forget()


def _opened(draft: Draft, event: IncarnationOpened, at: datetime) -> None:
    # An earlier start that has its answer may be running by now; nobody can tell it to choose again.
    for number, other in draft.incarnations.items():
        if draft.latest_start < number < event.incarnation and other.choice is not None:
            draft.latest_start = number
    draft.start(
        event.incarnation,
        node=event.node,
        container_id=event.container_id,
        container=with_shared_privileges(event.container),
        opened_at=at,
    )


def _deferred(draft: Draft, event: StartDeferred, _at: datetime) -> None:
    known = draft.incarnations.get(event.incarnation)
    if known is None or known.wait_until is None:
        draft.start(event.incarnation, wait_until=event.until)


def _restore_chosen(draft: Draft, event: RestoreChosen, _at: datetime) -> None:
    draft.start(event.incarnation, choice=Restore(event.snapshot_id, event.reason, event.left))


def _cold_start_chosen(draft: Draft, event: ColdStartChosen, _at: datetime) -> None:
    draft.start(event.incarnation, choice=Cold(event.reason, event.fresh, event.left or 0))


def _restore_failed(draft: Draft, event: RestoreFailed, _at: datetime) -> None:
    """Hold the failure against the snapshot, and let those compete that came too late only for the failed choice.

    A fetch that failed says nothing about the snapshot: the store was away or a disk full. Neither does a port that was taken or
    a file that was not mounted. It is set aside for this start and no longer, or a bad hour would cost every id its newest snapshot.
    """
    number = event.incarnation
    known = draft.incarnations.get(number)
    draft.start(
        number,
        choice=None,
        set_aside=frozenset({event.snapshot_id}) | (frozenset() if known is None else known.set_aside),
    )
    if event.failure.code in TOLD_CODES:
        told = draft.incarnations[number].too_much
        draft.start(number, too_much={**told, event.snapshot_id: event.failure.cause})
    tried_in = image_of(draft.incarnations[number].container)
    for name, snapshot in draft.snapshots.items():
        if (
            name == event.snapshot_id
            and event.stage is not RestoreStage.FETCH
            and event.failure.code not in PASSING_CODES
        ):
            changed = replace(snapshot, failed_on=snapshot.failed_on | {(event.node, tried_in)})
        elif snapshot.missed_by == number > draft.latest_start:
            changed = replace(snapshot, missed_by=None)
        else:
            continue
        draft.snapshots[name] = changed


def _has_started(draft: Draft, event: ContainerStarted | DumpStarted) -> None:
    draft.start(event.incarnation, started=True)
    draft.latest_start = max(draft.latest_start, event.incarnation)
    fresh_starts.note_started(draft, event.incarnation)


def _container_started(draft: Draft, event: ContainerStarted, at: datetime) -> None:
    _has_started(draft, event)
    draft.start(event.incarnation, started_at=at)
    proved = None if event.restored_from is None else draft.snapshots.get(event.restored_from)
    if proved is not None:
        draft.snapshots[proved.snapshot_id] = replace(proved, proved=True)


def _container_ended(draft: Draft, event: ContainerEnded, at: datetime) -> None:
    known = draft.incarnations.get(event.incarnation)
    exit_code = event.exit_code if event.exit_code is not None or known is None else known.exit_code
    draft.start(event.incarnation, ended=True, ended_at=at, exit_code=exit_code, stopped=event.stopped)
    _look_whether_done(draft, event.incarnation)


def _look_whether_done(draft: Draft, number: IncarnationNumber) -> None:
    if is_done(draft.ended(), draft.incarnations[number]):
        draft.done_through = max(draft.done_through, number)


def _dump_started(draft: Draft, event: DumpStarted, at: datetime) -> None:
    _has_started(draft, event)  # what is dumped has started, even if that word was lost
    draft.move(event, at, SnapshotStatus.DUMPING, node=event.node, final=event.final)


def _captured(draft: Draft, event: SnapshotCaptured, at: datetime) -> None:
    draft.start(event.incarnation)
    draft.move(event, at, SnapshotStatus.CAPTURED, node=event.node)


def _stored(draft: Draft, event: SnapshotStored, at: datetime) -> None:
    draft.start(event.incarnation)
    draft.move(
        event,
        at,
        SnapshotStatus.VALID,
        node=event.node,
        manifest_digest=event.manifest_digest,
        local_digest="",
        stored_bytes=event.stored_bytes,
        taken_on=shared(event.taken_on),
        taken_from=with_shared_privileges(as_opened(draft, event.incarnation, event.taken_from)),
        missed_by=_missed_by(draft, event),
    )


def _dump_failed(draft: Draft, event: DumpFailed, at: datetime) -> None:
    draft.start(event.incarnation)
    draft.move(event, at, SnapshotStatus.FAILED, node=event.node, note=event.failure.cause)


def _superseded(draft: Draft, event: SnapshotSuperseded, at: datetime) -> None:
    draft.start(event.incarnation)
    draft.move(event, at, SnapshotStatus.SUPERSEDED, missed_by=event.by)


def _invalidated(draft: Draft, event: SnapshotInvalidated, at: datetime) -> None:
    draft.start(event.incarnation)
    draft.move(event, at, SnapshotStatus.INVALIDATED, note=event.reason)


# What follows is a snapshot's upkeep once it is stored. Of that its incarnation learns nothing: it may be long forgotten.


def _expired(draft: Draft, event: SnapshotExpired, at: datetime) -> None:
    before = draft.snapshots.get(event.snapshot_id)
    sooner = before.delete_after if before is not None else None
    after = event.delete_after if sooner is None else min(sooner, event.delete_after)
    draft.move(event, at, SnapshotStatus.EXPIRED, note=event.reason, delete_after=after)


def _deleted(draft: Draft, event: SnapshotDeleted, at: datetime) -> None:
    draft.move(event, at, SnapshotStatus.DELETED, deleting=None)


def _pinned(draft: Draft, event: SnapshotPinned, at: datetime) -> None:
    draft.set(event, at, pinned=True)


def _unpinned(draft: Draft, event: SnapshotUnpinned, at: datetime) -> None:
    draft.set(event, at, pinned=False)


def _retried(draft: Draft, event: SnapshotRetried, _at: datetime) -> None:
    known = draft.snapshots.get(event.snapshot_id)
    if known is not None:
        status = SnapshotStatus.VALID if known.status is SnapshotStatus.INVALIDATED else known.status
        newest = max(draft.incarnations, default=event.incarnation)
        draft.snapshots[event.snapshot_id] = replace(known, status=status, failed_on=frozenset(), retried_at=newest)


def _command_issued(draft: Draft, event: CommandIssued, _at: datetime) -> None:
    command = event.command
    if isinstance(command, DumpCommand):
        newest = max(draft.incarnations, default=IncarnationNumber(0))
        asked = {"dump_asked_at": command.issued_at, "dump_asked_for": newest}
        draft.start(event.incarnation, dump_command=command.command_id, **asked)
    elif isinstance(command, DeleteCommand) and command.snapshot_id in draft.snapshots:
        known = draft.snapshots[command.snapshot_id]
        draft.snapshots[command.snapshot_id] = replace(known, deleting=command.command_id)


def _command_finished(draft: Draft, event: CommandFinished, at: datetime) -> None:
    known = draft.incarnations.get(event.incarnation)
    if known is not None and known.dump_command == event.command_id:
        failed = 0 if event.outcome is Outcome.SUCCEEDED else known.dumps_failed + 1
        draft.start(event.incarnation, dump_command=None, dumps_failed=failed)
    for name, snapshot in draft.snapshots.items():
        if snapshot.deleting == event.command_id:
            draft.snapshots[name] = _after_delete(snapshot, at)


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


def _missed_by(draft: Draft, event: SnapshotStored) -> IncarnationNumber | None:
    """Name the later incarnation whose answer could not take a snapshot into account that becomes valid only now."""
    known = draft.snapshots.get(event.snapshot_id)
    newest = max(draft.incarnations, default=event.incarnation)
    has_answer = newest in draft.incarnations and draft.incarnations[newest].choice is not None
    starts: list[IncarnationNumber] = [draft.latest_start, *([newest] if has_answer else [])]
    for later in starts:
        if later > event.incarnation and not (known is not None and draft.ended().descends(later, known)):
            return later
    return None


def _pod_seen(draft: Draft, event: PodFact, at: datetime) -> None:
    draft.pods = pods_after(draft.ended(), event, at).pods
    if isinstance(event, PodContainerEnded) and event.incarnation in draft.incarnations:
        out_of_memory = event.because is EndedBecause.OOM_KILLED
        draft.start(event.incarnation, exit_code=event.exit_code, out_of_memory=out_of_memory)
        _look_whether_done(draft, event.incarnation)


_MOVING_BYTES: Final = frozenset(
    {
        SnapshotStored,
        SnapshotImported,
        SnapshotDeleted,
        SnapshotSuperseded,
        SnapshotInvalidated,
        SnapshotExpired,
        DumpFailed,
    }
)
"""After which a key may have other bytes in the store, as far as it is remembered."""

_HOUSEKEEPING: Final = frozenset(
    {SnapshotSuperseded, SnapshotInvalidated, SnapshotExpired, SnapshotDeleted, CommandIssued, CommandFinished}
)
"""What happens to a key that nobody uses."""


def _noted(
    _draft: Draft, _event: JobOutcome | StartRefused | CheckpointForgotten | SnapshotRehearsed, _at: datetime
) -> None:
    """Change nothing: no decision about a key depends on what was done about a Job, or on what was refused.

    A rehearsal that failed is followed by the failure of its dump.
    """


_FOLDS: dict[type[KeyEvent], Callable[[Draft, Any, datetime], None]] = {
    IncarnationOpened: _opened,
    StartRefused: _noted,
    CheckpointForgotten: _noted,
    StartDeferred: _deferred,
    RestoreChosen: _restore_chosen,
    ColdStartChosen: _cold_start_chosen,
    RestoreFailed: _restore_failed,
    ContainerStarted: _container_started,
    ContainerEnded: _container_ended,
    DumpStarted: _dump_started,
    SnapshotCaptured: _captured,
    SnapshotRehearsed: _noted,
    SnapshotStoreDelayed: note_delayed,
    SnapshotStored: _stored,
    SnapshotImported: imported.take,
    DumpFailed: _dump_failed,
    SnapshotSuperseded: _superseded,
    SnapshotInvalidated: _invalidated,
    SnapshotExpired: _expired,
    SnapshotDeleted: _deleted,
    SnapshotPinned: _pinned,
    SnapshotUnpinned: _unpinned,
    SnapshotRetried: _retried,
    CommandIssued: _command_issued,
    CommandFinished: _command_finished,
    PodScheduled: _pod_seen,
    PodTerminating: _pod_seen,
    PodContainerEnded: _pod_seen,
    PodGone: _pod_seen,
    PodReplaced: _noted,
    PodEndCounted: _noted,
}


def _node_after(node: NodeState | None, event: NodeEvent, at: datetime) -> NodeState:
    known = node or NodeState(worker_id=event.worker_id)
    match event:
        case NodeRegistered(worker_id=worker_id, facts=facts, boot_id=boot_id, journal=journal):
            earlier = known.earlier_workers
            if known.worker_id != worker_id:
                earlier = (*earlier, known.worker_id)[-REMEMBERED:]
            ending = known.ending_since  # Kubernetes has its reasons, whichever worker lives there
            return NodeState(
                worker_id,
                facts,
                boot_id,
                since=at,
                ending_since=ending,
                earlier_workers=earlier,
                journal=journal or known.journal,
            )
        case NodeLost() | NodeReturned():
            if known.worker_id != event.worker_id:
                return known  # an earlier life's loss says nothing of this one
            return replace(known, lost=isinstance(event, NodeLost), since=at)
        case NodeClockMeasured(offset_seconds=offset_seconds):
            if known.worker_id != event.worker_id:
                return known
            return replace(known, clock_offset_seconds=offset_seconds)
        case NodeEnding():
            return replace(known, ending_since=known.ending_since or at)
        case NodeSpared():
            return replace(known, ending_since=None)
