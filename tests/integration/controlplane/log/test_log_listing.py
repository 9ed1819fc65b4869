"""Pages of the views and the log, and what they come to, on both engines."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event
from support.databases import Database
from support.logstory import KEY, NODE_A, START, new, opened, story

from controlplane.http.api.database import Reader as LookingThrough
from controlplane.log import EventLog, NewEvent, read, summary
from controlplane.log import pages as listing
from controlplane.log.pages import Scope
from controlplane.log.schema import utc_text
from controlplane.log.sql.database import Database as Reader
from woodfrog.protocol.events import (
    CheckpointForgotten,
    ContainerEnded,
    ContainerStarted,
    SnapshotExpired,
    SnapshotImported,
    StartDeferred,
)
from woodfrog.protocol.facts import ContainerFacts, NodeFacts
from woodfrog.protocol.ids import CheckpointKey, ContainerId, IncarnationNumber, SnapshotId

ALL = Scope("local")


@pytest.fixture
async def reader(log: EventLog, database: Database) -> AsyncIterator[Reader]:
    epoch = await log.take_lead()
    await log.append(story(), epoch=epoch)
    other = CheckpointKey("local", "other", "a_b%c".replace("%", ".").replace("_", "-"))
    await log.append(
        [
            opened("a1"),
            opened("A2"),
            new(
                ContainerStarted(
                    key=other, incarnation=IncarnationNumber(1), node=NODE_A, container_id=ContainerId("o")
                )
            ),
        ],
        epoch=epoch,
    )
    reader = Reader(database.url)
    yield reader
    await reader.close()


async def test_pages_of_a_view_follow_one_another_and_miss_nothing(reader: Reader) -> None:
    def act(connection: listing.Connection) -> tuple[list[int], list[int]]:
        everything = listing.rows(connection, "restore_history", ALL, {}, None, 100)
        assert everything.next is None
        paged: list[int] = []
        before: int | None = None
        while True:
            page = listing.rows(connection, "restore_history", ALL, {}, before, 2)
            paged += [row["position"] for row in page.rows]
            if (before := page.next) is None:
                return [row["position"] for row in everything.rows], paged

    whole, paged = await reader.read(act)
    assert whole == paged == sorted(whole, reverse=True)
    assert len(whole) > 4


async def test_a_scope_shows_its_namespaces_and_nothing_else(reader: Reader) -> None:
    def act(connection: listing.Connection) -> None:
        mine, none = Scope("local", frozenset({"other"})), Scope("local", frozenset())
        assert {row["namespace"] for row in summary.ids(connection, mine, limit=100)} == {"other"}
        assert {row["stream"] for row in listing.events(connection, mine, [], [], None, 100).rows} == {
            "checkpoint/local/other/a-b.c"
        }
        _, rows = listing.events_after(connection, mine, [], [], 0, 100)
        assert len(rows) == 1
        assert listing.rows(connection, "failures", mine, {}, None, 100).rows == []
        assert summary.ids(connection, none, limit=100) == []
        assert listing.events(connection, none, [], [], None, 100).rows == []
        assert listing.events_after(connection, none, [], [], 0, 100)[1] == []
        assert summary.ids(connection, Scope("elsewhere"), limit=100) == []

    await reader.read(act)


async def test_pages_of_the_log_go_on_through_ranges_without_a_row(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "_SCANNED", 5)

    def act(connection: listing.Connection) -> None:
        found: list[int] = []
        before: int | None = None
        pages = 0
        while True:
            page = listing.events(connection, ALL, [], ["node.registered"], before, 10)
            found += [row["position"] for row in page.rows]
            pages += 1
            if (before := page.next) is None:
                break
        assert found == [2, 1]
        assert pages > 3
        position, followed = 0, []
        while True:
            position, rows = listing.events_after(connection, ALL, [], ["incarnation.opened"], position, 1)
            followed += rows
            if position == listing.events(connection, ALL, [], [], None, 1).rows[0]["position"]:
                break
        assert {row["type"] for row in followed} == {"incarnation.opened"}
        third = listing.recorded_at(connection, 3)
        later = listing.events(connection, ALL, [], [], None, 500, since=third)
        assert third is not None
        assert 0 < len(later.rows) <= 5
        assert all(row["recorded_at"] > utc_text(third) for row in later.rows)
        assert listing.events(connection, ALL, [], [], 3, 10, since=third) == listing.Page([], None)
        assert len(followed) == len({row["position"] for row in followed}) > 3

    await reader.read(act)


async def test_the_newest_state_of_each_id_with_its_snapshot(reader: Reader) -> None:
    def act(connection: listing.Connection) -> None:
        rows = summary.ids(connection, ALL, limit=100)
        assert [(row["namespace"], row["id"]) for row in rows] == sorted((row["namespace"], row["id"]) for row in rows)
        by_id = {row["id"]: row for row in rows}
        newest = by_id[KEY.id]
        history = listing.rows(connection, "restore_history", ALL, {"id": KEY.id}, None, 100).rows
        assert newest["incarnation"] == max(row["incarnation"] for row in history)
        assert newest["last_dump"] is not None
        assert by_id["a-b.c"]["state"] == "running"
        assert by_id["a-b.c"]["protected"] is False
        assert by_id["a1"]["state"] == "starting"
        assert [row["id"] for row in summary.ids(connection, ALL, search="a", state="starting", limit=100)] != []
        assert summary.ids(connection, ALL, search="%", limit=100) == []
        paged = summary.ids(connection, ALL, limit=2)
        rest = summary.ids(connection, ALL, after=(paged[-1]["namespace"], paged[-1]["id"]), limit=100)
        assert [row["id"] for row in paged + rest] == [row["id"] for row in rows]
        assert summary.ids(connection, ALL, state="protected", limit=9) == [
            row for row in rows if row["protected"] and row["state"] == "running"
        ]
        assert set(summary.namespaces(connection, "local")) == {"default", "other"}

    await reader.read(act)


async def test_a_forgotten_id_is_listed_only_if_it_is_asked_for_and_until_it_is_used_again(
    log: EventLog, database: Database
) -> None:
    gone, again, brought = (CheckpointKey("local", "default", name) for name in ("gone", "again", "brought"))
    one = IncarnationNumber(1)
    ends = [
        ContainerEnded(key=key, incarnation=one, node=NODE_A, container_id=ContainerId("c"))
        for key in (gone, again, brought)
    ]
    forgotten = [CheckpointForgotten(key=key, incarnation=one, idle_seconds=0.0) for key in (gone, again, brought)]
    never_here = CheckpointForgotten(key=CheckpointKey("local", "default", "never"), incarnation=one, idle_seconds=0.0)
    told = [
        *map(opened, ("gone", "again", "brought")),
        *map(new, (*ends, *forgotten, never_here)),
        imported("brought", 2),
        opened("again", 2),
    ]
    await log.append(told, epoch=await log.take_lead())
    reader = Reader(database.url)

    def listed(connection: listing.Connection, **asked: Any) -> dict[str, str]:
        return {row["id"]: row["state"] for row in summary.ids(connection, ALL, limit=100, **asked)}

    def act(connection: listing.Connection) -> None:
        assert listed(connection) == {"again": "starting", "brought": "ended"}
        assert listed(connection, state="forgotten") == {"gone": "forgotten"}
        assert listed(connection, only=("default", "gone")) == {"gone": "forgotten"}
        assert listing.rows(connection, "restore_history", ALL, {"id": "never"}, None, 9).rows == []
        counted = summary.overview(connection, ALL, datetime.now(UTC)).ids
        assert counted == {"starting": 1, "ended": 1, "forgotten": 1}

    await reader.read(act)
    await reader.close()


def imported(name: str, number: int, namespace: str = "default") -> NewEvent:
    event = SnapshotImported(
        key=CheckpointKey("local", namespace, name), incarnation=IncarnationNumber(number),
        snapshot_id=SnapshotId(f"20261123T210000Z-0000000{number}"), origin="elsewhere", manifest_digest="ab" * 32,
        raw_bytes=1, stored_bytes=1, taken_at=START, taken_on=NodeFacts(), taken_from=ContainerFacts(image="train:1"),
    )  # fmt: skip
    return new(event)


async def test_an_id_that_is_known_by_an_import_alone_is_listed_as_one_that_has_ended_until_it_is_started(
    log: EventLog, database: Database
) -> None:
    epoch = await log.take_lead()
    dropped = SnapshotExpired(
        key=CheckpointKey("local", "default", "dropped"), incarnation=IncarnationNumber(1),
        snapshot_id=SnapshotId("20261123T210000Z-00000001"), reason="nobody wants it", delete_after=START,
    )  # fmt: skip
    told = [
        opened("a"), imported("b", 1), imported("b", 2), opened("c"), imported("dropped", 1), new(dropped), imported("far", 1, "other"),
    ]  # fmt: skip
    await log.append(told, epoch=epoch)
    reader = Reader(database.url)

    def names(connection: listing.Connection, **asked: Any) -> list[str]:
        return [row["id"] for row in summary.ids(connection, ALL, **{"limit": 100, **asked})]

    def act(connection: listing.Connection) -> None:
        b = summary.ids(connection, ALL, only=("default", "b"), limit=1)[0]
        assert (b["state"], b["protected"], b["incarnation"], b["node"], b["started_at"]) == (
            "ended",
            True,
            2,
            None,
            None,
        )
        assert b["latest_snapshot"]["snapshot_id"] == "20261123T210000Z-00000002"
        assert names(connection) == ["a", "b", "c", "far"]
        assert names(connection, limit=2) == ["a", "b"]
        assert names(connection, after=("default", "a")) == ["b", "c", "far"]
        assert names(connection, search="B") == names(connection, state="ended", search="b") == ["b"]
        assert [names(connection, state=state) for state in ("running", "protected", "forgotten")] == [[], [], []]
        assert [row["id"] for row in summary.ids(connection, Scope("local", frozenset({"other"})), limit=9)] == ["far"]
        assert set(summary.namespaces(connection, "local")) == {"default", "other"}
        assert summary.overview(connection, ALL, datetime.now(UTC)).ids == {"starting": 2, "ended": 2}

    await reader.read(act)
    await log.append([opened("b", 3)], epoch=epoch)

    def started(connection: listing.Connection) -> None:
        (b,) = summary.ids(connection, ALL, search="b", limit=9)
        assert (b["state"], b["incarnation"]) == ("starting", 3)

    await reader.read(started)
    await reader.close()


async def test_the_container_of_an_id_is_the_newest_that_did_not_come_to_nothing(
    log: EventLog, database: Database
) -> None:
    runs, never, gone = (CheckpointKey("local", "default", name) for name in ("runs", "never", "gone"))

    def of(key: CheckpointKey, number: int) -> dict[str, Any]:
        return {"key": key, "incarnation": IncarnationNumber(number), "node": NODE_A, "container_id": ContainerId("c")}

    told = [
        *(opened(name, number) for name in ("runs", "gone") for number in (1, 2, 3)),
        *(opened("never", number) for number in (1, 2)),
        *(new(ContainerStarted(**of(key, 1), restored_from=None)) for key in (runs, gone)),
        *(new(ContainerEnded(**of(key, number), never_ran=True)) for key in (runs, gone) for number in (2, 3)),
        *(new(ContainerEnded(**of(never, number), never_ran=True)) for number in (1, 2)),
        new(ContainerEnded(**of(gone, 1))),
        new(CheckpointForgotten(key=gone, incarnation=IncarnationNumber(3), idle_seconds=0.0)),
    ]
    await log.append(told, epoch=await log.take_lead())
    reader = Reader(database.url)

    def act(connection: listing.Connection) -> None:
        rows = summary.ids(connection, ALL, limit=100)
        assert [(row["id"], row["incarnation"], row["state"]) for row in rows] == [
            ("never", 2, "ended"),
            ("runs", 1, "running"),
        ]
        assert summary.overview(connection, ALL, datetime.now(UTC)).ids == {"ended": 1, "running": 1, "forgotten": 1}

    await reader.read(act)
    await reader.close()


async def test_a_container_that_runs_is_its_ids_until_a_newer_one_does_or_waits_for_it(
    log: EventLog, database: Database
) -> None:
    """As ``woodfrog get ids`` says: what of the starts that are named there each is, in turn."""
    beside = {
        "rs": 1, "rss": 1, "rw": 2, "rws": 3, "rsw": 3, "rse": 3, "res": 3, "rrs": 2, "es": 2, "rn": 1, "rsn": 1, "s": 1, "nn": 2,
    }  # fmt: skip

    def of(name: str, number: int) -> dict[str, Any]:
        key = CheckpointKey("local", "default", name)
        return {"key": key, "incarnation": IncarnationNumber(number), "node": NODE_A, "container_id": ContainerId("c")}

    told: list[NewEvent] = []
    for name in beside:
        for number, how in enumerate(name, 1):
            told.append(opened(name, number))
            if how == "w":
                key, incarnation = CheckpointKey("local", "default", name), IncarnationNumber(number)
                told.append(
                    new(StartDeferred(key=key, incarnation=incarnation, waiting_for="a dump", until=datetime.now(UTC)))
                )
            if how in "re":
                told.append(new(ContainerStarted(**of(name, number), restored_from=None)))
            if how in "en":
                told.append(new(ContainerEnded(**of(name, number), never_ran=how == "n")))
    await log.append(told, epoch=await log.take_lead())
    reader = Reader(database.url)

    def act(connection: listing.Connection) -> None:
        rows = summary.ids(connection, ALL, limit=100)
        assert {row["id"]: row["incarnation"] for row in rows} == beside
        assert len(rows) == len(beside)

    await reader.read(act)
    await reader.close()


async def test_an_hour_and_the_causes_of_failures(reader: Reader) -> None:
    def act(connection: listing.Connection) -> None:
        now = summary.overview(connection, ALL, datetime.now(UTC))
        assert sum(now.ids.values()) == len(summary.ids(connection, ALL, limit=100))
        assert now.hour.failures
        assert now.hour.freeze_seconds.count > 0
        assert now.hour.freeze_seconds.p50 is not None
        assert all("2026" not in reason.reason for reason in now.hour.cold_reasons)
        later = summary.overview(connection, ALL, datetime.now(UTC) + timedelta(hours=2))
        assert later.hour.dumps == {}
        assert later.ids == now.ids
        causes = summary.causes(connection, ALL, None, 10)
        assert {cause.failure_code: cause.count for cause in causes} == now.hour.failures
        assert all(cause.newest["failure_code"] == cause.failure_code for cause in causes)
        assert listing.position_at(connection, START - timedelta(days=9999)) == 0

    await reader.read(act)


async def test_of_each_node_its_newest_registration_is_read(reader: Reader) -> None:
    def act(connection: listing.Connection) -> list[tuple[str, str]]:
        return [
            (row["type"], row["stream"])
            for row in listing.of_nodes(connection, listing.registrations(connection, 2**53), 2**53, 0)
        ]

    told = await reader.read(act)
    assert [kind for kind, _ in told] == ["node.registered"] * len(told)
    assert sorted({stream for _, stream in told}) == sorted(stream for _, stream in told) != []


async def test_what_people_look_through_takes_no_turn_of_the_event_loop(database: Database) -> None:
    looking = LookingThrough(database.url)
    await looking.read(lambda _: None)
    reading = asyncio.create_task(looking.read(lambda _: time.sleep(1)))
    longest, last = 0.0, time.monotonic()
    while not reading.done():
        await asyncio.sleep(0.01)
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
    assert longest < 0.7
    await looking.close()


def test_a_spread_is_by_nearest_rank() -> None:
    assert summary.spread([]) == summary.Spread(0)
    assert summary.spread([None, 5.0]) == summary.Spread(1, 5.0, 5.0, 5.0, 5.0)
    assert summary.spread(range(1, 101)) == summary.Spread(100, 50, 90, 99, 100)


async def test_what_is_asked_of_one_id_is_found_by_its_own_index(reader: Reader) -> None:
    """SQLite would walk through every row of the log in their order; with a million of them that takes most of a second."""

    def act(connection: listing.Connection) -> None:
        if connection.dialect.name != "sqlite":
            return
        asked: list[tuple[str, Any]] = []
        event.listen(connection, "before_cursor_execute", lambda *told: asked.append((told[2], told[3])))
        for view in ("checkpoint_history", "restore_history", "latest_snapshots", "failures", "commands"):
            equal = {"namespace": KEY.namespace, "id": KEY.id}
            assert listing.rows(connection, view, ALL, equal, None, 100).rows
            assert read.query(connection, view, key=KEY, command_id=None, limit=100)
        listing.events(connection, ALL, [], [], None, 1)
        statements, asked[:] = list(asked), []
        assert len(statements) == 12
        for statement, values in statements:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values).all()
            steps = [str(step[-1]) for step in plan]
            assert not any("generation_position" in step or step.startswith("SCAN events") for step in steps), steps

    await reader.read(act)
