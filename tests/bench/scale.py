"""The control plane at the size of a large cluster: 5,000 simulated nodes, 50,000 live ids, 1,000 lifecycle events a second.

A real nats-server (as ``woodfrog dev`` starts it, syncing every message), a real control plane process with its log in
SQLite (or at ``--url``), and one process that speaks for all nodes (``fleet.py``). First heartbeats alone, then lives: ids move
from node to node. Afterwards everything that was confirmed must be in the log, the log must be sound, its tables must be
what follows from it, and AUDIT must hold every event. All processes share the machine's processors, so the
time that a question takes is measured where it was asked, everything included.

``python tests/bench/scale.py [--seconds 60] [--nodes 5000] [--ids 50000] [--rate 1000] [--url postgresql://…] [--no-vouch]``
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple
from uuid import UUID, uuid4

import nats

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from rich.console import Console
from rich.table import Table

from controlplane.log import EventLog, Metadata, NewEvent
from controlplane.log.admin.migrate import upgrade
from tests.bench.fleet import CLUSTER, HEARTBEAT_SECONDS, Told, first_events
from tests.bench.report import DIRECTORY, Row, publish, row
from woodfrog.local.broker import Broker
from woodfrog.protocol import subjects, wire
from woodfrog.protocol.ids import event_id

ROOT: Final = Path(__file__).resolve().parents[2]
QUIET_SECONDS: Final = 10.0
SETTLE_SECONDS: Final = 120.0
_TICKS_A_SECOND: Final = os.sysconf("SC_CLK_TCK")


class Usage(NamedTuple):
    """What a process has used."""

    at: float
    cpu_seconds: float
    memory_mib: float

    @classmethod
    def of(cls, pid: int) -> Usage:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        resident = next(
            line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")
        )
        cpu = (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND
        return cls(time.monotonic(), cpu, int(resident.split()[1]) / 1024)

    def cores_since(self, before: Usage) -> float:
        """Tell how many processors were busy on average."""
        return (self.cpu_seconds - before.cpu_seconds) / (self.at - before.at)


async def fill(url: str, nodes: int, ids: int) -> None:
    """Put all nodes and the first start of every id into the log, as a control plane would."""
    await upgrade(url)
    log = await EventLog.open(url)
    epoch = await log.take_lead()
    now = datetime.now(UTC)
    batch: list[NewEvent] = []
    for event in first_events(nodes, ids):
        batch.append(NewEvent(uuid4(), event, Metadata(actor="scale", causation="fill"), now))
        if len(batch) == 1000:
            await log.append(batch, epoch=epoch)
            batch = []
    if batch:
        await log.append(batch, epoch=epoch)
    await log.close()


async def until_audited(nats_url: str, url: str, seconds: float) -> float:
    """Wait until AUDIT holds every event of the log and every report is taken in; answer how long that took."""
    begin = time.monotonic()
    client = await nats.connect(nats_url)
    jetstream = client.jetstream()
    log = await EventLog.open(url)
    try:
        while True:
            try:
                held = (await jetstream.stream_info(subjects.AUDIT_STREAM)).state.last_seq
                taking = await jetstream.consumer_info(subjects.REPORTS_STREAM, subjects.INGEST_CONSUMER)
            except nats.errors.Error:
                pass
            else:
                if held == await log.head() and not taking.num_pending and not taking.num_ack_pending:
                    return time.monotonic() - begin
            if time.monotonic() - begin > seconds:
                raise SystemExit(f"after {seconds} s the log is still not in AUDIT")
            await asyncio.sleep(0.2)
    finally:
        await log.close()
        await client.close()


async def lost(url: str, reports: Sequence[tuple[UUID, str]]) -> tuple[int, int, list[str]]:
    """Count events, and the reports that are not in the log; name what is wrong with the log."""
    log = await EventLog.open(url)
    try:
        missing: list[str] = []
        for first in range(0, len(reports), 500):
            ids = {event_id(str(report), 0): said for report, said in reports[first : first + 500]}
            found_ids = await log.recorded(list(ids))
            missing += [said for name, said in ids.items() if name not in found_ids]
        for said in missing[:5]:
            print("NOT IN THE LOG:", said)
        found = await log.verify()
        problems = [*found.problems, *await log.differences()]
        letters = await log.query("dead_letters")
        wrong = [f"position {one.position}: {one.what}" for one in problems]
        return (
            found.events,
            len(missing),
            wrong + [f"{one['kind']}: {one['reason']}: {one['excerpt']}" for one in letters],
        )
    finally:
        await log.close()


def processes_started(folder: Path, url: str) -> Iterator[tuple[str, subprocess.Popen[bytes], subprocess.Popen[bytes]]]:
    """Start the broker and the control plane; end both when asked for the next."""
    command, nats_url = Broker(folder).prepare()
    environment = {
        **os.environ,
        "WOODFROG_DATABASE_URL": url,
        "WOODFROG_NATS_URL": nats_url,
        "WOODFROG_CLUSTER": CLUSTER,
        "PYTHONPATH": str(ROOT),
    }
    with (folder / "nats.log").open("wb") as nats_log, (folder / "controlplane.log").open("wb") as log:
        broker = subprocess.Popen(command, stdout=nats_log, stderr=nats_log)
        plane = None
        try:
            time.sleep(0.5)
            plane = subprocess.Popen(
                [sys.executable, "-m", "controlplane"], stdout=log, stderr=log, env=environment, cwd=folder
            )
            yield nats_url, broker, plane
        finally:
            for process in filter(None, (plane, broker)):
                process.terminate()
                process.wait(60)


def bare_memory_mib() -> float:
    """Measure what the control plane's code takes with nothing in it."""
    code = "import controlplane.app, pathlib; print(pathlib.Path('/proc/self/status').read_text())"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    return next(int(line.split()[1]) / 1024 for line in printed.splitlines() if line.startswith("VmRSS"))


