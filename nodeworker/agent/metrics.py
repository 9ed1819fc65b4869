"""The node worker's numbers, and what it tells probes.

Counted from what it reports, once that is in the journal: whatever a worker does that matters, it reports. A worker that is cut off from
NATS is healthy, since it goes on dumping; it is not *ready*, since it can start no protected container.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from prometheus_client import Counter, Gauge, Histogram

from nodeworker.bus import Bus
from nodeworker.disk.reservations import Disk
from nodeworker.dump.dump import Dumper
from nodeworker.dump.uploader import SnapshotUploader
from nodeworker.journal import Journal
from nodeworker.restore.fetch_gate import FetchGate
from woodfrog.protocol.events import ReportedEvent
from woodfrog.protocol.events.measures import Metric
from woodfrog.service.http import Answerer, Page
from woodfrog.service.metrics import SECONDS_BUCKETS, BoundedLabel, Children, count_event, new_registry, page


class Metrics:
    """All numbers of one worker, in a registry of its own."""

    def __init__(
        self, journal: Journal, bus: Bus, dumper: Dumper, uploader: SnapshotUploader, disk: Disk, gate: FetchGate
    ) -> None:
        self.registry = registry = new_registry()
        self._journal = journal
        self._bus = bus
        self._serves = False
        self._code = BoundedLabel()
        dumps = Gauge("woodfrog_worker_dumps_in_flight", "Dumps that are being captured.", registry=registry)
        dumps.set_function(lambda: dumper.in_flight)
        waiting = Gauge("woodfrog_worker_dumps_waiting", "Dumps that wait for their turn.", registry=registry)
        waiting.set_function(lambda: dumper.waiting)
        stores = Gauge("woodfrog_worker_stores_in_flight", "Captures that are being stored.", registry=registry)
        stores.set_function(lambda: uploader.in_flight)
        reserved = Gauge(
            "woodfrog_worker_disk_reserved_bytes",
            "Room on the disk that dumps and fetches have reserved and not used yet.",
            registry=registry,
        )
        reserved.set_function(lambda: disk.reserved_bytes)
        prefetches = Gauge(
            "woodfrog_worker_prefetches_waiting", "Prefetches that wait for their turn.", registry=registry
        )
        prefetches.set_function(lambda: gate.waiting)
        waits = Gauge(
            "woodfrog_worker_captures_waiting",
            "Captures that lie on this node only, because the store does not take them.",
            registry=registry,
        )
        waits.set_function(lambda: len(uploader.unstored))
        connected = Gauge("woodfrog_worker_nats_connected", "1 if NATS can be reached, else 0.", registry=registry)
        connected.set_function(lambda: bus.connected)
        refused = Gauge(
            "woodfrog_worker_reports_refused",
            "1 if NATS has no room for this node's reports, else 0.",
            registry=registry,
        )
        refused.set_function(lambda: bus.reports_refused)
        self._outbox = Gauge(
            "woodfrog_worker_outbox_reports", "Reports that NATS has not confirmed.", registry=registry
        )
        self._containers = Gauge(
            "woodfrog_worker_containers", "Protected containers that the worker knows.", registry=registry
        )
        dumps_ended = Counter(
            "woodfrog_worker_dumps", "Dumps that came to an end: stored, or failed.", ["outcome"], registry=registry
        )
        starts = Counter(
            "woodfrog_worker_starts", "Containers that started: restored, or cold.", ["outcome"], registry=registry
        )
        failures = Counter(
            "woodfrog_worker_failures",
            "Dumps and restores that failed, by stage and failure code.",
            ["what", "stage", "code"],
            registry=registry,
        )
        rehearsals = Counter(
            "woodfrog_worker_rehearsals",
            "Rehearsals of a snapshot's restore: restorable, failed, or not-rehearsed if one was due and not possible.",
            ["outcome"],
            registry=registry,
        )
        stored_bytes = Counter(
            "woodfrog_worker_stored_bytes", "Bytes that snapshots took in the store.", registry=registry
        )
        freeze_seconds = _seconds(self, "freeze", "How long containers stood still for a dump.")
        store_seconds = _seconds(self, "store", "Time to store a capture and read it back.")
        self._fetch_seconds = _seconds(self, "fetch", "Time to fetch and verify a snapshot's images for a restore.")
        self._of_events: Children = {
            Metric.DUMPS: dumps_ended.labels,
            Metric.DUMP_FAILURES: lambda stage, code: failures.labels("dump", stage, self._code(code)),
            Metric.STARTS: starts.labels,
            Metric.RESTORE_FAILURES: lambda stage, code: failures.labels("restore", stage, self._code(code)),
            Metric.REHEARSALS: rehearsals.labels,
            Metric.FREEZE_SECONDS: lambda: freeze_seconds,
            Metric.STORE_SECONDS: lambda: store_seconds,
            Metric.STORED_BYTES: lambda: stored_bytes,
        }
        journal.on_events = self._reported

    def serves(self) -> None:
        """Note that the runtime finds the worker from now on."""
        self._serves = True

    def fetched(self, seconds: float) -> None:
        """Note how long fetching a snapshot took."""
        self._fetch_seconds.observe(seconds)

    def _reported(self, events: Sequence[ReportedEvent]) -> None:
        for event in events:
            count_event(event, self._of_events)

    def pages(self) -> dict[str, Answerer]:
        """Put the worker's pages together, by their paths."""

        async def live() -> Page:
            return Page.verdict(None)  # the event loop answers; the death of any part of it is the process's death

        async def ready() -> Page:
            if not self._serves:
                return Page.verdict("not listening yet")
            return Page.verdict(None if self._bus.connected else "not connected to NATS")

        async def numbers() -> Page:
            self._outbox.set(await asyncio.to_thread(self._journal.outbox_length))
            self._containers.set(len(await asyncio.to_thread(self._journal.containers)))
            return page(self.registry)

        return {"/healthz": live, "/readyz": ready, "/metrics": numbers}


def _seconds(metrics: Metrics, what: str, documentation: str) -> Histogram:
    return Histogram(
        f"woodfrog_worker_{what}_seconds", documentation, buckets=SECONDS_BUCKETS, registry=metrics.registry
    )
