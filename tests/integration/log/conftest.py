"""Real SQLite files: migrated, opened once or often, and looked at from outside."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from controlplane.log import EventLog
from controlplane.log.migrate import upgrade


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """An empty, migrated database file."""
    path = tmp_path / "log.db"
    await upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
async def open_log(path: Path) -> AsyncIterator[Callable[[], Awaitable[EventLog]]]:
    """Open one more door to the same database."""
    logs: list[EventLog] = []

    async def open_one() -> EventLog:
        logs.append(await EventLog.open(f"sqlite:///{path}"))
        return logs[-1]

    yield open_one
    for log in logs:
        await log.close()


@pytest.fixture
async def log(open_log: Callable[[], Awaitable[EventLog]]) -> EventLog:
    return await open_log()


@pytest.fixture
def sql(path: Path) -> Callable[..., list[tuple[object, ...]]]:
    """Talk to the database as somebody else does: another connection, plain sqlite3."""

    def run(statement: str, *values: object) -> list[tuple[object, ...]]:
        connection = sqlite3.connect(path, isolation_level=None, timeout=1)
        try:
            return connection.execute(statement, values).fetchall()
        finally:
            connection.close()

    return run
