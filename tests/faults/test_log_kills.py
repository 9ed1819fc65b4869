"""A writer that is killed at any moment, two hundred times over: everything acknowledged is there once, and no batch by half."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.databases import Database, PostgresDatabase, PostgresServer, SqliteFile, in_thread

from controlplane.log import EventLog
from controlplane.log.chain import Verification
from controlplane.log.migrate import upgrade
from controlplane.log.records import Recorded
from protocol.ids import Position

BATCH = 5
WRITER = f"""
import asyncio, sys
from uuid import UUID, uuid5
from support.logstory import new, opened
from controlplane.log import EventLog

SPACE = UUID(int=0)

async def main():
    log = await EventLog.open(sys.argv[1])
    epoch = await log.take_lead()
    print("ready", flush=True)
    for number in range(1, 100000):
        name = f"r{{sys.argv[2]}}-{{number}}"
        batch = [new(opened(f"{{name}}-{{part}}").event, event_id=uuid5(SPACE, f"{{name}}-{{part}}")) for part in range({BATCH})]
        await log.append(batch, epoch=epoch)
        print(name, flush=True)

asyncio.run(main())
"""
ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    if request.param == "sqlite":
        found: Database = SqliteFile(tmp_path / "log.db")
    else:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        found = PostgresDatabase(server, server.new_database())
    in_thread(upgrade(found.url))
    return found


def kill_one(database: Database, number: int, after_seconds: float) -> list[str]:
    """Let a writer append, kill it ``after_seconds`` after it is ready, and answer what it had acknowledged."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, database.url, str(number)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        kill = threading.Timer(after_seconds, writer.kill)
        kill.start()
        acknowledged = writer.stdout.read()
        kill.join()
    return [line for line in acknowledged.splitlines() if line.startswith("r")]


async def look(url: str) -> tuple[list[Recorded], Verification]:
    log = await EventLog.open(url)
    try:
        found: list[Recorded] = []
        while page := await log.read(Position(len(found)), 5000):
            found += page
        return found, await log.verify()
    finally:
        await log.close()


def kill_often(database: Database, rounds: int) -> None:
    chance = random.Random(5)
    acknowledged: set[str] = set()
    for number in range(rounds):
        acknowledged.update(kill_one(database, number, chance.uniform(0.005, 0.2)))
    recorded, verification = in_thread(look(database.url))
    assert verification.sound
    assert [record.position for record in recorded] == list(range(1, len(recorded) + 1))
    batches: dict[str, list[str]] = {}
    for record in recorded:
        name, _, part = record.stream.rpartition("/")[2].rpartition("-")
        batches.setdefault(name, []).append(part)
    assert all(parts == [str(part) for part in range(BATCH)] for parts in batches.values())
    assert acknowledged
    assert acknowledged <= batches.keys()


@pytest.mark.timeout(180)
def test_a_writer_that_is_killed_again_and_again_loses_nothing_that_it_acknowledged(database: Database) -> None:
    kill_often(database, 4)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_writer_that_is_killed_two_hundred_times_loses_nothing_that_it_acknowledged(database: Database) -> None:
    kill_often(database, 200)
