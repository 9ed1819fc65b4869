"""A writer that is killed leaves whole batches and nothing else."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from support.databases import Database
from support.logstory import opened

from controlplane.log import EventLog
from woodfrog.protocol.ids import Position
from woodfrog.service import faultpoints

BATCH = 5
WRITER = f"""
import asyncio, sys
from support.logstory import opened
from controlplane.log import EventLog

async def main():
    log = await EventLog.open(sys.argv[1])
    epoch = await log.take_lead()
    for number in range(await log.head() + 1, 100000):
        recorded = await log.append([opened(f"k{{part}}", number) for part in range({BATCH})], epoch=epoch)
        print(recorded[-1].position, flush=True)

asyncio.run(main())
"""
ROOT = Path(__file__).parents[4]


def start_writer(database: Database, fault: str = "") -> subprocess.Popen[str]:
    environment = os.environ | {faultpoints.VARIABLE: fault, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, database.url], stdout=subprocess.PIPE, text=True, env=environment
    )


async def assert_whole(log: EventLog, *, acknowledged: int) -> None:
    recorded = await log.read(Position(0), 100_000)
    assert [record.position for record in recorded] == list(range(1, len(recorded) + 1))
    assert len(recorded) % BATCH == 0
    assert len(recorded) >= acknowledged
    assert (await log.verify()).sound
    assert len(await log.query("restore_history", limit=100_000)) == len(recorded)
    assert await log.append([opened("after")], epoch=await log.take_lead())


@pytest.mark.parametrize(("point", "kept"), [("before-commit", 0), ("after-commit", BATCH)])
async def test_a_writer_killed_at_a_commit_point_leaves_no_half_batch(
    database: Database, open_log: Callable[[], Awaitable[EventLog]], point: str, kept: int
) -> None:
    writer = start_writer(database, f"log.append.{point}=kill")
    output, _ = await asyncio.to_thread(writer.communicate, timeout=50)
    assert writer.returncode == -signal.SIGKILL
    assert output == ""
    log = await open_log()
    assert await log.head() == kept
    await assert_whole(log, acknowledged=kept)


async def test_what_was_acknowledged_survives_a_kill_at_any_moment(
    database: Database, open_log: Callable[[], Awaitable[EventLog]]
) -> None:
    acknowledged = 0
    for batches in (1, 4, 9):
        writer = start_writer(database)
        assert writer.stdout is not None
        for _ in range(batches):
            acknowledged = int(await asyncio.to_thread(writer.stdout.readline))
        writer.kill()
        rest, _ = await asyncio.to_thread(writer.communicate, timeout=50)
        acknowledged = int((rest.split() or [str(acknowledged)])[-1])
    await assert_whole(await open_log(), acknowledged=acknowledged)
