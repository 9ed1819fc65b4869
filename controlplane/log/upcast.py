"""Old events read as new ones: the log is never rewritten, so its readers learn every form that was ever written.

An upcast is a pure function from the JSON object of one version of one event type to that of the next. None exists while
every type is at version 1; the first change to an event's meaning adds one here and a golden file to the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, get_args

import msgspec

from woodfrog.protocol import wire
from woodfrog.protocol.commands import Command
from woodfrog.protocol.events import SCHEMA_VERSION, AnyEvent, CommandIssued, Event, UnknownEvent

_KNOWN_TYPES = {kind.__struct_config__.tag for kind in get_args(Event)}
_COMMAND_FIELDS = {kind.__struct_config__.tag: {"kind", *kind.__struct_fields__} for kind in get_args(Command)}

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
        decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)
        self._decode = decoder.decode

    def read(self, event_type: str, schema_version: int, data: str, stream: str = "") -> AnyEvent:
        """Decode an event as written at ``schema_version``. A type without a step is the same in the next version.

        A version newer than this code knows is read as far as it is understood: newer writers only add fields to a type
        or take a new type, and a reader must survive them during a rolling upgrade. What is not understood at all, a type
        or a command that does not exist here, is answered as an :class:`UnknownEvent` of ``stream``.

        Raises:
            UnreadableEventError: if the data is not such an event.
        """
        try:
            if schema_version >= self._current or not self._steps:
                return self._decode(data)
            steps = [
                self._steps[event_type, version]
                for version in range(schema_version, self._current)
                if (event_type, version) in self._steps
            ]
            if not steps:
                return self._decode(data)
            plain = msgspec.json.decode(data)
            for step in steps:
                plain = step(plain)
            event: Event = msgspec.convert(plain, Event)
        except (msgspec.DecodeError, RecursionError) as problem:
            if self._is_newer(event_type, schema_version, data):
                return UnknownEvent(event_type, stream, data)
            raise UnreadableEventError(event_type, schema_version, wire.shortened(str(problem))) from problem
        return event

    def _is_newer(self, event_type: str, schema_version: int, data: str) -> bool:
        """Whether an event that cannot be read was written by a newer release, and is not merely damaged."""
        try:
            plain = msgspec.json.decode(data)
        except (msgspec.DecodeError, RecursionError):
            return False
        if not isinstance(plain, dict) or plain.get("type") != event_type:
            return False
        if event_type not in _KNOWN_TYPES or schema_version > self._current:
            return True
        command = plain.get("command")
        if event_type != CommandIssued.__struct_config__.tag or not isinstance(command, dict):
            return False
        # Commands are read strictly, so that none is half obeyed; here nobody is to obey, only to read on.
        return bool(command.keys() - _COMMAND_FIELDS.get(command.get("kind"), {"kind"}))


UPCASTS = Upcasts()
"""What the product knows."""
