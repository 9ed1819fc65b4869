"""What the log says about an id, told to a person: one line for each event, and why the last start was what it was.

Pure: rows of the view ``events`` in, sentences out. Everything told here was recorded when it happened; nothing is
guessed, so an explanation is as true a week later as on the day.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec

from woodfrog.protocol.events import (
    CheckpointForgotten,
    ColdStartChosen,
    ContainerEnded,
    ContainerStarted,
    DumpFailed,
    Event,
    IncarnationOpened,
    KeyEvent,
    RestoreChosen,
    RestoreFailed,
    SnapshotImported,
    SnapshotInvalidated,
    SnapshotStored,
    SnapshotStoreDelayed,
    SnapshotSuperseded,
    StartDeferred,
)
from woodfrog.protocol.failures import CAPTURE_REPLACED, Failure
from woodfrog.protocol.ids import IncarnationNumber, SnapshotId


class _Told(msgspec.Struct, frozen=True):
    """One event with its place and time, as read from the log."""

    position: int
    at: str
    event: Event


def moment(text: Any) -> str:
    """Write a moment of a view in UTC to the second, ``2026-11-23 21:45:01``; whatever is none as it is."""
    try:
        return f"{datetime.fromisoformat(str(text)):%Y-%m-%d %H:%M:%S}"
    except ValueError:
        return "" if text is None else str(text)


def describe(row: dict[str, Any]) -> str:
    """Say what happened, in one line. An event of a type that is not known here, from a newer writer, is told as it is."""
    event = _event(row)
    return msgspec.json.encode(row["data"]).decode() if event is None else str(event)


def _event(row: dict[str, Any]) -> Event | None:
    try:
        event: Event = msgspec.convert(row["data"], Event)
    except msgspec.ValidationError:
        return None
    return event


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
    unstored = _unstored(item.event for item in told)
    failures += [event.failure for event in unstored]
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
            *map(_unstored_sentence, unstored),
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
    if not earlier:  # the numbers of forgotten ids are not given again in their namespace; or it is archived
        return ["It is the first container with this id that the log holds."]
    beginning = IncarnationOpened | SnapshotImported
    last = next((event for event in reversed(earlier) if isinstance(event, beginning | CheckpointForgotten)), None)
    if isinstance(last, CheckpointForgotten):
        return ["It is the first container since the id was forgotten."]
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
                reason = f"{event.reason.rstrip('.')}{event.left_behind()}"
                sentences.append(f"Snapshot {event.snapshot_id} was chosen: {_sentence(reason)}")
            case ColdStartChosen():
                reason = f"{event.reason.rstrip('.')}{event.left_behind()}"
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
                sentences.append("It was given up before it ran." if event.never_ran else f"It has ended{code}.")
            case _:
                pass
    return sentences


def _unstored(events: Iterable[Event]) -> list[SnapshotStoreDelayed]:
    """Find the captures that the store has not taken until now."""
    waiting: dict[SnapshotId, SnapshotStoreDelayed] = {}
    for event in events:
        if isinstance(event, SnapshotStoreDelayed):
            waiting[event.snapshot_id] = event
        elif isinstance(event, SnapshotStored | DumpFailed | SnapshotSuperseded):
            waiting.pop(event.snapshot_id, None)
    return list(waiting.values())


def _unstored_sentence(event: SnapshotStoreDelayed) -> str:
    return (
        f"Snapshot {event.snapshot_id} is on node {event.node} only, not stored since {moment(event.since)}, and is tried again: "
        f"{_cause(event.failure)}{' A container that starts on that node is restored from it meanwhile.' if event.manifest_digest else ''}"
    )


def _cause(failure: Failure) -> str:
    return f"{failure.cause.rstrip('.')} ({failure.code})."


def _sentence(text: str) -> str:
    return f"{text.rstrip('.')}."
