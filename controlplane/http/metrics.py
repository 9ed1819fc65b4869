"""The control plane's numbers: counted from events as they are committed, and read off the state when somebody asks.

Counters begin at zero when this process begins to lead, so a sum over all control planes counts every event once. What only a
leader knows (the state) a standby does not show at all, rather than as zero.
"""

from __future__ import annotations

import asyncio
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import structlog
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from controlplane.bus.report_consumer import PutAside
from controlplane.bus.request_slots import RequestSlots
from controlplane.bus.stream_storage import Use
from controlplane.core.loop import DecisionLoop
from controlplane.domain.clock_skew import is_news
from controlplane.domain.invariants import Rule, violated
from controlplane.domain.state import SnapshotStatus
from controlplane.log.deadletters import DeadLetter
from woodfrog.protocol.events import (
    AnyEvent,
    ColdStartChosen,
    KeyEvent,
    SnapshotCaptured,
    SnapshotStored,
    UnknownEvent,
    event_type,
)
from woodfrog.protocol.events.measures import Metric
from woodfrog.service.http import Page
from woodfrog.service.metrics import (
    QUICK_BUCKETS,
    SECONDS_BUCKETS,
    BoundedLabel,
    Children,
    count_event,
    new_registry,
    page,
)

_log = structlog.get_logger(component="metrics")
_SLICE: Final = 2000
"""How many keys are counted before the event loop has a turn: well under a millisecond."""


class Metrics:
    """All numbers of one control plane, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = new_registry()
        self._loop: DecisionLoop | None = None
        self._counting = asyncio.Lock()
        self._code = BoundedLabel()
        self._type = BoundedLabel()
        registry = self.registry
        self._leading = Gauge(
            "woodfrog_leading", "1 if this control plane leads, 0 if it stands by.", registry=registry
        )
        self._events = Counter(
            "woodfrog_events", "Events that this process has committed to the log.", ["type"], registry=registry
        )
        self._refused = Counter(
            "woodfrog_reports_refused", "Reports that were put aside as dead letters.", ["kind"], registry=registry
        )
        self._commit_seconds = Histogram(
            "woodfrog_commit_seconds",
            "Time to write one batch of events to the log.",
            buckets=QUICK_BUCKETS,
            registry=registry,
        )
        self._resolve_seconds = Histogram(
            "woodfrog_resolve_seconds",
            "Time to answer how to start a container, the wait for the worker's own reports included.",
            buckets=QUICK_BUCKETS,
            registry=registry,
        )
        self._open = Gauge("woodfrog_questions_open", "Questions that are being answered.", registry=registry)
        self._turned_away = Gauge(
            "woodfrog_questions_turned_away",
            "Questions of nodes that had too many open, since this process began to lead; the workers ask again.",
            registry=registry,
        )
        dumps = Counter(
            "woodfrog_dumps", "Dumps that came to an end: stored, or failed.", ["outcome"], registry=registry
        )
        dump_failures = Counter(
            "woodfrog_dump_failures",
            "Dumps that failed, by stage and failure code.",
            ["stage", "code"],
            registry=registry,
        )
        starts = Counter(
            "woodfrog_starts", "Containers that started: restored, or cold.", ["outcome"], registry=registry
        )
        leaving = Counter(
            "woodfrog_starts_leaving_work",
            "Starts decided that leave captured or stored work behind: cold, from an older snapshot, or fresh as was asked for.",
            ["outcome"],
            registry=registry,
        )
        # There from the start: Prometheus does not count a first appearance as an increase.
        for outcome in ("cold", "older", "fresh"):
            leaving.labels(outcome)
        restore_failures = Counter(
            "woodfrog_restore_failures",
            "Restores that failed, by stage and failure code.",
            ["stage", "code"],
            registry=registry,
        )
        self._violations = Counter(
            "woodfrog_invariant_violations",
            "Events that must never happen, by the rule that they break; anything but 0 is a fault of Woodfrog.",
            ["rule"],
            registry=registry,
        )
        for rule in Rule:
            self._violations.labels(rule.value)
        freeze_seconds = Histogram(
            "woodfrog_freeze_seconds",
            "How long containers stood still for a dump.",
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )
        store_seconds = Histogram(
            "woodfrog_store_seconds",
            "Time to store a capture and read it back.",
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )
        create_seconds = Histogram(
            "woodfrog_create_seconds",
            "Time from the runtime's create to its answer.",
            ["outcome"],
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )
        stored_bytes = Counter("woodfrog_stored_bytes", "Bytes that snapshots took in the store.", registry=registry)
        self._of_events: Children = {
            Metric.DUMPS: dumps.labels,
            Metric.DUMP_FAILURES: lambda stage, code: dump_failures.labels(stage, self._code(code)),
            Metric.STARTS: starts.labels,
            Metric.STARTS_LEAVING_WORK: leaving.labels,
            Metric.RESTORE_FAILURES: lambda stage, code: restore_failures.labels(stage, self._code(code)),
            Metric.FREEZE_SECONDS: lambda: freeze_seconds,
            Metric.STORE_SECONDS: lambda: store_seconds,
            Metric.CREATE_SECONDS: create_seconds.labels,
            Metric.STORED_BYTES: lambda: stored_bytes,
        }
        self._storage_bytes = Gauge(
            "woodfrog_nats_storage_bytes", "Bytes of NATS's storage that the streams take.", registry=registry
        )
        self._storage_limit_bytes = Gauge(
            "woodfrog_nats_storage_limit_bytes",
            "Bytes of NATS's storage that there are for streams.",
            registry=registry,
        )
        self._certificate = Gauge(
            "woodfrog_nats_certificate_expires_timestamp_seconds",
            "When the certificate of the NATS server that is connected expires; 0 without TLS.",
            registry=registry,
        )
        self._stream_bytes = Gauge("woodfrog_stream_bytes", "Bytes in a stream.", ["stream"], registry=registry)
        self._stream_limit_bytes = Gauge(
            "woodfrog_stream_limit_bytes",
            "Bytes from which on a stream gives up its oldest messages.",
            ["stream"],
            registry=registry,
        )
        self._census = _Census()
        registry.register(self._census)

    def leads(self, loop: DecisionLoop) -> None:
        """Tell from now on of the state that ``loop`` owns, and count what it commits."""
        self._loop = loop
        self._leading.set(1)
        loop.on_appended = self._appended

    def resolved(self, seconds: float) -> None:
        """Note how long an answer to a worker took."""
        self._resolve_seconds.observe(seconds)

    def answers(self, places: RequestSlots) -> None:
        """Show from now on how many questions are open, and how many found no place."""
        self._open.set_function(lambda: places.taken)
        self._turned_away.set_function(lambda: places.turned_away)

    def connected(self, expires: Callable[[], float | None]) -> None:
        """Show from now on when the certificate of the connection's server expires."""
        self._certificate.set_function(lambda: expires() or 0)

    def streams_use(self, use: Use) -> None:
        """Show what the streams take of the broker's storage."""
        self._storage_bytes.set(use.bytes)
        self._storage_limit_bytes.set(use.limit_bytes)
        for stream, (held, limit) in use.streams.items():
            self._stream_bytes.labels(stream).set(held)
            self._stream_limit_bytes.labels(stream).set(limit)

    def counting(self, put_aside: PutAside) -> PutAside:
        """Count the reports that ``put_aside`` keeps."""

        async def counted(letters: Sequence[DeadLetter]) -> None:
            await put_aside(letters)
            for letter in letters:
                self._refused.labels(str(letter.kind)).inc()

        return counted

    def _appended(self, events: Sequence[AnyEvent], seconds: float) -> None:
        self._commit_seconds.observe(seconds)
        moved = {event.key for event in events if isinstance(event, SnapshotCaptured | SnapshotStored)}
        for event in events:
            self._events.labels(self._type(event_type(event))).inc()
            self._watch(event, settled=getattr(event, "key", None) not in moved)
            if not isinstance(event, UnknownEvent):
                count_event(event, self._of_events)

    def _watch(self, event: AnyEvent, *, settled: bool) -> None:
        """Count a broken rule. The state is that after the whole batch, which may hold a capture that a cold start did not know."""
        if isinstance(event, ColdStartChosen) and not settled:
            return
        key = self._loop.key(event.key) if self._loop is not None and isinstance(event, KeyEvent) else None
        if key is not None and self._loop is not None and (found := violated(event, key, self._loop.nodes())):
            self._violations.labels(found.rule.value).inc()
            _log.error("an invariant is violated", rule=found.rule.value, key=found.key, about=found.about)

    async def page(self) -> Page:
        """Show all numbers, as they are now."""
        async with self._counting:
            if self._loop is not None:
                await self._census.take(self._loop)
            return page(self.registry)


