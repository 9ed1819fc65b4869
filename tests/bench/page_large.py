"""The HTTP API and the page over a large log: how long until the first content, and whether the tail keeps up.

A log in SQLite of so many events (1,000,000) of 40,000 ids, an API server in a process of its own, and questions from here, each as the
page asks it. Then 200 events a second are appended for 20 s while a client follows: the lag is from the append to its arrival. If
``make page-test`` has made build/page and there is a Chromium, each page's first content is measured in it as well.

``PYTHONPATH=build/page python tests/bench/page_large.py [--events 1000000] [--log FILE]``; numbers go to build/bench/page_large.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, cast
from uuid import uuid4

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import aiohttp

from controlplane.bus.node_statuses import NodeStatuses
from controlplane.domain import Policy
from controlplane.http.api.assembly import open_api
from controlplane.http.api.next_dumps import Live
from controlplane.http.api.settings import ApiSettings
from controlplane.log import EventLog, Metadata, NewEvent
from controlplane.log.admin.migrate import upgrade
from tests.bench.fleet import CLUSTER, CONTAINER, FACTS, first_events, key_of, node_of
from tests.bench.report import DIRECTORY
from woodfrog.protocol.events import (
    ContainerEnded,
    DumpFailed,
    DumpStage,
    DumpStarted,
    Event,
    SnapshotCaptured,
    SnapshotStored,
    Trigger,
)
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import ContainerId, IncarnationNumber, SnapshotId
from woodfrog.service import logs
from woodfrog.service.http import Address

IDS: Final = 40_000
NODES: Final = 500
TOKEN: Final = "b" * 40
RATE: Final = 200
SECONDS: Final = 20
TURNS: Final = 5


def events(count: int) -> Iterator[Event]:
    """Tell how nodes and ids came, and then of dumps of one id after the other; each hundredth fails, each thirtieth is the last."""
    made = 0
    for event in first_events(NODES, min(IDS, count // 4)):
        yield event
        made += 1
    ids, turn = min(IDS, count // 4), 0
    while made < count:
        number = turn % ids
        of = {"key": key_of(number), "incarnation": IncarnationNumber(1)}
        name, node = SnapshotId(f"20261123T210000Z-{turn:08x}"), node_of(number % NODES)
        yield DumpStarted(**of, snapshot_id=name, node=node, trigger=Trigger.SCHEDULE, final=False)
        if turn % 100 == 99:
            full = Failure("disk-full", "the node's disk is full", "Free space.")
            yield DumpFailed(**of, snapshot_id=name, node=node, stage=DumpStage.PREFLIGHT, failure=full)
            made += 2
        else:
            yield SnapshotCaptured(**of, snapshot_id=name, node=node, freeze_seconds=0.5, raw_bytes=1 << 28)
            yield SnapshotStored(
                **of, snapshot_id=name, node=node, manifest_digest="ab" * 32, raw_bytes=1 << 28, stored_bytes=1 << 26,
                store_seconds=2.0, taken_on=FACTS, taken_from=CONTAINER,
            )  # fmt: skip
            made += 3
        if turn < ids and turn % 30 == 29:
            yield ContainerEnded(**of, node=node, container_id=ContainerId(f"{number:064x}"), exit_code=0)
            made += 1
        turn += 1


async def fill(url: str, count: int) -> None:
    """Write the log, spread over the last day."""
    await upgrade(url)
    log = await EventLog.open(url)
    if await log.head() >= count:
        await log.close()
        return
    epoch = await log.take_lead()
    begin = datetime.now(UTC) - timedelta(days=1)
    batch: list[NewEvent] = []
    for number, event in enumerate(events(count), 1):
        at = begin + timedelta(days=1) * (number / count)
        batch.append(NewEvent(uuid4(), event, Metadata(actor="bench", causation="fill"), at))
        if len(batch) == 1000 or number == count:
            await log.append(batch, epoch=epoch, recorded_at=at)
            batch = []
    await log.close()


async def serve(url: str, tokens: str) -> None:
    """Serve the API until this process is ended; its port is the first line of its output."""
    log = await EventLog.open(url)
    async with AsyncExitStack() as stack:
        settings = ApiSettings(Address("127.0.0.1", 0), Path(tokens))
        server = await open_api(
            stack,
            settings,
            log,
            url,
            cluster=CLUSTER,
            policy=Policy(),
            live=Live(),
            statuses=NodeStatuses(cast("Any", None)),
            api=None,
        )
        task = asyncio.create_task(server.run())
        print(await server.port(), flush=True)
        await task


@asynccontextmanager
async def served(url: str) -> AsyncIterator[tuple[int, str]]:
    """Start that process; its pid, and where it is."""
    with tempfile.NamedTemporaryFile("w", suffix=".tokens") as tokens:
        tokens.write(f"bench {TOKEN} *\n")
        tokens.flush()
        process = await asyncio.create_subprocess_exec(
            sys.executable, __file__, "--serve", url, tokens.name, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        try:
            yield process.pid, f"http://127.0.0.1:{(await process.stdout.readline()).decode().strip()}"
        finally:
            process.terminate()
            await process.wait()


def memory_mib(pid: int) -> float:
    """How much memory a process has."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


