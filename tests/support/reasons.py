"""What a person would want to know the reason of, in a log that chaos runs left: cold starts, and whatever failed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from chaos import recording
from msgspec.structs import replace

from controlplane.log import Metadata, NewEvent
from woodfrog.protocol.events import AnyEvent, ColdStartChosen, event_type
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import CheckpointKey

RUNS = sorted((Path(__file__).parents[1] / "chaos/runs").glob("*.jsonl"))


class Case(NamedTuple):
    """One of them."""

    key: CheckpointKey
    position: int
    what: str
    said: tuple[str, ...]
    """What has to be found: the reason, or the failure's cause."""
    advice: str


def recorded() -> list[NewEvent]:
    """Every recorded run, one after the other, each with ids of its own, as if the last had ended a minute ago."""
    events: list[tuple[AnyEvent, datetime]] = []
    for file in RUNS:
        run = list(recording.read(file))
        later = datetime.now(UTC) - timedelta(minutes=1) - run[-1][1]
        events += [(_of_run(event, file.stem), at + later) for event, at in run]
    return [NewEvent(uuid4(), event, Metadata("chaos", "recorded"), at) for event, at in events]


def _of_run(event: Any, run: str) -> Any:
    changed = {}
    if (key := getattr(event, "key", None)) is not None:
        changed["key"] = replace(key, id=f"{run}-{key.id}")
    if (command := getattr(event, "command", None)) is not None:
        changed["command"] = _of_run(command, run)
    return replace(event, **changed) if changed else event


def cases(events: Iterable[NewEvent], first: int = 1) -> Iterator[Case]:
    """Find them; ``first`` is the position of the first event."""
    for position, new in enumerate(events, first):
        key, failure = getattr(new.event, "key", None), getattr(new.event, "failure", None)
        if key is None:
            continue
        if isinstance(new.event, ColdStartChosen):
            yield Case(key, position, event_type(new.event), (new.event.reason,), "")
        elif isinstance(failure, Failure):
            yield Case(key, position, event_type(new.event), (failure.cause, failure.code), failure.advice)
