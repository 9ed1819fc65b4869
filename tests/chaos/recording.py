"""The log of a run as a file, one event a line: what a run leaves can be looked at later as if it were there."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import msgspec

from woodfrog.protocol.events import AnyEvent, Event

from .account import Log


class _Line(msgspec.Struct):
    at: datetime
    event: Event


def write(file: Path, log: Log) -> None:
    """Write a log; ``at`` is when each event occurred."""
    file.write_bytes(b"".join(msgspec.json.encode(_Line(at, event)) + b"\n" for event, at in log))


def read(file: Path) -> Iterable[tuple[AnyEvent, datetime]]:
    """Read what :func:`write` wrote, oldest event first."""
    for line in file.read_bytes().splitlines():
        found = msgspec.json.decode(line, type=_Line)
        yield found.event, found.at
