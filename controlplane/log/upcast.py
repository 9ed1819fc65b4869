"""Old events read as new ones: the log is never rewritten, so its readers learn every form that was ever written.

An upcast is a pure function from the JSON object of one version of one event type to that of the next. None exists while
every type is at version 1; the first change to an event's meaning adds one here and a golden file to the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from protocol.events import SCHEMA_VERSION, Event

Upcast = Callable[[dict[str, Any]], dict[str, Any]]


class UnreadableEventError(Exception):
    """An event of the log cannot be read by this code: damaged, or written by a newer release."""

    def __init__(self, event_type: str, schema_version: int, problem: str) -> None:
        self.event_type = event_type
        self.schema_version = schema_version
        super().__init__(f"event of type {event_type}, version {schema_version}: {problem}")


class Upcasts:
    """The known upcasts: ``(type, version that it reads)`` to the function that gives the next version."""

    def __init__(self, steps: Mapping[tuple[str, int], Upcast] | None = None, current: int = SCHEMA_VERSION) -> None:
        self._steps = dict(steps or {})
        self._current = current
        self._decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)

    def read(self, event_type: str, schema_version: int, data: str) -> Event:
        """Decode an event as written at ``schema_version``. A type without a step is the same in the next version.

        A version newer than this code knows is read as far as it is understood: newer writers only add fields to a type
        or take a new type, and a reader must survive them during a rolling upgrade.

        Raises:
            UnreadableEventError: if the data is not such an event, or of a type that this code does not know.
        """
        try:
            steps = [
                self._steps[event_type, version]
                for version in range(schema_version, self._current)
                if (event_type, version) in self._steps
            ]
            if not steps:
                return self._decoder.decode(data)
            plain = msgspec.json.decode(data)
            for step in steps:
                plain = step(plain)
            event: Event = msgspec.convert(plain, Event)
        except msgspec.DecodeError as problem:
            raise UnreadableEventError(event_type, schema_version, str(problem)) from problem
        return event


UPCASTS = Upcasts()
"""What the product knows."""
