"""What the log says about an id, told to a person: one line for each event, and why the last start was what it was.

Pure: rows of the view ``events`` in, sentences out. Everything told here was recorded when it happened; nothing is
guessed, so an explanation is as true a week later as on the day.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec

from controlplane.domain.clock_skew import CLOCK_TOLERANCE_SECONDS
from woodfrog.protocol.commands import CheckCommand, Command, DeleteCommand, DumpCommand, PrefetchCommand, StoreCommand
from woodfrog.protocol.events import (
    CheckpointForgotten,
    ColdStartChosen,
    CommandFinished,
    CommandIssued,
    ContainerEnded,
    ContainerStarted,
    DumpFailed,
    DumpStarted,
    Event,
    IncarnationOpened,
    KeyEvent,
    LogHeadSigned,
    NodeClockMeasured,
    NodeEnding,
    NodeLost,
    NodeRegistered,
    NodeReturned,
    NodeSpared,
    PodContainerEnded,
    PodEndCounted,
    PodGone,
    PodReplaced,
    PodScheduled,
    PodTerminating,
    RehearsalOutcome,
    RestoreChosen,
    RestoreFailed,
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
)
from woodfrog.protocol.failures import CAPTURE_REPLACED, QUOTA, Failure
from woodfrog.protocol.ids import IncarnationNumber, SnapshotId

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


class _Told(msgspec.Struct, frozen=True):
    """One event with its place and time, as read from the log."""

    position: int
    at: str
    event: Event


def size(count_bytes: float) -> str:
    """Write a number of bytes for people: ``0 B``, ``1.5 MiB``."""
    unit = _UNITS[0]
    for unit in _UNITS:
        if count_bytes < 1024 or unit == _UNITS[-1]:
            break
        count_bytes /= 1024
    return f"{count_bytes:.0f} {unit}" if unit == "B" else f"{count_bytes:.1f} {unit}"


def moment(text: Any) -> str:
    """Write a moment of a view in UTC to the second, ``2026-11-23 21:45:01``; whatever is none as it is."""
    try:
        return f"{datetime.fromisoformat(str(text)):%Y-%m-%d %H:%M:%S}"
    except ValueError:
        return "" if text is None else str(text)


def describe(row: dict[str, Any]) -> str:
    """Say what happened, in one line. An event of a type that is not known here, from a newer writer, is told as it is."""
    event = _event(row)
    return msgspec.json.encode(row["data"]).decode() if event is None else _TELL[type(event)](event)


def _event(row: dict[str, Any]) -> Event | None:
    try:
        event: Event = msgspec.convert(row["data"], Event)
    except msgspec.ValidationError:
        return None
    return event


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""


def _asked(command: Command) -> str:
    match command:
        case DumpCommand(scheduled=scheduled):
            return "for a dump, as its interval says" if scheduled else "for a dump"
        case DeleteCommand(snapshot_id=snapshot_id):
            return f"to delete snapshot {snapshot_id}"
        case CheckCommand():
            return "whether the container could be captured and restored"
        case StoreCommand(snapshot_id=snapshot_id):
            return f"to store snapshot {snapshot_id} now"
        case PrefetchCommand(snapshot_id=snapshot_id):
            return f"to have snapshot {snapshot_id} ready for a container that is on its way"


def _left(count: int | None, what: str = "") -> str:
    return f"; {count} {what}snapshot{'s' * (count != 1)} with captured work left behind" if count else ""


def _off(offset_seconds: float) -> str:
    if abs(offset_seconds) < CLOCK_TOLERANCE_SECONDS:
        return "is right again"
    return f"is {abs(offset_seconds):.0f} s {'ahead' if offset_seconds > 0 else 'behind'}"


_TELL: dict[type, Callable[[Any], str]] = {
    NodeRegistered: lambda e: f"worker {e.worker_id} began on node {e.node} (CRIU {e.facts.criu_version or 'unknown'})",
    NodeClockMeasured: lambda e: f"the clock of node {e.node} {_off(e.offset_seconds)}",
    NodeLost: lambda e: f"nothing was heard of node {e.node} for {e.silent_seconds:.0f} s",
    NodeReturned: lambda e: f"node {e.node} was heard of again",
    NodeEnding: lambda e: f"node {e.node} is about to be emptied or to end: {e.reason}",
    NodeSpared: lambda e: f"node {e.node} is not about to end any more",
    PodScheduled: lambda e: f"pod {e.pod}{f' of {e.owner}' if e.owner else ''} is to run on node {e.node}",
    PodTerminating: lambda e: (
        f"pod {e.pod} was asked to end within {e.grace_seconds:g} s: {e.why}{f' by {e.by}' if e.by else ''}"
    ),
    PodContainerEnded: lambda e: (
        f"container {e.container} of pod {e.pod} ended with exit code {e.exit_code}: {e.because}"
    ),
    PodGone: lambda e: f"pod {e.pod} is gone",
    PodReplaced: lambda e: f"pod {e.by} was created in place of pod {e.pod} of Job {e.job} ({e.why})",
    PodEndCounted: lambda e: (
        f"the end of pod {e.pod} ({e.why}) counts against the backoffLimit of Job {e.job}: nothing of it was captured"
    ),
    IncarnationOpened: lambda e: f"container {e.container_id} is to be created on node {e.node}",
    StartRefused: lambda e: (
        f"a start on node {e.node} gets no protection: {e.failure}"
        if e.failure.code == QUOTA
        else f"node {e.node} asked for a start that it has no right to: {e.failure}"
    ),
    LogHeadSigned: lambda e: f"the log's head at position {e.position} was signed",
    CheckpointForgotten: lambda e: (
        f"forgotten: nothing was started as this id for {e.idle_seconds:g} s"
        if e.idle_seconds
        else f"forgotten, as was requested{f': {e.reason}' if e.reason else ''}"
    ),
    StartDeferred: lambda e: f"the start waits, until {moment(e.until)} at most: {e.waiting_for}",
    RestoreChosen: lambda e: f"snapshot {e.snapshot_id} was chosen: {e.reason}{_left(e.left, 'newer ')}",
    ColdStartChosen: lambda e: f"a cold start was chosen: {e.reason}{_left(e.left)}",
    RestoreFailed: lambda e: f"snapshot {e.snapshot_id} could not be restored ({e.stage}): {e.failure}",
    ContainerStarted: lambda e: (
        f"the container runs, {f'from snapshot {e.restored_from}' if e.restored_from else 'cold'}"
        f"{''.join(f'; {warning}' for warning in e.warnings)}"
    ),
    ContainerEnded: lambda e: f"the container ended{'' if e.exit_code is None else f' with exit code {e.exit_code}'}",
    DumpStarted: lambda e: f"{'final dump' if e.final else 'dump'} {e.snapshot_id} began ({e.trigger})",
    SnapshotCaptured: lambda e: (
        f"snapshot {e.snapshot_id} was captured: {size(e.raw_bytes)}, frozen for {e.freeze_seconds:.2f} s"
    ),
    SnapshotRehearsed: lambda e: (
        f"a restore of snapshot {e.snapshot_id} was rehearsed in {e.seconds:.1f} s: it can be restored"
        if e.outcome is RehearsalOutcome.RESTORABLE
        else f"a restore of snapshot {e.snapshot_id} {'failed in a rehearsal' if e.outcome is RehearsalOutcome.FAILED else 'was not rehearsed'}: "
        f"{e.failure.cause if e.failure else 'no reason is known'}"
    ),
    SnapshotStoreDelayed: lambda e: (
        f"snapshot {e.snapshot_id} is on node {e.node}, not stored: {e.failure.code} since {e.since:%H:%M}; it is tried again. "
        f"{e.failure}"
    ),
    SnapshotStored: lambda e: (
        f"snapshot {e.snapshot_id} is stored and verified: {size(e.stored_bytes)} in {e.store_seconds:.2f} s"
    ),
    SnapshotImported: lambda e: (
        f"snapshot {e.snapshot_id} was imported, which was {e.origin}: {size(e.stored_bytes)}{_because(e.reason)}"
    ),
    DumpFailed: lambda e: f"dump {e.snapshot_id} failed ({e.stage}): {e.failure}",
    SnapshotSuperseded: lambda e: f"snapshot {e.snapshot_id} came too late: incarnation {e.by} had started without it",
    SnapshotInvalidated: lambda e: f"snapshot {e.snapshot_id} is never chosen again: {e.reason}",
    SnapshotExpired: lambda e: (
        f"snapshot {e.snapshot_id} has expired and may be deleted after {moment(e.delete_after)}: {e.reason}"
    ),
    SnapshotDeleted: lambda e: f"snapshot {e.snapshot_id} was deleted by node {e.node}",
    SnapshotRetried: lambda e: f"snapshot {e.snapshot_id} is to be tried again{_because(e.reason)}",
    SnapshotPinned: lambda e: f"snapshot {e.snapshot_id} was pinned{_because(e.reason)}",
    SnapshotUnpinned: lambda e: f"snapshot {e.snapshot_id} was unpinned{_because(e.reason)}",
    CommandIssued: lambda e: f"command {e.command.command_id} asks node {e.command.node} {_asked(e.command)}",
    CommandFinished: lambda e: f"command {e.command_id} {e.outcome}{f': {e.failure}' if e.failure is not None else ''}",
}


class Explanation(msgspec.Struct, frozen=True):
    """Why a start was what it was."""

    incarnation: IncarnationNumber
    node: str
    choice: str
    """``restored``, ``cold``, or ``undecided`` while nothing was chosen yet."""
    snapshot_id: SnapshotId | None
    reason: str
    sentences: tuple[str, ...]
    """The whole answer, in order."""
    advice: tuple[str, ...]
    """What a person can do, once for each different failure."""


def explain(rows: Iterable[dict[str, Any]]) -> Explanation | None:
    """Explain the last start in the rows of one id, oldest first; ``None`` if there never was one.

    The incarnation before is part of the answer where it bears on the choice: a dump of it that failed is why there is
    nothing newer to resume from.
    """
    told = [_Told(row["position"], moment(row["occurred_at"]), event) for row in rows if (event := _event(row))]
    opened = next((item for item in reversed(told) if isinstance(item.event, IncarnationOpened)), None)
    if opened is None or not isinstance(opened.event, IncarnationOpened):
        return None
    number = opened.event.incarnation
    earlier = [item.event for item in told if item.position < opened.position]
    # A snapshot that this start condemned belongs to the incarnation that it was taken of, and to this story.
    own = [
        item.event
        for item in told
        if item.position >= opened.position
        and isinstance(item.event, KeyEvent)
        and (item.event.incarnation == number or isinstance(item.event, SnapshotInvalidated))
    ]
    choices = [event for event in own if isinstance(event, RestoreChosen | ColdStartChosen)]
    chosen = choices[-1] if choices else None
    failures = [event.failure for event in own if isinstance(event, RestoreFailed)]
    failures += [event.failure for event in _failed_dumps(earlier, number)]
    failures += [event.failure for event in own if isinstance(event, DumpFailed) and _is_told(event)][-1:]
    return Explanation(
        incarnation=number,
        node=opened.event.node,
        choice={RestoreChosen: "restored", ColdStartChosen: "cold", type(None): "undecided"}[type(chosen)],
        snapshot_id=chosen.snapshot_id if isinstance(chosen, RestoreChosen) else None,
        reason=chosen.reason if chosen is not None else "",
        sentences=(
            f"Incarnation {number}: container {opened.event.container_id} on node {opened.event.node}, {opened.at}.",
            *_before(earlier, number),
            *_way(own),
            *_unstored([item.event for item in told]),
        ),
        advice=tuple(dict.fromkeys(f"{failure.code}: {failure.advice}" for failure in failures)),
    )


def _is_told(failed: DumpFailed) -> bool:
    """Whether something was lost by it: a capture in whose place a newer one waits is no loss, and there may be hundreds."""
    return failed.failure.code != CAPTURE_REPLACED


def _failed_dumps(earlier: list[Event], number: IncarnationNumber) -> list[DumpFailed]:
    failed = (event for event in earlier if isinstance(event, DumpFailed) and event.incarnation == number - 1)
    return [event for event in failed if _is_told(event)]


def _before(earlier: list[Event], number: IncarnationNumber) -> list[str]:
    """Tell what the incarnation before left behind."""
    if number == 1:
        return ["It is the first container with this id."]
    before = number - 1
    brought = [event for event in earlier if isinstance(event, SnapshotImported) and event.incarnation == before]
    if brought:
        return [f"Snapshot {brought[-1].snapshot_id} had been imported, which was {brought[-1].origin}."]
    stored = [event for event in earlier if isinstance(event, SnapshotStored) and event.incarnation == before]
    sentences = [f"Incarnation {before} had left {len(stored) or 'no'} stored snapshot{'s' * (len(stored) != 1)}."]
    sentences += [f"Its dump {e.snapshot_id} had failed: {_cause(e.failure)}" for e in _failed_dumps(earlier, number)]
    return sentences


def _way(own: Sequence[Event]) -> list[str]:
    """Tell the way from the question to the running container, or to where it is now."""
    sentences: list[str] = []
    last_failed = next((event for event in reversed(own) if isinstance(event, DumpFailed) and _is_told(event)), None)
    for event in own:
        match event:
            case StartDeferred():
                sentences.append(f"It waited for {event.waiting_for}, until {moment(event.until)} at most.")
            case RestoreChosen():
                reason = f"{event.reason.rstrip('.')}{_left(event.left, 'newer ')}"
                sentences.append(f"Snapshot {event.snapshot_id} was chosen: {_sentence(reason)}")
            case ColdStartChosen():
                reason = f"{event.reason.rstrip('.')}{_left(event.left)}"
                sentences.append(f"It was to start cold: {_sentence(reason)}")
            case RestoreFailed():
                words = f"Restoring snapshot {event.snapshot_id} failed ({event.stage}): {_cause(event.failure)}"
                sentences.append(words)
            case SnapshotInvalidated():
                sentences.append(f"Snapshot {event.snapshot_id} is never chosen again: {_sentence(event.reason)}")
            case ContainerStarted(restored_from=restored_from, warnings=warnings):
                sentences.append(f"It resumes from {restored_from}." if restored_from else "It runs from its image.")
                sentences += [f"But: {_sentence(warning)}" for warning in warnings]
            case DumpFailed() if event is last_failed:
                sentences.append(f"Its dump {event.snapshot_id} failed: {_cause(event.failure)}")
            case ContainerEnded():
                code = "" if event.exit_code is None else f", exit code {event.exit_code}"
                sentences.append(f"It has ended{code}.")
            case _:
                pass
    return sentences


def _unstored(events: Iterable[Event]) -> list[str]:
    """Tell of captures that the store has not taken until now."""
    waiting: dict[SnapshotId, SnapshotStoreDelayed] = {}
    for event in events:
        if isinstance(event, SnapshotStoreDelayed):
            waiting[event.snapshot_id] = event
        elif isinstance(event, SnapshotStored | DumpFailed | SnapshotSuperseded):
            waiting.pop(event.snapshot_id, None)
    return [
        f"Snapshot {name} is on node {e.node} only, not stored since {moment(e.since)}, and is tried again: {_cause(e.failure)}"
        f"{' A container that starts on that node is restored from it meanwhile.' if e.manifest_digest else ''}"
        for name, e in waiting.items()
    ]


def _cause(failure: Failure) -> str:
    return f"{failure.cause.rstrip('.')} ({failure.code})."


def _sentence(text: str) -> str:
    return f"{text.rstrip('.')}."
