"""The control plane of the simulation: the real decisions in a loop that does what :mod:`controlplane.core.loop` does.

Batches are decided against a provisional state, appended at once, and only then answered and acknowledged. It can be killed
between any two of these, find its disk away, and find that somebody else leads.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple, Protocol

from controlplane.domain import Decision, Input, NodeSilent, Policy, ReportReceived, Tick, decide, evolve
from controlplane.domain.event_time import believed
from woodfrog.protocol import wire
from woodfrog.protocol.events import Event

from .network import Broker, LawBrokenError, Log, LogAwayError, Record

CATCH_UP_SECONDS = 10.0
LOST_SECONDS = 15.0


class Witness(Protocol):
    """Who watches over the laws while the control plane works."""

    def recorded(self, event: Event, at: datetime) -> None:
        """An event stands in the log."""

    def decided(self, given: Input, decision: Decision, now: datetime) -> None:
        """A decision whose events, if any, stand in the log."""


class Pending(NamedTuple):
    """An input that waits to be decided, and what to do with its outcome."""

    given: Input
    settle: Callable[[Decision], None]
    sequence: int = 0
    """Of a report in its stream."""
    generation: int = 0
    """Of that stream, which may have been wiped since."""


class Plane:
    """One life of a control plane."""

    def __init__(self, log: Log, broker: Broker, policy: Policy, witness: Witness, moment: float) -> None:
        self.log = log
        self.broker = broker
        self.policy = policy
        self.witness = witness
        self.epoch = log.take_lead()
        self.state = log.fold()
        self.queue: list[Pending] = []
        self.fed = broker.floor
        self.generation = broker.generation
        self.heard: dict[tuple[str, str], float] = {
            (name, node.worker_id): moment for name, node in self.state.nodes.items()
        }

    def feed(self, count: int) -> bool:
        """Take the next reports out of their stream."""
        if self.generation != self.broker.generation:
            self.generation, self.fed = self.broker.generation, self.broker.floor
        deliveries = self.broker.unacknowledged(self.fed, count)
        for delivery in deliveries:
            given = ReportReceived(delivery.report)
            self.queue.append(Pending(given, lambda _: None, delivery.sequence, self.generation))
            self.fed = delivery.sequence
        return bool(deliveries)

    def watch(self, moment: float, source: str) -> None:
        """Let time pass, and notice who is silent."""
        self.queue.append(Pending(Tick(f"{source}/tick"), lambda _: None))
        for name, node in self.state.nodes.items():
            silent = moment - self.heard.setdefault((name, node.worker_id), moment)
            if not node.lost and silent >= LOST_SECONDS:
                given = NodeSilent(name, node.worker_id, silent, f"{source}/silent/{name}")
                self.queue.append(Pending(given, lambda _: None))

    def commit(self, size: int, now: datetime, mishap: str = "") -> list[tuple[Pending, Decision]]:
        """Decide and append a batch.

        ``mishap`` is ``refused`` (nothing was written), ``unsaid`` (all was written, nobody knows) or empty.

        Raises:
            LogAwayError: after a mishap; the state is folded anew and every report will be delivered again.
            StaleLeadError: somebody else leads, and nothing was written.
        """
        batch, self.queue = self.queue[:size], self.queue[size:]
        made: list[tuple[Pending, Decision, list[Record]]] = []
        known = dict[str, bytes]()
        for pending in batch:
            given = pending.given
            source = given.source
            first = known.get(source, self.log.reported.get(source)) if isinstance(given, ReportReceived) else None
            if isinstance(given, ReportReceived) and first is not None:
                if first != wire.encode(given.report.event):
                    raise LawBrokenError(f"report {source} was recorded as another event")
                made.append((pending, Decision(), []))
                continue
            decision = decide(self.state, given, now, self.policy)
            records = []
            for ordinal, event in enumerate(decision.events):
                told_at = given.report.at if isinstance(given, ReportReceived) and ordinal == 0 else now
                at = believed(told_at, now)
                evolve(self.state, event, at)
                records.append(Record(wire.encode(event), at, source, ordinal))
            if records:
                known[source] = records[0].data
            made.append((pending, decision, records))
        if mishap == "refused":
            self._start_over()
        self.log.append([record for _, _, records in made for record in records], self.epoch)
        for pending, decision, records in made:
            for record, event in zip(records, decision.events, strict=True):
                self.witness.recorded(event, record.at)
            self.witness.decided(pending.given, decision, now)
        if mishap == "unsaid":
            self._start_over()
        return [(pending, decision) for pending, decision, _ in made]

    def settle(self, outcomes: list[tuple[Pending, Decision]]) -> None:
        """Answer whoever asked, and acknowledge what was taken in."""
        for pending, decision in outcomes:
            pending.settle(decision)
            if pending.sequence and pending.generation == self.broker.generation:
                self.broker.floor = max(self.broker.floor, pending.sequence)

    def _start_over(self) -> None:
        """Fold anew; nothing behind the lost batch may overtake it, so the queue goes with it."""
        self.state = self.log.fold()
        self.queue.clear()
        self.fed = self.broker.floor
        raise LogAwayError
