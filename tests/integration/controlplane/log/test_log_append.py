"""Appending: gapless, once, in one order, by one leader."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import datetime

import pytest
from support.databases import Database, PostgresDatabase
from support.logstory import BROKEN, KEY, ONE, START, new, opened, story

from controlplane.log import (
    EventConflictError,
    EventLog,
    ExpectedVersionError,
    LogUnavailableError,
    NewEvent,
    StaleEpochError,
)
from controlplane.log.sql import engine
from controlplane.log.upcast import Upcasts
from woodfrog.protocol.events import ColdStartChosen
from woodfrog.protocol.ids import Epoch, Position, Version
from woodfrog.service import faultpoints

Open = Callable[[], Awaitable[EventLog]]
Sql = Callable[..., list[tuple[object, ...]]]


async def test_an_event_comes_back_as_it_was_told(log: EventLog) -> None:
    told = story()
    recorded = await log.append(told, epoch=await log.take_lead())
    assert [record.event for record in recorded] == [new.event for new in told]
    assert [record.position for record in recorded] == list(range(1, len(told) + 1))
    assert await log.read(Position(0), 1000) == recorded
    assert await log.read(Position(3), 2) == recorded[3:5]
    assert await log.head() == len(told)


async def test_versions_count_each_stream_by_itself(log: EventLog) -> None:
    recorded = await log.append([opened("a"), opened("b"), opened("a", 2)], epoch=await log.take_lead())
    assert [(record.stream, record.version) for record in recorded] == [
        ("checkpoint/local/default/a", 1),
        ("checkpoint/local/default/b", 1),
        ("checkpoint/local/default/a", 2),
    ]


async def test_many_appenders_and_rollbacks_leave_no_gap_and_no_reader_misses_an_event(
    open_log: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = [await open_log() for _ in range(4)]
    epoch = await logs[0].take_lead()
    chance = random.Random(7)
    refused = 0

    def sometimes_fail(name: str) -> None:
        if name == "log.append.before-commit" and chance.random() < 0.2:
            raise faultpoints.FaultError(name)

    monkeypatch.setattr(faultpoints, "reach", sometimes_fail)

    async def append(log: EventLog, name: str) -> list[int]:
        nonlocal refused
        positions: list[int] = []
        for number in range(1, 16):
            try:
                batch = [opened(f"{name}-{part}", number) for part in range(chance.randint(1, 4))]
                positions += [record.position for record in await log.append(batch, epoch=epoch)]
            except faultpoints.FaultError:
                refused += 1
        return positions

    seen: list[int] = []

    appended = asyncio.Event()

    async def tail(log: EventLog) -> None:
        while not (appended.is_set() and len(seen) >= await log.head()):
            seen.extend(record.position for record in await log.read(Position(len(seen)), 50))

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(tail(await open_log()))
        appending = [tasks.create_task(append(log, f"{n}-{half}")) for n, log in enumerate(logs) for half in "ab"]
        told = [position for task in appending for position in await task]
        appended.set()

    head = await logs[0].head()
    assert refused > 0
    assert sorted(told) == list(range(1, head + 1))
    assert seen == sorted(told)
    assert (await logs[0].verify()).sound


async def test_an_event_told_twice_is_recorded_once(log: EventLog) -> None:
    epoch = await log.take_lead()
    told = story()
    first = await log.append(told, epoch=epoch)
    again = [NewEvent(new.event_id, new.event, new.metadata, START.replace(year=2030)) for new in told]
    assert await log.append(again, epoch=epoch) == first
    assert await log.head() == len(told)


async def test_an_event_twice_in_one_batch_is_recorded_once(log: EventLog) -> None:
    event = opened("a")
    recorded = await log.append([event, opened("b"), event], epoch=await log.take_lead())
    assert [record.position for record in recorded] == [1, 2, 1]
    assert await log.head() == 2


async def test_a_batch_of_old_and_new_events_records_the_new(log: EventLog) -> None:
    epoch = await log.take_lead()
    old = opened("a")
    await log.append([old], epoch=epoch)
    recorded = await log.append([opened("a", 2), old, opened("a", 3)], epoch=epoch)
    assert [record.position for record in recorded] == [2, 1, 3]
    assert [record.version for record in recorded] == [2, 1, 3]


@pytest.mark.parametrize("together", [False, True])
async def test_one_event_id_with_two_payloads_is_refused(log: EventLog, together: bool) -> None:
    epoch = await log.take_lead()
    first = opened("a")
    forged = new(opened("a", 2).event, event_id=first.event_id)
    if together:
        with pytest.raises(EventConflictError, match=str(first.event_id)):
            await log.append([first, forged], epoch=epoch)
        assert await log.head() == 0
        return
    await log.append([first], epoch=epoch)
    with pytest.raises(EventConflictError) as refusal:
        await log.append([opened("b"), forged], epoch=epoch)
    assert refusal.value.position == 1
    assert await log.head() == 1


async def test_a_stream_that_moved_on_refuses_what_was_decided_before(log: EventLog) -> None:
    epoch = await log.take_lead()
    stream = "checkpoint/local/default/a"
    first = opened("a")
    await log.append([first], epoch=epoch, expected={stream: Version(0)})
    with pytest.raises(ExpectedVersionError) as refusal:
        await log.append([opened("a", 2)], epoch=epoch, expected={stream: Version(0)})
    assert (refusal.value.stream, refusal.value.actual) == (stream, 1)
    await log.append([opened("b")], epoch=epoch, expected={stream: Version(1)})
    with pytest.raises(ExpectedVersionError):
        await log.append([opened("c")], epoch=epoch, expected={stream: Version(2)})
    assert await log.append([first], epoch=epoch, expected={stream: Version(0)}), "a repeated append is no new decision"


async def test_whoever_lost_the_lead_may_not_append(open_log: Open) -> None:
    older, newer = await open_log(), await open_log()
    old_epoch = await older.take_lead()
    await older.append([opened("a")], epoch=old_epoch)
    new_epoch = await newer.take_lead()
    assert new_epoch == old_epoch + 1
    with pytest.raises(StaleEpochError) as refusal:
        await older.append([opened("b")], epoch=old_epoch)
    assert refusal.value.current == new_epoch
    with pytest.raises(StaleEpochError):
        await newer.append([opened("b")], epoch=Epoch(new_epoch + 1))
    await newer.append([opened("b")], epoch=new_epoch)
    assert [record.position for record in await newer.read(Position(0), 10)] == [1, 2]


async def test_a_moment_without_an_offset_is_refused(log: EventLog) -> None:
    told = opened("a")
    naive = NewEvent(told.event_id, told.event, told.metadata, datetime(2026, 11, 23, 21, 0))  # noqa: DTZ001
    with pytest.raises(ValueError, match="no offset"):
        await log.append([naive], epoch=await log.take_lead())
    assert await log.head() == 0


async def test_an_empty_batch_changes_nothing(log: EventLog) -> None:
    assert await log.append([], epoch=await log.take_lead()) == []


async def test_a_cancelled_append_is_whole_or_absent_and_the_log_goes_on(log: EventLog) -> None:
    epoch = await log.take_lead()
    for attempt in range(20):
        task = asyncio.ensure_future(log.append([opened(f"a{attempt}"), opened(f"b{attempt}")], epoch=epoch))
        for _ in range(attempt * 3):
            await asyncio.sleep(0)
        await asyncio.sleep(attempt / 2000)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    recorded = await log.append([opened("last")], epoch=epoch)
    names = {record.stream.rpartition("/")[2] for record in await log.read(Position(0), 1000)}
    assert all((f"a{n}" in names) == (f"b{n}" in names) for n in range(20))
    assert recorded[0].position == await log.head()
    assert (await log.verify()).sound


async def test_waiting_ends_when_the_event_is_appended_here_or_elsewhere(open_log: Open) -> None:
    here, elsewhere = await open_log(), await open_log()
    epoch = await here.take_lead()
    waiting = asyncio.ensure_future(here.wait_for(Position(1), 30))
    await asyncio.sleep(0)
    await here.append([opened("a")], epoch=epoch)
    assert await waiting
    waiting = asyncio.ensure_future(here.wait_for(Position(2), 30))
    await asyncio.sleep(0)
    await elsewhere.append([opened("b")], epoch=epoch)
    assert await waiting
    assert not await here.wait_for(Position(3), 0.01)


async def test_somebody_else_reads_while_a_transaction_is_being_written(log: EventLog, database: Database) -> None:
    await log.append([opened("a")], epoch=await log.take_lead())
    writer = engine.open_engine(database.url)
    async with engine.writing(writer) as connection:
        await connection.exec_driver_sql("UPDATE log_head SET epoch = epoch + 1")
        answer = await asyncio.to_thread(database.sql, "SELECT count(*), max(epoch) FROM events, log_head")
    await writer.dispose()
    assert answer == [(1, 1)]


async def test_a_log_that_another_process_keeps_locked_is_unavailable_not_broken(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "BUSY_TIMEOUT_SECONDS", 0.5)
    holder, waiter = engine.open_engine(database.url), await EventLog.open(database.url)
    try:
        epoch = await waiter.take_lead()
        async with engine.writing(holder) as connection:
            await connection.exec_driver_sql("UPDATE log_head SET epoch = epoch")
            with pytest.raises(LogUnavailableError) as refusal:
                await waiter.append([opened("a")], epoch=epoch)
        assert refusal.value.failure.code == "log-busy"
        await waiter.append([opened("a")], epoch=epoch)
    finally:
        await holder.dispose()
        await waiter.close()


@pytest.mark.parametrize("engine_name", ["sqlite"])
async def test_every_commit_is_synced_to_disk_by_sqlite(database: Database) -> None:
    opened_engine = engine.open_engine(database.url)
    await engine.make_ready(opened_engine)
    async with engine.reading(opened_engine) as connection:
        assert (await connection.exec_driver_sql("PRAGMA synchronous")).scalar_one() == 2
        assert (await connection.exec_driver_sql("PRAGMA journal_mode")).scalar_one() == "wal"
    await opened_engine.dispose()


@pytest.mark.parametrize("engine_name", ["postgresql"])
async def test_a_postgresql_that_forgets_commits_is_refused(database: PostgresDatabase) -> None:
    database.sql(f"ALTER DATABASE {database.name} SET synchronous_commit = off")
    with pytest.raises(LogUnavailableError) as refusal:
        await EventLog.open(database.url)
    assert refusal.value.failure.code == "log-not-durable"


@pytest.mark.parametrize("engine_name", ["postgresql"])
async def test_a_postgresql_that_is_away_is_waited_for_like_any_unavailable_log(
    log: EventLog, database: PostgresDatabase
) -> None:
    epoch = await log.take_lead()
    database.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await asyncio.sleep(0.1)  # one that was used a moment ago is not asked whether it is still there
    assert await log.append([opened("a")], epoch=epoch), "a connection that was cut is made anew"
    with pytest.raises(LogUnavailableError) as refusal:
        await EventLog.open("postgresql://nobody@127.0.0.1:9/nothing")
    assert refusal.value.failure.code == "log-unavailable"


COLUMNS = "stream, version, event_id, type, schema_version, data, metadata, occurred_at, recorded_at, hash"
OFFENCES = {
    "both": [
        "UPDATE events SET data = '{}'",
        "DELETE FROM events",
        "UPDATE log_head SET position = 0",
        "UPDATE log_head SET epoch = 0",
        "DELETE FROM log_head",
        "DELETE FROM event_ids",
        "UPDATE event_ids SET position = 7",
        "DELETE FROM streams",
        (
            f"INSERT INTO events (position, {COLUMNS}) SELECT position + 1, stream, version + 2, "
            "'00000000-0000-0000-0000-000000000000', type, schema_version, data, metadata, occurred_at, recorded_at, hash "
            "FROM events"
        ),
        (
            f"INSERT INTO events (position, {COLUMNS}) SELECT position + 1, stream, version, "
            "'00000000-0000-0000-0000-000000000000', type, schema_version, data, metadata, occurred_at, recorded_at, hash "
            "FROM events"
        ),
    ],
    "sqlite": [
        f"INSERT OR REPLACE INTO events (position, {COLUMNS}) SELECT position, {COLUMNS} FROM events",
        f"INSERT OR REPLACE INTO events (position, {COLUMNS}) SELECT 2, {COLUMNS} FROM events",
    ],
    "postgresql": [
        "TRUNCATE events",
        "TRUNCATE log_head",
        "TRUNCATE event_ids",
        "UPDATE events_000000 SET data = '{}'",
        "DELETE FROM events_000000",
        "TRUNCATE events_000000",
        (
            "INSERT INTO events_000001 SELECT 10000001, stream, 2, event_id, type, schema_version, data, metadata, "
            "command_id, occurred_at, recorded_at, hash FROM events"
        ),
    ],
}


async def test_the_database_itself_refuses_to_change_events(log: EventLog, database: Database) -> None:
    recorded = await log.append(
        [new(ColdStartChosen(key=KEY, incarnation=ONE, reason=BROKEN.cause))], epoch=await log.take_lead()
    )
    for statement in OFFENCES["both"] + OFFENCES[database.engine]:
        with pytest.raises(Exception, match=r"never|duplicate"):
            database.sql(statement)
    for again in ("position", "2"):
        with pytest.raises(Exception, match=r"never|duplicate"):
            database.sql(f"INSERT INTO events (position, {COLUMNS}) SELECT {again}, {COLUMNS} FROM events")
    assert await log.read(Position(0), 10) == recorded
    assert (await log.verify()).sound


async def test_an_old_event_is_read_as_a_new_one_and_stays_as_it_was_written(
    open_log: Open, database: Database, sql: Sql
) -> None:
    log = await open_log()
    await log.append([new(ColdStartChosen(key=KEY, incarnation=ONE, reason="none yet"))], epoch=await log.take_lead())
    written = sql("SELECT data, hash FROM events")

    def explain(data: dict[str, object]) -> dict[str, object]:
        return data | {"reason": f"{data['reason']} (told in the old way)"}

    upcasts = Upcasts({("incarnation.cold-start-chosen", 1): explain}, current=2)
    later = await EventLog.open(database.url, upcasts=upcasts)
    try:
        (record,) = await later.read(Position(0), 10)
        assert isinstance(record.event, ColdStartChosen)
        assert record.event.reason == "none yet (told in the old way)"
        assert sql("SELECT data, hash FROM events") == written
        assert (await later.verify()).sound
    finally:
        await later.close()


async def test_recorded_events_are_found_by_their_ids(log: EventLog) -> None:
    told = [opened("a"), opened("b")]
    recorded = await log.append(told, epoch=await log.take_lead())
    found = await log.recorded([told[1].event_id, opened("c").event_id])
    assert found == {told[1].event_id: recorded[1]}


async def test_a_lead_is_checked_without_an_append(log: EventLog) -> None:
    epoch = await log.take_lead()
    await log.check_lead(epoch)
    await log.take_lead()
    with pytest.raises(StaleEpochError):
        await log.check_lead(epoch)
