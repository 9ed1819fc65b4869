"""What a restart of an id would do now, and what would be lost by it: whoever asks why a start was what it was wants to know that next.

Decided as :mod:`controlplane.core.what_if` does, for the node of the id's last container, and nothing is changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from controlplane import describe
from controlplane.core import what_if
from controlplane.domain import Policy, State, evolve
from controlplane.domain.state import Incarnation, KeyState
from woodfrog.protocol.events import ContainerEnded
from woodfrog.protocol.ids import CheckpointKey, SnapshotId

_UNITS: Final = (("day", 86400.0), ("hour", 3600.0), ("minute", 60.0), ("second", 1.0))


class NextStart(msgspec.Struct, frozen=True):
    """How the next container of an id would start."""

    node: str
    answer: str
    """``restore``, ``wait``, ``cold`` or ``refused``."""
    snapshot_id: SnapshotId | None
    """From which it would resume; of a container that runs, if that ended without another dump."""
    reason: str
    lost_seconds: float | None
    """How long the last container ran after what the next one would resume from; ``None`` if that is not known or makes no sense."""
    sentences: tuple[str, ...]


def next_start(
    own: Sequence[Mapping[str, Any]], of_node: Iterable[Mapping[str, Any]], key: CheckpointKey, now: datetime
) -> NextStart | None:
    """Say it, from rows of ``events`` as people get them: the id's own, oldest first, and those of the node of its last container.

    ``None`` if nothing is known of the id, or of its node.

    Raises:
        UnreadableEventError: a newer release wrote one of them.
    """
    state = what_if.fold(sorted(map(_as_in_the_log, (*own, *of_node)), key=lambda row: row["position"]))
    history = state.keys.get(key)
    last = None if history is None else history.running or history.current
    if history is None or last is None or last.node is None:
        return None
    for choice in what_if.choices(state, key, [last.node], now, Policy()):
        sentences, at_worst = [f"A start on node {choice.node} now would {_would(choice)}."], choice
        if choice.answer == "wait" and last.running:
            at_worst = _without_a_dump(state, key, last, now) or choice
            if at_worst.answer != "wait":
                sentences.append(f"If the container ended before that without a dump, it would {_would(at_worst)}.")
        name = None if at_worst.snapshot_id is None else SnapshotId(at_worst.snapshot_id)
        lost = None if name is None else _lost_seconds(history, last, name, _captured_at(own, name), now)
        sentences += _loss(last, at_worst, lost)
        return NextStart(choice.node, choice.answer, name, choice.reason, lost, tuple(sentences))
    return None


def _without_a_dump(state: State, key: CheckpointKey, last: Incarnation, now: datetime) -> what_if.Choice | None:
    """Say how the next container would start had this one just ended by itself, as when its node fails."""
    if last.node is None or last.container_id is None:
        return None
    evolve(state, ContainerEnded(key=key, incarnation=last.number, node=last.node, container_id=last.container_id), now)
    return next(iter(what_if.choices(state, key, [last.node], now, Policy())), None)


def _as_in_the_log(row: Mapping[str, Any]) -> Mapping[str, Any]:
    moments = {name: datetime.fromisoformat(str(row[name])) for name in ("occurred_at", "recorded_at")}
    return {**row, **moments, "data": msgspec.json.encode(row["data"])}


def _captured_at(own: Iterable[Mapping[str, Any]], name: SnapshotId) -> datetime | None:
    for row in own:
        if row["type"] == "snapshot.captured" and row["data"]["snapshot_id"] == name:
            return datetime.fromisoformat(str(row["occurred_at"]))
    return None


def _lost_seconds(
    history: KeyState, last: Incarnation, name: SnapshotId, captured_at: datetime | None, now: datetime
) -> float | None:
    snapshot = history.snapshots.get(name)
    if snapshot is None or last.started_at is None:
        return None
    if snapshot.incarnation >= last.number and (
        snapshot.final or captured_at is None
    ):  # its end, or brought from elsewhere
        return 0.0
    if captured_at is None:
        return None
    return max(0.0, ((last.ended_at or now) - max(captured_at, last.started_at)).total_seconds())


def _would(choice: what_if.Choice) -> str:
    reason = choice.reason.rstrip(".")
    match choice.answer:
        case "restore":
            return f"resume from snapshot {choice.snapshot_id}: {reason}"
        case "wait":
            return f"wait for {reason}, until {describe.moment(choice.until)} at most"
        case "refused":
            return f"be refused: {reason}"
        case _:
            return f"be cold: {reason}"


def _loss(last: Incarnation, choice: what_if.Choice, lost_seconds: float | None) -> list[str]:
    if last.started_at is None or (last.ended and last.exit_code == 0 and not last.stopped):
        return []
    if choice.answer == "cold":
        return ["All that the container did would be lost."]
    if lost_seconds is None:
        return []
    if not lost_seconds:
        return ["Nothing that the container did would be lost."]
    return [f"What the container did in the last {_span(lost_seconds)} would be lost."]


def _span(seconds: float) -> str:
    unit, length = next((each for each in _UNITS if seconds >= 2 * each[1]), ("second", 1.0))
    return f"{seconds / length:.0f} {unit}{'' if round(seconds / length) == 1 else 's'}"
