"""Outcomes told on the pod as Events, so that ``kubectl describe pod`` says from which snapshot it goes on, or why from none.

They are read from the log, like everything that goes out. An Event's name is made of the pod's uid and the position in the log,
so telling again, after a restart or by a successor, gives an Event that is there already; no cursor is kept. Kubernetes
drops Events after an hour, so what is older than a few minutes when this begins is not told any more.

Telling must not become a load on the API server: one worker, so many a second, and of a pod that is dumped every few seconds
only one success a minute. An Event that cannot be told is given up after a few tries; the log has it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any, Final

import msgspec
import structlog

from controlplane.core.watermark import Watermark
from controlplane.domain.event_time import believed
from controlplane.domain.state import KeyState
from controlplane.kube.api import ApiError, KubernetesApi
from controlplane.log.eventlog import EventLog
from controlplane.log.records import LogUnavailableError, Recorded
from woodfrog.protocol.events import (
    AnyEvent,
    ColdStartChosen,
    ContainerStarted,
    DumpFailed,
    RehearsalOutcome,
    RestoreFailed,
    SnapshotCaptured,
    SnapshotRehearsed,
    SnapshotStored,
    SnapshotStoreDelayed,
    StartRefused,
)
from woodfrog.protocol.failures import CAPTURE_REPLACED, QUOTA
from woodfrog.protocol.ids import CheckpointKey, IncarnationNumber, Position, SnapshotId

_log = structlog.get_logger(component="telling")

CONTROLLER: Final = "woodfrog"
_PAGE: Final = 256
_IDLE_SECONDS: Final = 5.0
_LOOK_BACK: Final = 2000
"""So many events before the end of the log are read first, to know what the next ones are about."""
_OLDEST: Final = timedelta(minutes=10)
_BETWEEN_SNAPSHOTS: Final = timedelta(minutes=1)
_PAUSE_SECONDS: Final = 0.1
"""Between two Events: ten a second at most."""
_TRIES: Final = 3
_REMEMBERED: Final = 20_000
_LONGEST_NOTE_BYTES: Final = 1024
"""What events.k8s.io/v1 takes."""
_RETRY_SECONDS: Final = 1.0


class PodNote(msgspec.Struct, frozen=True):
    """What is told on one pod."""

    namespace: str
    pod: str
    uid: str
    reason: str
    action: str
    note: str
    warning: bool = False


class _Start(msgspec.Struct, frozen=True):
    pod: str
    uid: str


class EventFormatter:
    """Turns events into what their pods are told. Pure but for a short memory; the rest it finds in the live state."""

    def __init__(self, find: Callable[[CheckpointKey], KeyState | None]) -> None:
        self._find = find
        self._frozen: OrderedDict[SnapshotId, float] = OrderedDict()
        self._told: OrderedDict[str, datetime] = OrderedDict()

    def note(self, event: AnyEvent, at: datetime) -> PodNote | None:
        """Say what is to be told because of an event, if anything."""
        match event:
            case SnapshotCaptured():
                _keep(self._frozen, event.snapshot_id, event.freeze_seconds)
            case ContainerStarted(restored_from=str() as snapshot, warnings=warnings):
                key = self._find(event.key)
                known = key.snapshots.get(snapshot) if key is not None else None
                since = known.since if known is not None else None
                age = f", stored {_age(at - since)} ago" if since is not None else ""
                start = key.incarnations.get(event.incarnation) if key is not None else None
                choice = start.choice if start is not None else None
                left = (leaves(choice.left, choice.reason),) if choice is not None and choice.left else ()
                note = "; ".join((f"resumes from snapshot {snapshot}{age}", *left, *warnings))
                return self._about(event, "Restored", "Restore", note, warning=bool(warnings or left))
            case ColdStartChosen(reason=reason, left=left_count, fresh=fresh):
                note = f"starts from its image{f', {leaves(left_count)}' if left_count else ''}: {reason}"
                return self._about(event, "ColdStarted", "Start", note, warning=bool(left_count) and not fresh)
            case SnapshotStored():
                return self._checkpointed(event, at)
            case SnapshotRehearsed():
                return self._rehearsed(event)
            case SnapshotStoreDelayed():
                return self._delayed(event, at)
            case DumpFailed(failure=failure) if (
                failure.code != CAPTURE_REPLACED
            ):  # the newer one has an Event of its own
                note = f"the dump failed while {_STAGES[event.stage]}: {failure.cause}. {failure.advice}"
                return self._about(event, "CheckpointFailed", "Checkpoint", note, warning=True)
            case RestoreFailed(failure=failure):
                note = f"snapshot {event.snapshot_id} could not be restored, another way is sought: {failure.cause}"
                return self._about(event, "RestoreFailed", "Restore", f"{note}. {failure.advice}", warning=True)
            case StartRefused(failure=failure) if failure.code == QUOTA and event.pod and event.pod_uid:
                note = f"starts from its image and without protection: {failure.cause}. {failure.advice}"
                return _note(event.key, _Start(event.pod, event.pod_uid), "Unprotected", "Start", note, warning=True)
            case _:
                pass
        return None

    def _start_of(self, key: CheckpointKey, number: IncarnationNumber) -> _Start | None:
        state = self._find(key)
        start = state.incarnations.get(number) if state is not None else None
        if start is None or start.container.pod is None or start.container.pod_uid is None:
            return None
        return _Start(start.container.pod, start.container.pod_uid)

    def _is_frequent(self, event: SnapshotStored | SnapshotStoreDelayed, at: datetime) -> bool:
        """Whether the same was told of the pod a moment ago; else remember that it is told now."""
        start = self._start_of(event.key, event.incarnation)
        if start is None:
            return False
        name = f"{start.uid} {type(event).__name__}"
        last = self._told.get(name)
        if last is not None and timedelta(0) <= at - last < _BETWEEN_SNAPSHOTS:
            return True
        _keep(self._told, name, at)
        return False

    def _delayed(self, event: SnapshotStoreDelayed, at: datetime) -> PodNote | None:
        if self._is_frequent(event, at):
            return None
        meanwhile = ", can be restored there" if event.manifest_digest else ""
        where = f"snapshot {event.snapshot_id} lies on node {event.node} only{meanwhile}"
        note = f"{where} and is tried again: {event.failure.cause}. {event.failure.advice}"
        return self._about(event, "CheckpointNotStored", "Checkpoint", note, warning=True)

    def _checkpointed(self, event: SnapshotStored, at: datetime) -> PodNote | None:
        if self._is_frequent(event, at):
            return None
        frozen = self._frozen.get(event.snapshot_id)
        pause = f", frozen for {frozen:.2f} s" if frozen is not None else ""
        note = f"snapshot {event.snapshot_id} is stored and verified: {_size(event.stored_bytes)}{pause}"
        return self._about(event, "Checkpointed", "Checkpoint", note)

    def _rehearsed(self, event: SnapshotRehearsed) -> PodNote | None:
        """One that failed is followed by the failure of its dump, which says why."""
        if event.outcome is RehearsalOutcome.RESTORABLE:
            note = f"a restore of snapshot {event.snapshot_id} was rehearsed in {event.seconds:.1f} s"
            return self._about(event, "Rehearsed", "Rehearse", note)
        if event.outcome is RehearsalOutcome.FAILED or event.failure is None:
            return None
        note = f"a restore of snapshot {event.snapshot_id} was not rehearsed: {event.failure.cause}"
        return self._about(event, "NotRehearsed", "Rehearse", note)

    def _about(
        self,
        event: ContainerStarted
        | ColdStartChosen
        | SnapshotStored
        | SnapshotRehearsed
        | SnapshotStoreDelayed
        | DumpFailed
        | RestoreFailed,
        reason: str,
        action: str,
        note: str,
        *,
        warning: bool = False,
    ) -> PodNote | None:
        start = self._start_of(event.key, event.incarnation)
        return None if start is None else _note(event.key, start, reason, action, note, warning=warning)


def _note(key: CheckpointKey, start: _Start, reason: str, action: str, note: str, *, warning: bool) -> PodNote:
    return PodNote(
        namespace=key.namespace,
        pod=start.pod,
        uid=start.uid,
        reason=reason,
        action=action,
        note=_cut(f"{key.id}: {note}", _LONGEST_NOTE_BYTES),
        warning=warning,
    )


def leaves(count: int, reason: str = "") -> str:
    """Say how much captured work a start leaves behind."""
    return f"leaves {count} snapshot{'s' * (count != 1)} with later work behind{f' ({reason})' if reason else ''}"


class EventRecorder:
    """Tells what the log says, while this process leads."""

    def __init__(
        self,
        api: KubernetesApi,
        log: EventLog,
        committed: Watermark,
        find: Callable[[CheckpointKey], KeyState | None],
        *,
        instance: str,
        clock: Callable[[], datetime],
    ) -> None:
        """``find`` shows a key as it is, never behind ``committed``."""
        self._api = api
        self._eventlog = log
        self._committed = committed
        self._instance = instance
        self._clock = clock
        self._formatter = EventFormatter(find)
        self.told = 0

    async def run(self) -> None:
        """Tell until cancelled, whatever the API server and the log do."""
        position = Position(max(0, self._committed.value - _LOOK_BACK))
        while True:
            try:
                if not await self._committed.reached(position + 1, _IDLE_SECONDS):
                    continue
                page = await self._eventlog.read(position, min(_PAGE, self._committed.value - position))
            except LogUnavailableError as problem:
                await _log.awarning("the log is unavailable", error=str(problem))
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            for recorded in page:
                note = self._formatter.note(recorded.event, believed(recorded.occurred_at, recorded.recorded_at))
                if note is not None and self._clock() - recorded.recorded_at < _OLDEST:
                    await self._tell(note, recorded)
                position = recorded.position

    async def _tell(self, note: PodNote, recorded: Recorded) -> None:
        for _ in range(_TRIES):
            await asyncio.sleep(_PAUSE_SECONDS)
            try:
                await self._api.ask(
                    "POST",
                    f"/apis/events.k8s.io/v1/namespaces/{note.namespace}/events",
                    msgspec.Raw,
                    event_object(note, recorded.position, self._clock(), self._instance),
                )
            except ApiError as problem:
                if problem.status == HTTPStatus.CONFLICT:
                    return  # told before
                if (
                    0 < problem.status < HTTPStatus.INTERNAL_SERVER_ERROR
                    and problem.status != HTTPStatus.TOO_MANY_REQUESTS
                ):
                    await _log.awarning("an Event is refused", pod=note.pod, reason=note.reason, error=str(problem))
                    return  # most often the namespace is being deleted
                await asyncio.sleep(max(problem.retry_after_seconds, _RETRY_SECONDS))
            else:
                self.told += 1
                return
        await _log.awarning("an Event is given up", pod=note.pod, reason=note.reason)


def event_object(note: PodNote, position: Position, now: datetime, instance: str) -> dict[str, Any]:
    """Build an events.k8s.io/v1 Event, which Kubernetes serves since 1.19. The same position gives the same name."""
    regarding = {"apiVersion": "v1", "kind": "Pod", "namespace": note.namespace, "name": note.pod, "uid": note.uid}
    return event_about(
        regarding,
        f"{note.uid[:8]}{position:016x}",
        reason=note.reason,
        action=note.action,
        note=note.note,
        warning=note.warning,
        now=now,
        instance=instance,
    )


def event_about(
    regarding: dict[str, str],
    name: str,
    *,
    reason: str,
    action: str,
    note: str,
    warning: bool,
    now: datetime,
    instance: str,
) -> dict[str, Any]:
    """Build an Event about any object; among those about one object, the same ``name`` is the same Event."""
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{regarding['name'][:200]}.{name}", "namespace": regarding["namespace"]},
        "eventTime": now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "type": "Warning" if warning else "Normal",
        "reason": reason,
        "action": action,
        "note": _cut(note, _LONGEST_NOTE_BYTES),
        "regarding": regarding,
        "reportingController": CONTROLLER,
        "reportingInstance": instance[:128] or CONTROLLER,
    }


_STAGES: Final = {
    "preflight": "it was looked into",
    "capture": "the processes were written out",
    "rehearsal": "its restore was rehearsed",
    "store": "it was being stored",
}


def _keep(memory: OrderedDict[Any, Any], name: Any, value: Any) -> None:
    memory[name] = value
    memory.move_to_end(name)
    if len(memory) > _REMEMBERED:
        memory.popitem(last=False)


def _cut(text: str, longest_bytes: int) -> str:
    return text.encode()[:longest_bytes].decode(errors="ignore")


def _age(span: timedelta) -> str:
    seconds = max(0.0, span.total_seconds())
    for unit, length in (("h", 3600.0), ("min", 60.0)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
