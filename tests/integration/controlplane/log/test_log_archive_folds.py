"""What has to be folded from the first event is folded from the archive's files, or told to be impossible; nothing dies of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from nats.aio.client import Client
from support.archives import FORM, SEGMENT_EVENTS, loop_on
from support.databases import Database
from support.logstory import opened
from support.servers import ControlPlaneProcess

from controlplane.core import state_cache
from controlplane.log import ArchivedRangeError, ArchiveUnusableError, EventLog, NewEvent
from controlplane.log.archive.writer import Archive
from controlplane.log.projections import fold
from woodfrog.protocol import subjects
from woodfrog.protocol.ids import Position

Open = Callable[..., Awaitable[EventLog]]
VIEWS = ("checkpoint_history", "latest_snapshots", "restore_history", "failures", "nodes", "commands")


async def take_away(archive: Archive) -> int:
    segments = await archive.archive(Position(10_000), form=state_cache.fingerprint(), segment_positions=SEGMENT_EVENTS)
    assert len(segments) >= 3
    return segments[-1].last_position


@pytest.fixture
async def open_with() -> AsyncIterator[Open]:
    logs: list[EventLog] = []

    async def open_one(database: Database, archive: Path | None) -> EventLog:
        logs.append(await EventLog.open(database.url, archive=archive))
        return logs[-1]

    yield open_one
    for log in logs:
        await log.close()


async def shown(log: EventLog) -> dict[str, list[dict[str, object]]]:
    return {view: await log.query(view) for view in VIEWS}  # type: ignore[arg-type]


async def test_a_new_version_of_the_fold_reads_archived_events_from_their_files(
    storied: EventLog,
    archive: Archive,
    database: Database,
    folder: Path,
    open_with: Open,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = await shown(storied)
    await take_away(archive)
    monkeypatch.setattr(fold, "VERSION", fold.VERSION + 1)
    database.sql("UPDATE snapshots SET status = 'failed'")
    log = await open_with(database, folder)
    assert await log.refreshed() is None
    assert await shown(log) == before
    assert await log.differences() == ()
    await log.append([opened("next")], epoch=await log.take_lead())
    assert [row["id"] for row in await log.query("restore_history")][-1] == "next"


async def test_without_the_files_a_new_version_says_so_once_and_goes_on_with_views_that_stand_still(
    storied: EventLog,
    archive: Archive,
    database: Database,
    folder: Path,
    open_with: Open,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = await shown(storied)
    await take_away(archive)
    monkeypatch.setattr(fold, "VERSION", fold.VERSION + 1)
    log = await open_with(database, None)
    failure = await log.refreshed()
    assert failure is not None
    assert failure.code == "views-not-rebuilt"
    assert "stand still" in failure.cause
    assert "WOODFROG_LOG_ARCHIVE" in failure.advice
    recorded = await log.append([opened("next")], epoch=await log.take_lead())
    assert await log.head() == recorded[0].position
    assert await shown(log) == before
    assert database.sql("SELECT building_generation FROM projection_state") == [(None,)]
    with pytest.raises(ArchivedRangeError, match="no longer in the table"):
        await log.rebuild()

    again = await open_with(database, folder)
    assert await again.refreshed() is None
    assert [row["id"] for row in await again.query("restore_history")][-1] == "next"
    assert await again.differences() == ()


async def test_a_damaged_file_stops_a_rebuild_and_nothing_else_and_a_mended_one_lets_it_go_on(
    storied: EventLog,
    archive: Archive,
    database: Database,
    folder: Path,
    open_with: Open,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = await shown(storied)
    await take_away(archive)
    damaged = folder / (await archive.segments())[1].file
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    monkeypatch.setattr(fold, "VERSION", fold.VERSION + 1)
    log = await open_with(database, folder)
    failure = await log.refreshed()
    assert failure is not None
    assert "not the one that was archived" in failure.cause
    assert await shown(log) == before
    with pytest.raises(ArchiveUnusableError):
        await log.rebuild()
    damaged.write_bytes(content)
    await log.rebuild()
    assert await shown(log) == before
    assert await log.differences() == ()


async def test_records_of_the_archive_that_were_changed_are_not_folded_by(
    storied: EventLog, archive: Archive, database: Database, folder: Path, open_with: Open
) -> None:
    await take_away(archive)
    database.drop_guards()
    database.sql("UPDATE archived_segments SET file_digest = hash WHERE first_position = 1")
    log = await open_with(database, folder)
    with pytest.raises(ArchiveUnusableError, match="not as it was written"):
        await log.read(Position(0), 10)


async def test_a_log_is_read_through_its_files_in_any_pages_while_more_is_archived(
    told: list[NewEvent], small: EventLog, archive: Archive, database: Database, folder: Path, open_with: Open
) -> None:
    whole = await small.read(Position(0), 100)
    rows = await small.rows(Position(0), 100)
    log = await open_with(database, folder)
    for through in (12, 25, 35):
        await archive.archive(Position(through), form=FORM, segment_positions=SEGMENT_EVENTS)
        for limit in (1, 7, 100):
            found = []
            while page := await log.read(Position(len(found)), limit):
                found += page
            assert found == whole
        assert (await log.read(Position(17), 1))[0] == whole[17]
        written = []
        while page_of_rows := await log.rows(Position(len(written)), 9):
            written += page_of_rows
        assert written == rows


async def test_a_new_form_of_the_state_is_folded_from_the_files_or_refused_with_advice(
    storied: EventLog,
    archive: Archive,
    database: Database,
    folder: Path,
    open_with: Open,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = await loop_on(storied)
    await loop.load()
    await take_away(archive)
    covered = await loop_on(await open_with(database, None))
    await covered.load()
    assert covered._state == loop._state

    monkeypatch.setattr(state_cache, "fingerprint", lambda: "of another version")
    folded = await loop_on(await open_with(database, folder))
    await folded.load()
    assert folded._state == loop._state
    assert folded.open_commands == loop.open_commands

    stuck = await loop_on(await open_with(database, None))
    with pytest.raises(ArchivedRangeError) as refusal:
        await stuck.load()
    assert "this version" in refusal.value.failure.cause
    assert "WOODFROG_LOG_ARCHIVE" in refusal.value.failure.advice


@pytest.mark.nats
@pytest.mark.timeout(120)
async def test_a_control_plane_leads_on_a_log_with_archived_events_whatever_version_it_is(
    storied: EventLog,
    archive: Archive,
    database: Database,
    folder: Path,
    client: Client,
    make_control_plane: Callable[..., ControlPlaneProcess],
) -> None:
    await take_away(archive)
    with_files = make_control_plane(WOODFROG_DATABASE_URL=database.url, WOODFROG_LOG_ARCHIVE=str(folder))
    without = make_control_plane(WOODFROG_DATABASE_URL=database.url)

    with_files.start()
    head = await storied.head()
    for _ in range(200):
        if (await client.jetstream().stream_info(subjects.AUDIT_STREAM)).state.messages >= head:
            break
        await asyncio.sleep(0.1)
    with_files.stop()

    database.sql("UPDATE projection_state SET version = 0")
    without.start()
    assert without.wait_for("the views cannot be rebuilt")["code"] == "views-not-rebuilt"
    without.stop()
    assert len(without.lines("the views cannot be rebuilt")) == 1

    database.sql("DELETE FROM state_copies")
    without.spawn()
    assert without.wait() == 1
    (ended,) = without.lines("the control plane ends")
    assert ended["code"] == "log-archived"
    assert "WOODFROG_LOG_ARCHIVE" in ended["error"]

    with_files.start()
    for _ in range(200):
        if database.sql("SELECT version FROM projection_state") == [(fold.VERSION,)]:
            break
        await asyncio.sleep(0.1)
    with_files.stop()
    assert database.sql("SELECT version FROM projection_state") == [(fold.VERSION,)]
