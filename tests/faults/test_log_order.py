"""No reader misses an event, however appends overlap, stall and roll back; and without the guard, one would.

Eight writers in connections of their own append to one PostgreSQL or SQLite while a reader tails by position. Some transactions stall just
before their commit and some roll back there. The control run takes its positions from a sequence instead of the head's row,
and must lose events: else this test could not fail.
"""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy.util import await_only
from support.databases import OWNER, Database, PostgresDatabase, PostgresServer, SqliteFile, in_thread
from support.logstory import opened

from controlplane.log import EventLog
from controlplane.log.admin.migrate import upgrade
from woodfrog.protocol.ids import Epoch, Position
from woodfrog.service import faultpoints

WRITERS = 8
STALLED, ROLLED_BACK = 0.02, 0.01
STALL_SECONDS = 0.01


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    if request.param == "sqlite":
        found: Database = SqliteFile(tmp_path / "log.db")
    else:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        found = PostgresDatabase(server, server.new_database())
    in_thread(upgrade(found.url))
    return found


class Disturbance:
    """Stalls some transactions just before their commit and rolls some back there."""

    def __init__(self, engine: str) -> None:
        self._engine = engine
        self._chance = random.Random(11)
        self.stalled = 0
        self.rolled_back = 0

    def reach(self, name: str) -> None:
        if name != "log.append.before-commit":
            return
        drawn = self._chance.random()
        if drawn < ROLLED_BACK:
            self.rolled_back += 1
            raise faultpoints.FaultError(name)
        if drawn < ROLLED_BACK + STALLED:
            self.stalled += 1
            if self._engine == "postgresql":  # its transactions run on the event loop
                await_only(asyncio.sleep(STALL_SECONDS))
            else:
                time.sleep(STALL_SECONDS)


async def write(log: EventLog, epoch: Epoch, writer: int, *, events: int, batch: int) -> list[int]:
    mine: list[int] = []
    number = 0
    while len(mine) < events:
        number += 1
        told = [opened(f"w{writer}-{part}", number) for part in range(batch)]
        with suppress(faultpoints.FaultError):
            mine += [record.position for record in await log.append(told, epoch=epoch)]
    return mine


async def tail(log: EventLog, finished: asyncio.Event) -> list[int]:
    seen: list[int] = []
    while not (finished.is_set() and seen and seen[-1] >= await log.head()):
        page = await log.read(Position(seen[-1] if seen else 0), 500)
        seen.extend(record.position for record in page)
        if not page:
            await asyncio.sleep(0.001)
    return seen


async def overlap(database: Database, monkeypatch: pytest.MonkeyPatch, *, events: int, batch: int) -> None:
    disturbance = Disturbance(database.engine)
    logs = [await EventLog.open(database.url) for _ in range(WRITERS + 1)]
    epoch = await logs[0].take_lead()
    monkeypatch.setattr(faultpoints, "reach", disturbance.reach)
    finished = asyncio.Event()
    try:
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(tail(logs[-1], finished))
            writers = [
                group.create_task(write(log, epoch, number, events=events // WRITERS, batch=batch))
                for number, log in enumerate(logs[:-1])
            ]
            told = sorted(position for each in await asyncio.gather(*writers) for position in each)
            finished.set()
        assert disturbance.rolled_back > 0
        assert disturbance.stalled > 0
        assert len(told) >= events
        assert told == list(range(1, len(told) + 1))
        assert reading.result() == told
        assert (await logs[0].verify()).sound
    finally:
        for log in logs:
            await log.close()


@pytest.mark.timeout(180)
async def test_a_tailing_reader_misses_nothing(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    await overlap(database, monkeypatch, events=1280, batch=2)


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_a_tailing_reader_misses_nothing_of_fifty_thousand(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await overlap(database, monkeypatch, events=50_400, batch=14)


async def test_without_the_guard_a_tailing_reader_misses_events(postgres_server: PostgresServer) -> None:
    name = postgres_server.new_database()
    chance = random.Random(11)

    async def connect() -> asyncpg.Connection:
        return await asyncpg.connect(host="127.0.0.1", port=postgres_server.port, user=OWNER, database=name)

    first = await connect()
    await first.execute("CREATE TABLE unguarded (position bigserial PRIMARY KEY)")
    until = time.monotonic() + 10.0
    written: list[int] = []
    seen: list[int] = []
    missed: set[int] = set()

    async def write() -> None:
        connection = await connect()
        while time.monotonic() < until and not missed:
            async with connection.transaction():
                position = await connection.fetchval("INSERT INTO unguarded DEFAULT VALUES RETURNING position")
                if chance.random() < STALLED:
                    await asyncio.sleep(STALL_SECONDS)
            written.append(position)
        await connection.close()

    async def tail() -> None:
        newest = 0
        while time.monotonic() < until and not missed:
            rows = await first.fetch("SELECT position FROM unguarded WHERE position > $1 ORDER BY 1", newest)
            seen.extend(row[0] for row in rows)
            newest = seen[-1] if seen else 0
            missed.update({position for position in list(written) if position < newest} - set(seen[-50_000:]))

    async with asyncio.TaskGroup() as group:
        group.create_task(tail())
        for _ in range(WRITERS):
            group.create_task(write())
    await first.close()
    assert missed
