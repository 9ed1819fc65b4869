"""What a real control plane and a worker's journal show over HTTP, and the page that explains it."""

from __future__ import annotations

import asyncio
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from nats.aio.client import Client
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from support.servers import ControlPlaneProcess, NatsServer, wait_for
from support.worker import Worker, snapshot_name

from controlplane.domain.invariants import Rule
from controlplane.http.health_pages import Health
from controlplane.http.metrics import Metrics
from nodeworker.agent.metrics import Metrics as WorkerMetrics
from nodeworker.disk.reservations import Disk
from nodeworker.journal import Journal
from nodeworker.restore.fetch_gate import FetchGate
from woodfrog.protocol.events import DumpFailed, DumpStage, RestoreFailed, RestoreStage
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import CheckpointKey, IncarnationNumber, NodeName, SnapshotId, WorkerId

pytestmark = [pytest.mark.nats, pytest.mark.timeout(60)]

PAGE = Path(__file__).parents[4] / "docs/reference/metrics.md"
FAILURE = Failure("disk-full", "There is no room.", "Make some.")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def shown(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, refusal.read().decode()
    except OSError:
        return 0, ""


def numbers(text: str) -> dict[str, float]:
    """Read samples by name and labels' values, e.g. ``woodfrog_nodes/lost``."""
    return {
        "/".join([sample.name, *(value for label, value in sample.labels.items() if label != "le")]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("woodfrog") and not sample.name.endswith("_created")
    }


async def test_a_leader_counts_what_it_commits_and_a_standby_is_as_ready(
    make_control_plane: Callable[..., ControlPlaneProcess], tmp_path: Path, client: Client
) -> None:
    shared = {"WOODFROG_DATABASE_URL": f"sqlite+aiosqlite:///{tmp_path / 'shared.db'}"}
    ports = [free_port(), free_port()]
    leader, standby = (make_control_plane(WOODFROG_HTTP_ADDRESS=f"127.0.0.1:{port}", **shared) for port in ports)
    leader.start()
    standby.spawn()
    worker = Worker(client)
    await worker.register()
    incarnation = await worker.run_container("c1")
    await worker.say(
        *worker.snapshot(snapshot_name(1), incarnation),
        DumpFailed(
            key=CheckpointKey("local", "default", "job"), incarnation=incarnation, snapshot_id=SnapshotId(snapshot_name(2)),
            node=worker.node, stage=DumpStage.PREFLIGHT, failure=FAILURE,
        ),
    )  # fmt: skip
    await worker.send_bytes(b"{", "nonsense")
    await worker.taken_in()

    for port in ports:
        await asyncio.to_thread(wait_for, lambda port=port: shown(port, "/readyz")[0] == 200, saying="it is ready")
        assert shown(port, "/healthz") == (200, "ok\n")
    counted = numbers(shown(ports[0], "/metrics")[1])
    assert counted["woodfrog_leading"] == 1
    assert counted["woodfrog_committed_position"] == sum(
        value for name, value in counted.items() if name.startswith("woodfrog_events_total/")
    )
    expected = {
        "woodfrog_events_total/snapshot.stored": 1,
        "woodfrog_nodes/heard": 1,
        "woodfrog_nodes/lost": 0,
        "woodfrog_ids/running": 1,
        "woodfrog_snapshots/valid": 1,
        "woodfrog_commands_open": 0,
        "woodfrog_dumps_total/stored": 1,
        "woodfrog_dumps_total/failed": 1,
        "woodfrog_dump_failures_total/disk-full/preflight": 1,
        "woodfrog_reports_refused_total/unreadable": 1,
        "woodfrog_resolve_seconds_count": 1,
        "woodfrog_freeze_seconds_sum": 0.1,
        "woodfrog_stored_bytes_total": 1024,
        "woodfrog_starts_total/cold": 1,
    }
    assert {name: counted.get(name) for name in expected} == pytest.approx(expected)
    assert numbers(shown(ports[1], "/metrics")[1])["woodfrog_leading"] == 0
    assert "woodfrog_committed_position" not in numbers(shown(ports[1], "/metrics")[1])


def test_a_control_plane_without_its_broker_is_alive_and_not_ready(
    make_control_plane: Callable[..., ControlPlaneProcess], nats_server: NatsServer
) -> None:
    port = free_port()
    plane = make_control_plane(WOODFROG_HTTP_ADDRESS=f"127.0.0.1:{port}")
    plane.start()
    nats_server.kill()
    wait_for(lambda: shown(port, "/readyz") == (503, "not connected to NATS\n"), saying="it is not ready")
    assert shown(port, "/healthz")[0] == 200
    nats_server.start()
    wait_for(lambda: shown(port, "/readyz")[0] == 200, saying="it is ready again")


def test_a_broker_that_stays_away_makes_a_new_process_worth_a_try() -> None:
    now = 0.0
    health = Health(clock=lambda: now)
    connection: Any = SimpleNamespace(is_connected=True)
    health.answers(connection)
    assert health.sick() is None
    connection.is_connected = False
    now = 89.0
    assert health.sick() is None
    now = 91.0
    assert health.sick() == "not connected to NATS for 91 s"
    connection.is_connected = True
    assert health.sick() is None


def worker_metrics(folder: Path) -> tuple[WorkerMetrics, Journal]:
    journal = Journal(folder / "journal.sqlite3", node=NodeName("n"), worker_id=WorkerId("w"))
    idle: Any = SimpleNamespace(in_flight=2, waiting=3, connected=False, reports_refused=False, unstored=())
    return WorkerMetrics(journal, idle, idle, idle, Disk(), FetchGate(1)), journal


async def test_a_worker_counts_what_its_journal_keeps_and_nothing_that_was_rolled_back(tmp_path: Path) -> None:
    metrics, journal = worker_metrics(tmp_path)
    key = CheckpointKey("local", "default", "job")
    failed = RestoreFailed(
        key=key, incarnation=IncarnationNumber(1), snapshot_id=SnapshotId("s"), node=NodeName("n"),
        stage=RestoreStage.FETCH, failure=FAILURE,
    )  # fmt: skip
    journal.report(failed)
    with suppress(ZeroDivisionError), journal.transaction():
        journal.report(failed)
        raise ZeroDivisionError
    metrics.fetched(3.0)
    pages = metrics.pages()
    assert (await pages["/healthz"]()).status == 200
    assert (await pages["/readyz"]()).body == b"not listening yet\n"
    metrics.serves()
    assert (await pages["/readyz"]()).body == b"not connected to NATS\n"
    counted = numbers((await pages["/metrics"]()).body.decode())
    journal.close()
    assert counted["woodfrog_worker_failures_total/disk-full/fetch/restore"] == 1
    assert counted["woodfrog_worker_outbox_reports"] == 1
    assert counted["woodfrog_worker_dumps_in_flight"] == 2
    assert counted["woodfrog_worker_dumps_waiting"] == 3
    assert counted["woodfrog_worker_fetch_seconds_sum"] == 3


async def test_the_page_of_the_metrics_names_each_with_its_kind_and_labels(tmp_path: Path) -> None:
    metrics, journal = worker_metrics(tmp_path)
    journal.close()
    plane = Metrics()
    nothing: Any = SimpleNamespace(
        keys=list,
        nodes=dict,
        committed=SimpleNamespace(value=0),
        open_commands={},
        waiting=0,
        over_quota=lambda: 0,
    )
    await plane._census.take(nothing)
    told = {
        name: (kind, set(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels in re.findall(r"^\| `(\w+)` \| (\w+) \|([^|]*)\|", PAGE.read_text(), re.MULTILINE)
    }
    assert told == described(plane.registry) | described(metrics.registry)


def test_what_alerts_look_at_is_there_before_the_first_time() -> None:
    registry = Metrics().registry
    for outcome in ("cold", "older", "fresh"):
        assert registry.get_sample_value("woodfrog_starts_leaving_work_total", {"outcome": outcome}) == 0
    for rule in Rule:
        assert registry.get_sample_value("woodfrog_invariant_violations_total", {"rule": rule}) == 0


def described(registry: CollectorRegistry) -> dict[str, tuple[str, set[str]]]:
    labels = {
        name: set(collector._labelnames)
        for collector, names in registry._collector_to_names.items()
        if hasattr(collector, "_labelnames")
        for name in names
    }
    found = {}
    for family in registry.collect():
        if family.name.startswith("woodfrog"):
            name = family.name + ("_total" if family.type == "counter" else "")
            of_samples = {label for sample in family.samples for label in sample.labels if label != "le"}
            found[name] = (family.type, labels.get(family.name, of_samples))
    return found


def test_a_scrape_of_many_ids_lets_the_loop_go_on(tmp_path: Path) -> None:
    from controlplane.domain.state import Incarnation, KeyState, Snapshot, SnapshotStatus  # noqa: PLC0415

    state = KeyState(
        incarnations={IncarnationNumber(1): Incarnation(IncarnationNumber(1), started=True)},
        snapshots={
            SnapshotId(name): Snapshot(SnapshotId(name), IncarnationNumber(1), status=SnapshotStatus.VALID)
            for name in "abc"
        },
    )
    many: Any = SimpleNamespace(
        keys=lambda: [state] * 100_000,
        nodes=dict,
        committed=SimpleNamespace(value=0),
        open_commands={},
        waiting=0,
        over_quota=lambda: 0,
    )

    async def longest_stall() -> float:
        plane = Metrics()
        taking = asyncio.create_task(plane._census.take(many))
        longest, last = 0.0, time.monotonic()
        while not taking.done():
            await asyncio.sleep(0)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
        taking.result()
        return longest

    began = time.monotonic()
    longest = asyncio.run(longest_stall())
    assert longest < (time.monotonic() - began) / 4