class Measured(NamedTuple):
    """What a run gave."""

    told: Told
    ready_seconds: float
    quiet: tuple[Usage, Usage]
    living: tuple[Usage, Usage]
    broker: tuple[Usage, Usage]
    fleet: tuple[Usage, Usage]
    most_memory_mib: float
    settle_seconds: float


def measure(folder: Path, url: str, given: argparse.Namespace) -> Measured:
    """Run the fleet against the control plane."""
    for nats_url, broker, plane in processes_started(folder, url):
        answers = folder / "told.json"
        script = str(ROOT / "tests/bench/fleet.py")
        settings = (given.nodes, given.ids, given.seconds, given.rate, given.vouch)
        command = [sys.executable, script, nats_url, *map(str, settings), str(answers)]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as fleet:
            ready = asyncio.run(until_audited(nats_url, url, 900))
            print(f"up, with {given.nodes} command queues and the log in AUDIT, after {ready:.1f} s", flush=True)
            quiet = Usage.of(plane.pid)
            time.sleep(QUIET_SECONDS)
            begin, broker_begin, fleet_begin = map(Usage.of, (plane.pid, broker.pid, fleet.pid))
            assert fleet.stdin is not None
            fleet.stdin.write(b"live\n")
            fleet.stdin.close()
            memory = begin.memory_mib
            deadline = time.monotonic() + given.seconds
            while fleet.poll() is None:
                time.sleep(0.5)
                memory = max(memory, Usage.of(plane.pid).memory_mib)
                if time.monotonic() < deadline:
                    end, broker_end, fleet_end = map(Usage.of, (plane.pid, broker.pid, fleet.pid))
        told: Told = wire.decode(answers.read_bytes(), Told)
        settle = asyncio.run(until_audited(nats_url, url, SETTLE_SECONDS))
        living, brokers, fleets = (begin, end), (broker_begin, broker_end), (fleet_begin, fleet_end)
        return Measured(told, ready, (quiet, begin), living, brokers, fleets, memory, settle)
    raise AssertionError