class _Census(Collector):
    """What the state holds, counted in slices so that no input waits for a large one."""

    def __init__(self) -> None:
        self._families: list[Family] = []

    def describe(self) -> Iterable[Family]:
        """Name nothing in advance: a standby has nothing of this."""
        return []

    def collect(self) -> Iterable[Family]:
        """Give what was counted last."""
        return self._families

    async def take(self, loop: DecisionLoop) -> None:
        """Count."""
        running = known = 0
        snapshots: Tally[SnapshotStatus] = Tally()
        for place, key in enumerate(loop.keys(), 1):
            known += 1
            running += any(incarnation.running for incarnation in key.incarnations.values())
            snapshots.update(snapshot.status for snapshot in key.snapshots.values())
            if place % _SLICE == 0:
                await asyncio.sleep(0)
        lost = sum(node.lost for node in loop.nodes().values())
        off = sum(is_news(None, node.clock_offset_seconds) for node in loop.nodes().values() if not node.lost)
        self._families = [
            _gauge("woodfrog_committed_position", "The log's position up to which events are committed.", loop.committed.value),
            _gauge("woodfrog_commands_open", "Commands issued and not finished.", len(loop.open_commands)),
            _gauge("woodfrog_inputs_waiting", "Inputs that wait to be decided.", loop.waiting),
            _gauges("woodfrog_nodes", "Nodes by what is known of them.", "state", heard=len(loop.nodes()) - lost, lost=lost),
            _gauge("woodfrog_namespaces_over_quota", "Namespaces that hold as much as they may.", loop.over_quota()),
            _gauge("woodfrog_nodes_clock_off", "Nodes whose clock is 5 s or more from this control plane's.", off),
            _gauges("woodfrog_ids", "Checkpoint ids: known, and those whose container runs.", "state", known=known, running=running),
            _gauges(
                "woodfrog_snapshots",
                "Snapshots that the state remembers, by status.",
                "status",
                **{status.value: snapshots[status] for status in SnapshotStatus},
            ),
        ]  # fmt: skip


def _gauge(name: str, documentation: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, documentation, value=value)


def _gauges(name: str, documentation: str, label: str, **values: float) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, documentation, labels=[label])
    for value, count in values.items():
        family.add_metric([value], count)
    return family
