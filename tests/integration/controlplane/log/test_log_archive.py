"""Archived events leave the table and nothing becomes unprovable; partitions come by themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from support.archives import FORM, SEGMENT_EVENTS
from support.databases import Database, PostgresDatabase
from support.logstory import opened

from controlplane.log import (
    ArchivedEventError,
    ArchivedRangeError,
    ArchiveError,
    EventLog,
    LogUnavailableError,
    NewEvent,
)
from controlplane.log.admin import roles
from controlplane.log.admin.migrate import downgrade
from controlplane.log.archive.writer import Archive, Segment
from controlplane.log.sql import engine
from woodfrog.protocol.ids import Position
from woodfrog.service import faultpoints

Sql = Callable[..., list[tuple[object, ...]]]


async def take_away(archive: Archive, through: int = 35) -> list[Segment]:
    return await archive.archive(Position(through), form=FORM, segment_positions=SEGMENT_EVENTS)


async def test_whole_segments_go_and_the_rest_stays_and_all_is_proved(
    small: EventLog, told: list[NewEvent], archive: Archive, sql: Sql
) -> None:
    before = await small.read(Position(0), 100)
    segments = await take_away(archive)
    assert [(one.first_position, one.last_position) for one in segments] == [(1, 10), (11, 20), (21, 30)]
    assert await archive.segments() == segments
    assert sql("SELECT min(position), max(position), count(*) FROM events") == [(31, 35, 5)]
    verification = await small.verify()
    assert (verification.sound, verification.events, verification.archived) == (True, 5, 30)
    whole = await archive.verify()
    assert (whole.sound, whole.events) == (True, 35)
    filed = [record for segment in segments for record in archive.recorded(segment)]
    assert filed + await small.read(Position(30), 100) == before


async def test_the_log_goes_on_and_the_next_segment_follows(
    small: EventLog, told: list[NewEvent], archive: Archive
) -> None:
    await take_away(archive, through=19)
    epoch = await small.take_lead()
    recorded = await small.append([opened("a", number) for number in range(36, 46)], epoch=epoch)
    await small.save_state(Position(45), FORM, [b"state"], epoch=epoch)
    assert (recorded[0].position, recorded[-1].position) == (36, 45)
    assert [one.first_position for one in await take_away(archive, through=45)] == [11, 21, 31]
    assert (await archive.verify()).events == 45
    assert (await archive.verify()).sound


async def test_the_newest_event_is_never_archived(small: EventLog, archive: Archive) -> None:
    await small.append([opened("a", number) for number in range(1, 11)], epoch=await small.take_lead())
    assert await take_away(archive) == []


async def test_no_reader_skips_what_was_archived(small: EventLog, told: list[NewEvent], archive: Archive) -> None:
    await take_away(archive)
    for after in (0, 29):
        with pytest.raises(ArchivedRangeError, match="no longer in the table"):
            await small.read(Position(after), 100)
    assert [record.position for record in await small.read(Position(30), 2)] == [31, 32]


async def test_an_archived_event_that_is_told_again_is_refused_and_never_recorded_twice(
    small: EventLog, told: list[NewEvent], archive: Archive, sql: Sql
) -> None:
    await take_away(archive)
    epoch = await small.take_lead()
    with pytest.raises(ArchivedEventError) as refusal:
        await small.append([opened("z"), told[4]], epoch=epoch)
    assert refusal.value.position == 5
    assert await small.head() == 35
    assert (await small.append([told[33]], epoch=epoch))[0].position == 34
    for taken in ("36, 'checkpoint/local/default/a', 1", "5, 'b', 1"):
        with pytest.raises(Exception, match=r"never|no partition|duplicate"):
            sql(
                f"INSERT INTO events SELECT {taken}, '00000000-0000-0000-0000-000000000000', type, schema_version, data, "
                "metadata, command_id, occurred_at, recorded_at, hash FROM events LIMIT 1"
            )


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE archived_segments SET last_position = 29 WHERE first_position = 21", "not as it was written"),
        ("DELETE FROM archived_segments WHERE first_position = 11", "no archived segment begins at position 11"),
        ("DELETE FROM archived_segments WHERE first_position = 21", "heads of the archived chains"),
        ("UPDATE archived_heads SET version = version + 1 WHERE stream LIKE '%/a'", "heads of the archived chains"),
        ("DELETE FROM events WHERE position = 31", "positions 31 to 31 are missing"),
    ],
)
async def test_whoever_tampers_with_the_archives_records_is_found_out(
    small: EventLog, told: list[NewEvent], archive: Archive, database: Database, statement: str, said: str
) -> None:
    await take_away(archive)
    database.drop_guards()
    database.sql(statement)
    assert any(said in problem.what for problem in (await small.verify()).problems)


async def test_a_file_that_was_changed_or_lost_is_found_out(
    small: EventLog, told: list[NewEvent], archive: Archive, tmp_path: Path
) -> None:
    segments = await take_away(archive)
    file = tmp_path / "archive" / segments[1].file
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "not the one" in (await archive.verify()).problems[0].what
    file.unlink()
    assert "cannot be read" in (await archive.verify()).problems[0].what


async def test_a_segment_that_is_not_sound_is_not_archived(
    small: EventLog, told: list[NewEvent], archive: Archive, database: Database
) -> None:
    database.drop_guards()
    database.sql("UPDATE events SET metadata = '{}' WHERE position = 15")
    with pytest.raises(ArchiveError, match="position 15"):
        await take_away(archive)
    assert [one.last_position for one in await archive.segments()] == [10]
    assert database.sql("SELECT count(*) FROM events") == [(25,)]


async def test_a_death_before_the_commit_loses_nothing_and_the_next_attempt_goes_on(
    small: EventLog, told: list[NewEvent], archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(name: str) -> None:
        if name == "log.archive.before-commit":
            raise faultpoints.FaultError(name)

    with monkeypatch.context() as patched:
        patched.setattr(faultpoints, "reach", die)
        with pytest.raises(faultpoints.FaultError):
            await take_away(archive)
    assert len(await small.read(Position(0), 100)) == 35
    assert len(await take_away(archive)) == 3
    assert (await archive.verify()).sound


async def test_nothing_is_archived_that_no_readable_copy_of_the_state_covers(
    small: EventLog, told: list[NewEvent], archive: Archive, database: Database
) -> None:
    async def refused(through: int) -> str:
        with pytest.raises(ArchiveError) as refusal:
            await take_away(archive, through)
        assert refusal.value.failure.code == "archive-uncovered"
        assert database.sql("SELECT count(*) FROM events") == [(35,)]
        assert await archive.segments() == []
        return str(refusal.value)

    epoch = await small.take_lead()
    database.sql("DELETE FROM state_copies")
    assert "there is none" in await refused(10)
    await small.save_state(Position(20), FORM, [b"a", b"b"], epoch=epoch)
    assert "before position 20" in await refused(30)
    assert "covers position 20" in await refused(20)  # a copy is known to be of this log by the event at its position
    database.sql("UPDATE state_copies SET form = 'of another version'")
    assert "there is none" in await refused(10)
    database.sql(f"UPDATE state_copies SET form = '{FORM}'")
    database.sql("DELETE FROM state_copy_parts WHERE part = 1")
    assert "there is none" in await refused(10)
    await small.save_state(Position(21), FORM, [b"a", b"b"], epoch=epoch)
    assert len(await take_away(archive, 20)) == 2
    assert (await small.load_state(FORM)) == (21, [b"a", b"b"])


async def test_a_copy_that_goes_while_a_segment_is_written_keeps_the_segment(
    small: EventLog, told: list[NewEvent], archive: Archive, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose_it(name: str) -> None:
        if name == "log.archive.file-placed":
            database.sql("DELETE FROM state_copies")

    monkeypatch.setattr(faultpoints, "reach", lose_it)
    with pytest.raises(ArchiveError, match="archive-uncovered"):
        await take_away(archive)
    assert len(await small.read(Position(0), 100)) == 35


async def test_nothing_is_archived_while_the_tables_behind_the_views_are_to_be_folded_anew(
    small: EventLog, told: list[NewEvent], archive: Archive, database: Database
) -> None:
    for what in ("version = 0", "version = 1, building_generation = 2, building_version = 1, building_position = 5"):
        database.sql(f"UPDATE projection_state SET {what}")
        with pytest.raises(ArchiveError, match="to be folded"):
            await take_away(archive)
    await small.rebuild()
    assert len(await take_away(archive)) == 3


async def test_two_who_archive_at_once_never_lose_a_file_that_is_recorded(
    small: EventLog, told: list[NewEvent], archive: Archive, database: Database, folder: Path
) -> None:
    other = await Archive.open(database.url, folder)
    try:
        done = await asyncio.gather(take_away(archive), take_away(other), return_exceptions=True)
    finally:
        await other.close()
    assert all(isinstance(each, list | ArchiveError | LogUnavailableError) for each in done)
    await take_away(archive)
    whole = await archive.verify()
    assert (whole.sound, whole.events) == (True, 35)
    assert not await asyncio.to_thread(lambda: list(folder.glob("*.unfinished")))


@pytest.mark.parametrize("engine_name", ["postgresql"])
async def test_only_the_tables_owner_archives(
    small: EventLog, told: list[NewEvent], tmp_path: Path, database: PostgresDatabase
) -> None:
    await roles.apply(database.url)
    archive = await Archive.open(database.server.url(database.name, user=roles.CONTROLLER), tmp_path)
    with pytest.raises(ArchiveError, match="archive-not-owner"):
        await take_away(archive)
    await archive.close()


@pytest.mark.parametrize("engine_name", ["postgresql"])
async def test_a_reader_that_holds_the_table_delays_archiving_and_is_not_disturbed(
    small: EventLog,
    told: list[NewEvent],
    tmp_path: Path,
    database: PostgresDatabase,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine, "BUSY_TIMEOUT_SECONDS", 0.5)
    archive = await Archive.open(database.url, tmp_path)
    reader = engine.open_engine(database.url)
    async with engine.reading(reader) as connection:
        await connection.exec_driver_sql("SELECT count(*) FROM events")
        with pytest.raises(LogUnavailableError) as refusal:
            await take_away(archive)
        assert refusal.value.failure.code == "log-busy"
    await reader.dispose()
    assert len(await take_away(archive)) == 3
    await archive.close()


@pytest.mark.parametrize("engine_name", ["postgresql"])
async def test_partitions_come_before_they_are_needed_and_no_reader_holds_them_up(
    small: EventLog, database: PostgresDatabase
) -> None:
    epoch = await small.take_lead()
    reader = engine.open_engine(database.url)
    async with engine.reading(reader) as connection:
        await connection.exec_driver_sql("SELECT count(*) FROM events")
        for number in range(1, 64):
            await small.append([opened("a", number)], epoch=epoch)
    await reader.dispose()
    assert database.sql("SELECT count(*) FROM pg_inherits WHERE inhparent = 'events'::regclass") == [(8,)]
    assert (await small.verify()).sound
    assert "events_000003" in str(database.sql("EXPLAIN SELECT * FROM events WHERE position = 35"))
    assert "events_000002" not in str(database.sql("EXPLAIN SELECT * FROM events WHERE position = 35"))


async def test_a_log_with_archived_events_does_not_go_back_to_a_schema_that_cannot_say_so(
    small: EventLog, told: list[NewEvent], archive: Archive, database: Database
) -> None:
    await take_away(archive)
    with pytest.raises(RuntimeError, match="archived"):
        await downgrade(database.url, "0001")
    assert (await archive.verify()).sound
