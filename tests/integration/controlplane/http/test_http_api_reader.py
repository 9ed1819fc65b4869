"""What people ask of the log, and do not wait for."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection
from support.api import silent
from support.databases import SqliteFile

from controlplane.domain import Policy
from controlplane.http.api import database
from controlplane.http.api.database import Reader
from controlplane.http.api.next_dumps import Live
from controlplane.http.api.queries import Questions
from controlplane.http.api.viewers import RefusedRequestError
from controlplane.log import LogUnavailableError, summary
from controlplane.log.admin.migrate import upgrade
from woodfrog.protocol.failures import Failure

pytestmark = pytest.mark.timeout(30)


class Everybody:
    """Sees everything."""

    name = "everybody"

    async def sees(self, _namespace: str | None) -> bool:
        return True

    async def may(self, _right: str, _namespace: str) -> bool:
        return False


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


async def test_a_count_that_takes_long_is_made_once_for_all_who_ask_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = SqliteFile(tmp_path / "log.db").url
    await upgrade(url)
    reader = Reader(url)
    questions = Questions(reader, "local", Policy(), Live(), silent())
    go_on, counted, count = threading.Event(), [], summary.overview

    def slow(connection: Connection, **asked: Any) -> summary.Overview:
        counted.append(asked)
        go_on.wait(20)
        return count(connection, **asked)

    monkeypatch.setattr(summary, "overview", slow)
    monkeypatch.setattr(database, "_ANSWER_SECONDS", 0.2)
    for _ in range(4):
        with pytest.raises(RefusedRequestError) as refused:
            await questions.overview(Everybody(), {})
        assert refused.value.failure.code == "api-busy"
    assert await reader.read(lambda _: 1) == 1
    go_on.set()
    monkeypatch.setattr(database, "_ANSWER_SECONDS", 15.0)
    assert (await questions.overview(Everybody(), {})).ids == {}
    assert len(counted) == 1
    await reader.close()


async def test_a_count_that_failed_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = SqliteFile(tmp_path / "log.db").url
    await upgrade(url)
    reader = Reader(url)
    questions, count, fails = Questions(reader, "local", Policy(), Live(), silent()), summary.overview, [True]

    def once(connection: Connection, **asked: Any) -> summary.Overview:
        if fails:
            fails.pop()
            raise LogUnavailableError(Failure("log-busy", "it is locked", "Wait."))
        return count(connection, **asked)

    monkeypatch.setattr(summary, "overview", once)
    with pytest.raises(RefusedRequestError):
        await questions.overview(Everybody(), {})
    assert (await questions.overview(Everybody(), {})).ids == {}
    await reader.close()