async def questions(session: aiohttp.ClientSession, base: str, count: int) -> dict[str, float]:
    """Ask as the page does; the median seconds of each question. Every other answer is thrown away unread."""
    key = key_of(7)
    life = f"ids/{key.namespace}/{key.id}"
    asked = {
        "overview": "overview",
        "ids, first page": "ids?limit=100",
        "ids, search": "ids?limit=100&search=999",
        "ids, ended": "ids?limit=100&state=ended",
        "one id": life,
        "its events": f"log?limit=500&namespace={key.namespace}&id={key.id}",
        "its choices, 100 nodes": f"{life}/choices",
        "its choices in the middle": f"{life}/choices?position={count // 2}",
        "nodes": "views/nodes?limit=500",
        "causes of a day": "causes?hours=24",
        "failures": "views/failures?limit=50",
        "log, newest": "log?limit=100",
        "log, in the middle": f"log?limit=100&before={count // 2}",
        "log, one type": "log?limit=100&type=node.registered",
    }
    found = {}
    for name, path in asked.items():
        took = []
        for _ in range(TURNS):
            if name == "overview":
                await asyncio.sleep(2.1)  # what was counted a moment ago would be answered again
            began = time.perf_counter()
            async with session.get(f"{base}/api/v1/{path}") as response:
                await response.read()
                assert response.status == 200, await response.text()
            took.append(time.perf_counter() - began)
        found[name] = statistics.median(took)
    return found


async def lags(session: aiohttp.ClientSession, base: str, url: str) -> list[float]:
    """Append so many events a second, and follow."""
    log = await EventLog.open(url)
    epoch = await log.take_lead()
    appended: dict[int, float] = {}
    found: list[float] = []
    total = RATE * SECONDS

    async def follow() -> None:
        async with session.get(f"{base}/api/v1/log/tail") as response:
            async for line in response.content:
                if line.startswith(b"id: "):
                    position = int(line[4:])
                    if position in appended:
                        found.append(time.monotonic() - appended.pop(position))
                        if len(found) == total:
                            return

    following = asyncio.create_task(follow())
    await asyncio.sleep(2)
    source = events(10**9)
    began = time.monotonic()
    for number in range(SECONDS * 10):
        at = datetime.now(UTC)
        batch = [NewEvent(uuid4(), next(source), Metadata("bench", "tail"), at) for _ in range(RATE // 10)]
        head = await log.head()
        for each in range(1, len(batch) + 1):
            appended[head + each] = time.monotonic()
        await log.append(batch, epoch=epoch)
        await asyncio.sleep(max(0.0, began + (number + 1) / 10 - time.monotonic()))
    await asyncio.wait_for(following, 60)
    await log.close()
    return sorted(found)


async def first_contents(base: str) -> dict[str, float]:
    """Open each page in Chromium; the median seconds until it shows a row or a number."""
    chromium = shutil.which("chromium")
    if chromium is None or find_spec("playwright") is None:
        return {}
    from playwright.async_api import async_playwright  # noqa: PLC0415 - only where there is one

    key = key_of(7)
    found = {}
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for name in ("overview", "ids", f"ids/{key.namespace}/{key.id}", "nodes", "failures", "log"):
            took = []
            for _ in range(TURNS):
                context = await browser.new_context()
                page = await context.new_page()
                await page.goto(f"{base}/#token={TOKEN}")
                await page.wait_for_selector("main .card")
                began = time.perf_counter()
                await page.evaluate(f"location.hash = '#/{name}'; if ('{name}' === 'overview') location.reload()")
                wanted = "main .card" if name == "overview" else "main td, main ol.events li"
                await page.wait_for_selector(wanted)
                took.append(time.perf_counter() - began)
                await context.close()
            found[name] = statistics.median(took)
        await browser.close()
    return found


async def measure(count: int, file: Path) -> dict[str, Any]:
    """Do all of it."""
    url = f"sqlite+aiosqlite:///{file}"
    began = time.monotonic()
    await fill(url, count)
    print(f"{count} events written in {time.monotonic() - began:.0f} s", flush=True)
    async with served(url) as (pid, base):
        headers = {"Authorization": f"Bearer {TOKEN}"}
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:
            idle = memory_mib(pid)
            asked = await questions(session, base, count)
            pages = await first_contents(base)
            lag = await lags(session, base, url)
            return {
                "events": count,
                "seconds": asked,
                "first_content_seconds": pages,
                "tail_events": len(lag),
                "tail_lag_seconds": {"p50": lag[len(lag) // 2], "p99": lag[len(lag) * 99 // 100], "max": lag[-1]},
                "memory_mib": {"idle": idle, "after": memory_mib(pid)},
            }


def main() -> None:
    """Measure, print and write."""
    if sys.argv[1:2] == ["--serve"]:
        logs.configure()  # to standard error: standard output says the port
        asyncio.run(serve(*sys.argv[2:]))
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--log", type=Path, help="keep the log here, and use it if it is there")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wf-page-") as folder:
        found = asyncio.run(measure(given.events, given.log or Path(folder) / "log.db"))
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    (DIRECTORY / "page_large.json").write_text(json.dumps(found, indent=2))
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
