"""A writer that is killed at any moment, two hundred times over: everything acknowledged is there once, and no batch by half."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import threading
from itertools import count
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import TextIO
from uuid import UUID, uuid5

import pytest
from support.databases import Database, PostgresDatabase, PostgresServer, SqliteFile, in_thread
from support.logstory import new, opened

from controlplane.log import EventLog
from controlplane.log.admin.migrate import upgrade
from controlplane.log.chain import Verification
from controlplane.log.records import Recorded
from woodfrog.protocol.ids import Position

BATCH = 5
SPACE = UUID(int=0)


async def _append(url: str, life: int, told: TextIO) -> None:
    log = await EventLog.open(url)
    epoch = await log.take_lead()
    print("ready", file=told, flush=True)
    for number in count(1):
        name = f"r{life}-{number}"
        parts = [f"{name}-{part}" for part in range(BATCH)]
        await log.append([new(opened(part).event, event_id=uuid5(SPACE, part)) for part in parts], epoch=epoch)
        print(name, file=told, flush=True)


def append(url: str, life: int, told: Connection) -> None:
    """One life of a writer: append, and say so once it is acknowledged."""
    with open(told.fileno(), "w", closefd=False) as words:
        asyncio.run(_append(url, life, words))


@pytest.fixture(scope="module")
def lives() -> ForkServerContext:
    """Begins writers in a fraction of the time that importing everything takes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["controlplane.log", "support.logstory", "asyncpg", "aiosqlite"])
    return context


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    if request.param == "sqlite":
        found: Database = SqliteFile(tmp_path / "log.db")
    else:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        found = PostgresDatabase(server, server.new_database())
    in_thread(upgrade(found.url))
    return found


def kill_one(lives: ForkServerContext, database: Database, number: int, after_seconds: float) -> list[str]:
    """Let a writer append, kill it ``after_seconds`` after it is ready, and answer what it had acknowledged."""
    heard, told = lives.Pipe(duplex=False)
    writer = lives.Process(
        target=append, args=(database.url, number, told), daemon=True
    )  # pytest's end waits for no other
    writer.start()
    told.close()
    with heard, open(heard.fileno(), closefd=False) as words:
        assert words.readline() == "ready\n"
        kill = threading.Timer(after_seconds, writer.kill)
        kill.start()
        acknowledged = words.read()
    kill.join()
    writer.join()
    writer.close()
    return acknowledged.split()


async def look(url: str) -> tuple[list[Recorded], Verification]:
    log = await EventLog.open(url)
    try:
        found: list[Recorded] = []
        while page := await log.read(Position(len(found)), 5000):
            found += page
        return found, await log.verify()
    finally:
        await log.close()


def kill_often(lives: ForkServerContext, database: Database, rounds: int) -> None:
    chance = random.Random(5)
    acknowledged: set[str] = set()
    for number in range(rounds):
        acknowledged.update(kill_one(lives, database, number, chance.uniform(0.005, 0.2)))
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
def test_a_writer_that_is_killed_again_and_again_loses_nothing_that_it_acknowledged(
    lives: ForkServerContext, database: Database
) -> None:
    kill_often(lives, database, 4)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_writer_that_is_killed_two_hundred_times_loses_nothing_that_it_acknowledged(
    lives: ForkServerContext, database: Database
) -> None:
    kill_often(lives, database, 200)
