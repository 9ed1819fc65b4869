"""Golden files: how each event was written by each version. ``python -m support.golden`` (in ``tests/``) writes today's.

A file is never changed once it is released: it stands for what is in people's logs. Whoever changes how an event is written
raises ``SCHEMA_VERSION``, adds an upcast for the old form, and writes the new version's files.
"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from msgspec.structs import replace

from support.examples import example
from woodfrog.protocol import wire
from woodfrog.protocol.commands import Command
from woodfrog.protocol.events import SCHEMA_VERSION, CommandIssued, Event, event_type
from woodfrog.protocol.pods import POD_EVENT_VERSION, Happened, PodEvent, kind_of

FOLDER = Path(__file__).parents[1] / "golden"


def today() -> dict[str, Event]:
    """One example of everything that is written today, every field filled, by the name of its file."""
    events: dict[str, Event] = {event_type(event): event for event in map(example, get_args(Event))}
    issued = example(CommandIssued)
    del events[event_type(issued)]
    for kind in get_args(Command):
        command = example(kind)
        events[f"{event_type(issued)}.{kind.__struct_config__.tag}"] = CommandIssued(
            key=issued.key, incarnation=issued.incarnation, command=command
        )
    return events


def path_of(version: int, name: str, *, of: str = "v") -> Path:
    """Say where a file lies."""
    return FOLDER / f"{of}{version}" / f"{name}.json"


if __name__ == "__main__":
    for name, event in today().items():
        path = path_of(SCHEMA_VERSION, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(wire.encode(event) + b"\n")
    about: PodEvent = example(PodEvent)
    for happened in map(example, get_args(Happened)):
        path = path_of(POD_EVENT_VERSION, kind_of(happened), of="pods-v")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(wire.encode(replace(about, happened=happened)) + b"\n")
