"""Real databases, each test on both engines: migrated, opened once or often, and looked at from outside."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from support.archives import FORM, loop_on, make_partitions_small
from support.databases import Database, PostgresDatabase, PostgresServer, SqliteFile, in_thread
from support.logstory import opened, story

from controlplane.log import EventLog, NewEvent
from controlplane.log.admin.migrate import upgrade
from controlplane.log.archive.writer import Archive
from woodfrog.protocol.ids import Position


@pytest.fixture(params=["sqlite", "postgresql"])
def engine_name(request: pytest.FixtureRequest) -> str:
    """Which engine; a test that is about one of them says so by parametrising this."""
    return str(request.param)


@pytest.fixture(scope="session")
def postgres_template(postgres_server: PostgresServer) -> str:
    """A migrated database of PostgreSQL to copy."""
    name = postgres_server.new_database()
    in_thread(upgrade(postgres_server.url(name)))
    return name


@pytest.fixture
def empty_database(engine_name: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Database]:
    """A database in which nothing is."""
    if engine_name == "sqlite":
        yield SqliteFile(tmp_path / "log.db")
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = server.new_database()
    yield PostgresDatabase(server, name)
    server.drop_database(name)


@pytest.fixture
def database(engine_name: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Database]:
    """An empty, migrated database."""
    if engine_name == "sqlite":
        file = SqliteFile(tmp_path / "log.db")
        in_thread(upgrade(file.url))
        yield file
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = server.new_database(template=request.getfixturevalue("postgres_template"))
    yield PostgresDatabase(server, name)
    server.drop_database(name)


@pytest.fixture
async def open_log(database: Database) -> AsyncIterator[Callable[[], Awaitable[EventLog]]]:
    """Open one more door to the same database."""
    logs: list[EventLog] = []

    async def open_one() -> EventLog:
        logs.append(await EventLog.open(database.url))
        return logs[-1]

    yield open_one
    for log in logs:
        await log.close()


@pytest.fixture
async def log(open_log: Callable[[], Awaitable[EventLog]]) -> EventLog:
    return await open_log()


@pytest.fixture
def sql(database: Database) -> Callable[..., list[tuple[object, ...]]]:
    """Talk to the database as somebody else does: another connection, the plain driver."""
    return database.sql


@pytest.fixture
async def small(database: Database, log: EventLog) -> EventLog:
    make_partitions_small(database)
    return log


@pytest.fixture
async def told(small: EventLog) -> list[NewEvent]:
    """35 events of three streams, appended."""
    told = [opened("abc"[number % 3], number) for number in range(1, 36)]
    epoch = await small.take_lead()
    for start in range(0, 35, 7):
        await small.append(told[start : start + 7], epoch=epoch)
    await small.save_state(Position(35), FORM, [b"state"], epoch=epoch)
    return told


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "archive"
    folder.mkdir()
    return folder


@pytest.fixture
async def archive(database: Database, folder: Path) -> AsyncIterator[Archive]:
    archive = await Archive.open(database.url, folder)
    yield archive
    await archive.close()


@pytest.fixture
async def storied(small: EventLog) -> EventLog:
    """The whole story and some more, forty events together; a copy of the state covers them."""
    told = story()
    loop = await loop_on(small)
    for start in range(0, len(told), 7):  # PostgreSQL has but one partition ahead
        await small.append(told[start : start + 7], epoch=loop._epoch)
    await small.append([opened("later", number) for number in range(1, 9)], epoch=loop._epoch)
    await loop.load()
    await loop._copy_state()
    return small
