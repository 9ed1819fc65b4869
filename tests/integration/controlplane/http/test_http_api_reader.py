"""What people ask of the log, and do not wait for."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from sqlalchemy import Connection
from support.databases import SqliteFile

from controlplane.http.api.database import Reader
from controlplane.log.admin.migrate import upgrade

pytestmark = pytest.mark.timeout(30)


async def test_what_nobody_waits_for_any_more_is_not_read(tmp_path: Path) -> None:
    url = SqliteFile(tmp_path / "log.db").url
    await upgrade(url)
    reader = Reader(url)
    go_on, read = threading.Event(), []

    def slow(_connection: Connection) -> None:
        go_on.wait(20)

    def quick(_connection: Connection) -> int:
        read.append(1)
        return len(read)

    slow_ones = [asyncio.create_task(reader.read(slow)) for _ in range(3)]
    await asyncio.sleep(0)
    given_up = [asyncio.create_task(reader.read(quick)) for _ in range(50)]
    await asyncio.sleep(0.1)
    for task in given_up:
        task.cancel()
    await asyncio.wait(given_up)
    go_on.set()
    await asyncio.gather(*slow_ones)
    assert await reader.read(quick) == 1
    await reader.close()
