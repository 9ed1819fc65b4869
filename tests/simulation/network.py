"""What the simulated world is made of besides programs: a log that refuses and forgets nothing, and a broker that does both.

The log keeps bytes, not objects: whoever replays it decodes what a database would have held. The broker is as JetStream is: what
it confirmed it delivers in order and at least once, until somebody wipes it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

import msgspec

from controlplane.domain import State, evolve
from woodfrog.protocol.commands import Command
from woodfrog.protocol.events import Event
from woodfrog.protocol.reports import Report

_read = msgspec.json.Decoder(Event).decode  # one decoder for all: a union's is dear to make


class LawBrokenError(AssertionError):
    """What must hold did not; the message says which law, and by what."""


class LogAwayError(Exception):
    """The disk did not take the batch, or took it and could not say so."""


class StaleLeadError(Exception):
    """Somebody else leads."""


class Record(NamedTuple):
    """One event as the disk holds it."""

    data: bytes
    at: datetime
    source: str
    ordinal: int

    def event(self) -> Event:
        return _read(self.data)


class Log:
    """An append-only log with a fence, all or nothing per batch."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.reported: dict[str, bytes] = {}
        """What was recorded first of each source."""
        self.epoch = 0

    def take_lead(self) -> int:
        self.epoch += 1
        return self.epoch

    def check_lead(self, epoch: int) -> None:
        if epoch != self.epoch:
            raise StaleLeadError

    def append(self, batch: list[Record], epoch: int) -> None:
        self.check_lead(epoch)
        for record in batch:
            if record.ordinal == 0 and self.reported.setdefault(record.source, record.data) is not record.data:
                raise LawBrokenError(f"{record.source} was recorded twice")
        self.records += batch

    def fold(self) -> State:
        state = State()
        for record in self.records:
            evolve(state, record.event(), record.at)
        return state


class Delivery(NamedTuple):
    """A report in the stream."""

    sequence: int
    report: Report


@dataclass
class Broker:
    """The streams. ``floor`` is the sequence up to which the control plane acknowledged, ``relayed`` what AUDIT holds."""

    reports: list[Delivery] = field(default_factory=list)
    last: int = 0
    floor: int = 0
    relayed: int = 0
    seen: set[int] = field(default_factory=set)
    """Message ids within the duplicate window."""
    late: list[Report] = field(default_factory=list)
    """Copies that are still on their way although a later one was confirmed."""
    commands: dict[str, deque[Command]] = field(default_factory=dict)
    generation: int = 0

    def take(self, report: Report) -> int:
        """Store a report unless its id is known; answer its sequence."""
        if report.report_id.int not in self.seen:
            self.seen.add(report.report_id.int)
            self.last += 1
            self.reports.append(Delivery(self.last, report))
        return self.last

    def wipe(self) -> list[Report]:
        """Lose everything; answer the reports that were confirmed to a worker and never taken in."""
        lost = [delivery.report for delivery in self.reports if delivery.sequence > self.floor]
        self.reports, self.late, self.seen, self.commands = [], [], set(), {}
        self.last = self.floor = self.relayed = 0
        self.generation += 1
        return lost

    def unacknowledged(self, after: int, count: int) -> list[Delivery]:
        """Answer the next reports behind a sequence."""
        return self.reports[after : after + count]
