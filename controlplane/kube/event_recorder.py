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
from controlplane.domain.catalogue import ENTRIES
from controlplane.domain.catalogue.entry import Known
from controlplane.domain.event_time import believed
from controlplane.domain.state import KeyState
from controlplane.kube.api import ApiError, KubernetesApi
from controlplane.log.eventlog import EventLog
from controlplane.log.records import LogUnavailableError, Recorded
from woodfrog.protocol.events import AnyEvent, KeyEvent, SnapshotCaptured, StartRefused, event_type
from woodfrog.protocol.events.base import AboutSnapshot
from woodfrog.protocol.ids import CheckpointKey, Position, SnapshotId

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


class EventFormatter:
    """Turns events into what their pods are told. Pure but for a short memory; the rest it finds in the live state."""

    def __init__(self, find: Callable[[CheckpointKey], KeyState | None]) -> None:
        self._find = find
        self._frozen: OrderedDict[SnapshotId, float] = OrderedDict()
        self._told: OrderedDict[str, datetime] = OrderedDict()

    def note(self, event: AnyEvent, at: datetime) -> PodNote | None:
        """Say what is to be told because of an event, if anything."""
        if isinstance(event, SnapshotCaptured):
            _keep(self._frozen, event.snapshot_id, event.freeze_seconds)
        entry = ENTRIES.get(type(event))
        if entry is None or entry.note is None or not isinstance(event, KeyEvent):
            return None
        key = self._find(event.key)
        freeze_seconds = self._frozen.get(event.snapshot_id) if isinstance(event, AboutSnapshot) else None
        note = entry.note(event, Known(at, key, freeze_seconds))
        pod, uid = _pod_of(event, key)
        if note is None or not pod or not uid:
            return None
        if note.frequent and self._is_told(f"{uid} {event_type(event)}", at):
            return None
        return PodNote(
            namespace=event.key.namespace,
            pod=pod,
            uid=uid,
            reason=note.reason,
            action=note.action,
            note=_cut(f"{event.key.id}: {note.text}", _LONGEST_NOTE_BYTES),
            warning=note.warning,
        )

    def _is_told(self, what: str, at: datetime) -> bool:
        """Whether the same was told of the pod a moment ago; else remember that it is told now."""
        last = self._told.get(what)
        if last is not None and timedelta(0) <= at - last < _BETWEEN_SNAPSHOTS:
            return True
        _keep(self._told, what, at)
        return False


def _pod_of(event: KeyEvent, key: KeyState | None) -> tuple[str | None, str | None]:
    """Return the name and the uid of the pod whose start the event is about; of a start that was refused it says them itself."""
    if isinstance(event, StartRefused):
        return event.pod, event.pod_uid
    start = key.incarnations.get(event.incarnation) if key is not None else None
    return (None, None) if start is None else (start.container.pod, start.container.pod_uid)


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


def _keep(memory: OrderedDict[Any, Any], name: Any, value: Any) -> None:
    memory[name] = value
    memory.move_to_end(name)
    if len(memory) > _REMEMBERED:
        memory.popitem(last=False)


def _cut(text: str, longest_bytes: int) -> str:
    return text.encode()[:longest_bytes].decode(errors="ignore")
