"""A log carried over into another database is the same log there, whatever interrupted the carrying."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import get_args

import pytest
from sqlalchemy import Connection
from support.databases import Database, SqliteFile
from support.logstory import opened, put_one_aside, story

from controlplane.log import EventLog, MoveRefusedError, StaleEpochError
from controlplane.log.admin import transfer
from controlplane.log.admin.migrate import upgrade
from controlplane.log.admin.transfer import move
from woodfrog.protocol.ids import Epoch, Position
from woodfrog.protocol.requests import View

MORE = 40


@pytest.fixture
async def old(tmp_path: Path) -> AsyncIterator[EventLog]:
    """A SQLite log with a story, forty events more, and a dead letter."""
    url = SqliteFile(tmp_path / "old.db").url
    await upgrade(url)
    log = await EventLog.open(url)
    await log.append(story(), epoch=await log.take_lead())
    epoch = await log.take_lead()
    await log.append([opened("abc"[number % 3], number) for number in range(1, MORE + 1)], epoch=epoch)
    await put_one_aside(url, epoch)
    yield log
    await log.close()


@pytest.fixture
def old_url(tmp_path: Path) -> str:
    return str(SqliteFile(tmp_path / "old.db").url)


async def seen(log: EventLog) -> dict[str, object]:
    await log.refreshed()
    return {view: await log.query(view, limit=10_000) for view in get_args(View)}


async def test_what_was_carried_over_is_the_same_log_and_goes_on(
    old: EventLog, old_url: str, empty_database: Database
) -> None:
    before = await seen(old)
    head = await old.head()
    moved = await move(old_url, empty_database.url)
    assert (moved.events, moved.position) == (head, head)
    new = await EventLog.open(empty_database.url)
    try:
        assert await seen(new) == before
        assert (await new.verify()).sound
        assert await new.differences() == ()
        (again,) = await new.append([opened("abc", 1)], epoch=await new.take_lead())
        assert again.position == head + 1
    finally:
        await new.close()


async def test_carrying_over_again_does_nothing_even_when_the_new_log_has_gone_on(
    old: EventLog, old_url: str, database: Database
) -> None:
    await move(old_url, database.url)
    new = await EventLog.open(database.url)
    try:
        await new.append([opened("later")], epoch=await new.take_lead())
        assert await move(old_url, database.url) == transfer.Moved(0, await new.head())
    finally:
        await new.close()


async def test_what_was_interrupted_goes_on_where_it_was(
    old: EventLog, old_url: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_PAGE", 30)
    put, pages = transfer._put, 0

    def fail_at_the_second(connection: Connection, rows: transfer.Rows) -> None:
        nonlocal pages
        put(connection, rows)
        pages += 1
        if pages == 2:
            raise RuntimeError("interrupted")

    with monkeypatch.context() as patched:
        patched.setattr(transfer, "_put", fail_at_the_second)
        with pytest.raises(RuntimeError, match="interrupted"):
            await move(old_url, database.url)
    head = await old.head()
    assert await move(old_url, database.url) == transfer.Moved(head - 30, head)


async def test_whoever_led_the_old_log_is_fenced_off_and_leads_nowhere(
    old: EventLog, old_url: str, database: Database
) -> None:
    epoch = await old.take_lead()
    await move(old_url, database.url)
    with pytest.raises(StaleEpochError):
        await old.append([opened("late")], epoch=epoch)
    new = await EventLog.open(database.url)
    try:
        assert await new.take_lead() == Epoch(epoch + 2)
    finally:
        await new.close()


async def test_a_control_plane_that_works_on_the_old_log_meanwhile_is_noticed(
    old: EventLog, old_url: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = transfer._letters

    def read_while_somebody_takes_the_lead(connection: Connection) -> transfer.Rows:
        SqliteFile(Path(old_url.removeprefix("sqlite:///"))).sql("UPDATE log_head SET epoch = epoch + 1")
        return read(connection)

    monkeypatch.setattr(transfer, "_letters", read_while_somebody_takes_the_lead)
    with pytest.raises(MoveRefusedError, match="took the lead"):
        await move(old_url, database.url)


async def test_a_database_with_another_log_is_left_as_it_is(old: EventLog, old_url: str, database: Database) -> None:
    other = await EventLog.open(database.url)
    try:
        await other.refreshed()
        await other.append([opened("other")], epoch=await other.take_lead())
        before = await seen(other)
        with pytest.raises(MoveRefusedError, match="another log"):
            await move(old_url, database.url)
        assert await seen(other) == before
    finally:
        await other.close()


async def test_a_missing_old_log_is_not_made_and_not_taken_for_an_empty_one(tmp_path: Path, database: Database) -> None:
    missing = SqliteFile(tmp_path / "missing.db")
    with pytest.raises(MoveRefusedError, match="no log"):
        await move(missing.url, database.url)
    assert not missing.path.exists()
    log = await EventLog.open(database.url)
    try:
        await log.append([opened("a")], epoch=await log.take_lead())
        assert await move(missing.url, database.url) == transfer.Moved(0, Position(1))
    finally:
        await log.close()