def percentile(values: Sequence[float], percent: float) -> float:
    """Find the value below which so many percent lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def explain(given: argparse.Namespace, found: Measured, bare_mib: float) -> None:
    """Print what a node and an id cost, and what ten times as much would need."""
    spent = (found.quiet, found.living, found.broker, found.fleet)
    quiet, living, broker, fleet = (after.cores_since(before) for before, after in spent)
    grown_mib = found.most_memory_mib - bare_mib
    events = len(found.told.reports) + 2 * found.told.moves
    rate = events / found.told.seconds
    micros_an_event = max(living - quiet, 0.0) / rate * 1e6
    table = Table(title="what it costs, and what ten times as much would need")
    for heading in ("", "measured", "each", "ten times"):
        table.add_column(heading)
    heartbeats = given.nodes / HEARTBEAT_SECONDS
    table.add_row(
        "heartbeats",
        f"{quiet:.2f} cores for {heartbeats:,.0f}/s",
        f"{quiet / given.nodes * 1e6:.0f} µs of a core a node and second",
        f"{quiet * 10:.1f} cores: one of {HEARTBEAT_SECONDS * 10:.0f} s instead, or heard by several processes",
    )
    table.add_row(
        "events",
        f"{living - quiet:.2f} cores for {rate:,.0f}/s",
        f"{micros_an_event:.0f} µs of a core an event",
        f"{micros_an_event * rate * 10 / 1e6:.1f} cores: ids divided among several control planes by namespace",
    )
    table.add_row(
        "memory",
        f"{found.most_memory_mib:.0f} MiB, {bare_mib:.0f} of them code",
        f"{grown_mib * 1024 / given.ids:.1f} KiB an id (nodes included)",
        f"{bare_mib + 10 * grown_mib:,.0f} MiB",
    )
    table.add_row(
        "broker",
        f"{broker:.2f} cores",
        f"{broker / rate * 1e6:.0f} µs an event",
        f"{broker * 10:.1f} cores: three nodes",
    )
    Console(width=150).print(table)
    told = found.told
    print(
        f"of {os.cpu_count()} processors the control plane had {living:.2f}, the broker {broker:.2f}, the simulated nodes {fleet:.2f}; "
        f"{told.questions / told.seconds:.0f} questions a second about {told.settled} reports that were settled, "
        f"{told.missing} missing and {told.unanswered} questions without an answer"
    )


def main() -> int:
    """Run it and publish; answer 1 if anything was lost or is wrong."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--nodes", type=int, default=5000)
    arguments.add_argument("--ids", type=int, default=50_000)
    arguments.add_argument("--rate", type=float, default=1000)
    arguments.add_argument("--seconds", type=float, default=60)
    arguments.add_argument("--url")
    arguments.add_argument(
        "--no-vouch", dest="vouch", action="store_false", help="nodes do not ask about their reports"
    )
    given = arguments.parse_args()
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    bare_mib = bare_memory_mib()
    with tempfile.TemporaryDirectory(dir=DIRECTORY) as name:
        url = given.url or f"sqlite:///{name}/log.db"
        begin = time.monotonic()
        asyncio.run(fill(url, given.nodes, given.ids))
        print(
            f"{given.nodes} nodes and {given.ids} ids are in the log after {time.monotonic() - begin:.1f} s", flush=True
        )
        found = measure(Path(name), url, given)
        events, missing, problems = asyncio.run(lost(url, found.told.reports))
    told = found.told
    for line in [*told.wrong[:5], *problems[:5]]:
        print("WRONG:", line)
    said = f"{given.nodes:,} nodes, {given.ids:,} ids, {given.seconds:.0f} s"
    took = [1000 * seconds for seconds in told.resolve_seconds]
    rate = (len(told.reports) + 2 * told.moves) / told.seconds
    rows: list[Row] = [
        row(f"lifecycle events ({said})", "events/s", [rate], goal=f">= {given.rate * 0.95:.0f}"),
        row("confirmed reports that are not in the log", "reports", [missing], goal="<= 0"),
        row(f"faults found in {events:,} events, and reports refused", "faults", [len(problems)], goal="<= 0"),
        row("moves that did not end as they should", "moves", [len(told.wrong)], goal="<= 0"),
        row("decision as the node sees it, median", "ms", [percentile(took, 50)], goal="<= 100"),
        row("decision as the node sees it, p99", "ms", [percentile(took, 99)], goal="<= 100"),
        row("the control plane's memory at most", "MiB", [found.most_memory_mib], goal="<= 600"),
        row("from the last answer to the last event in AUDIT", "s", [found.settle_seconds], goal="<= 10"),
    ]
    publish("scale" if given.url is None else "scale-postgresql", rows)
    explain(given, found, bare_mib)
    return int(bool(missing or problems or told.wrong))


if __name__ == "__main__":
    sys.exit(main())
