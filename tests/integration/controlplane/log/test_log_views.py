"""The views tell the story that the events tell, and the same after a rebuild."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, get_args

import msgspec
import pytest
from support.databases import Database
from support.logstory import KEY, new, opened, put_one_aside, story

from controlplane.log import EventLog, NewEvent, ViewFilterError
from controlplane.log.admin.migrate import downgrade, upgrade
from controlplane.log.projections import rebuild
from controlplane.log.projections.views import CONTRACT
from controlplane.log.schema import PROJECTIONS
from controlplane.log.upcast import UPCASTS
from woodfrog.protocol.events import NodeLost, NodeRegistered
from woodfrog.protocol.facts import GpuFacts, NodeFacts
from woodfrog.protocol.ids import CheckpointKey, CommandId, NodeName, WorkerId
from woodfrog.protocol.requests import View

Sql = Callable[..., list[tuple[object, ...]]]


@pytest.fixture
async def written(log: EventLog, database: Database) -> EventLog:
    epoch = await log.take_lead()
    await log.append([*story(), opened("other")], epoch=epoch)
    await put_one_aside(database.url, epoch)
    return log


def only(rows: list[dict[str, Any]], *columns: str) -> list[tuple[Any, ...]]:
    return [tuple(row[column] for column in columns) for row in rows]


async def test_every_snapshot_has_its_row_with_how_it_ended(written: EventLog) -> None:
    rows = await written.query("checkpoint_history", key=KEY)
    assert only(rows, "status", "trigger", "final", "failure_code", "superseded_by") == [
        ("valid", "command", False, None, None),
        ("failed", "command", False, "disk-full", None),
        ("invalidated", "stop-signal", True, None, None),
        ("superseded", "stop-signal", True, None, 2),
        ("dumping", "stop-signal", True, None, None),
    ]
    assert only(rows[:1], "freeze_seconds", "raw_bytes", "stored_bytes", "store_seconds", "command_id") == [
        (0.5, 4096, 1024, 1.5, "command-1")
    ]
    assert rows[0]["dump_started_at"] == "2026-11-23T21:00:06.000000Z"
    assert rows[0]["captured_at"] < rows[0]["stored_at"]
    assert rows[1]["failure_stage"] == "preflight"
    assert rows[2]["invalidated_reason"] == "two nodes could not restore it"


async def test_the_latest_snapshot_is_the_newest_that_is_still_valid(written: EventLog) -> None:
    rows = await written.query("latest_snapshots")
    assert only(rows, "id", "snapshot_id", "incarnation") == [("train-7", "20261123T210000Z-00000000", 1)]


async def test_every_start_has_its_row_with_what_was_chosen_and_why(written: EventLog) -> None:
    rows = await written.query("restore_history", key=KEY)
    assert only(rows, "incarnation", "node", "choice", "snapshot_id", "reason", "failed_restores", "exit_code") == [
        (1, "node-a", "cold", None, "no snapshot yet", 0, 143),
        (2, "node-b", "restored", "20261123T210000Z-00000000", "the one before", 1, None),
    ]
    assert only(rows, "waited_for", "restored_from", "create_seconds") == [
        (None, None, 0.25),
        ("the final dump on node-a", "20261123T210000Z-00000000", 2.5),
    ]
    assert rows[0]["ended_at"] is not None
    assert rows[1]["ended_at"] is None


async def test_a_failed_dump_of_a_command_is_counted_once(written: EventLog) -> None:
    rows = await written.query("failures")
    assert only(rows, "type", "stage", "failure_code", "node", "command_id") == [
        ("snapshot.dump-failed", "preflight", "disk-full", "node-a", "command-2"),
        ("incarnation.restore-failed", "criu", "criu-failed", "node-b", None),
    ]
    assert rows[1]["failure_detail"] == "Error (x)"


async def test_nodes_and_commands_show_how_they_stand(written: EventLog) -> None:
    assert only(await written.query("nodes"), "node", "status", "silent_seconds", "criu_version") == [
        ("node-a", "lost", 16.0, "4.1.1"),
        ("node-b", "ready", None, "4.1.1"),
    ]
    assert only(await written.query("commands"), "command_id", "status", "snapshot_id", "failure_code") == [
        ("command-1", "succeeded", "20261123T210000Z-00000000", None),
        ("command-2", "failed", "20261123T210010Z-00000001", "disk-full"),
    ]


GPU = ("gpu_driver", "gpu_count", "gpu_models", "gpu_memory_bytes", "gpus")


def registered(node: str, facts: NodeFacts) -> NewEvent:
    return new(NodeRegistered(node=NodeName(node), worker_id=WorkerId(f"{node}-1"), boot_id="boot", facts=facts))


async def test_a_node_shows_its_gpus_and_a_node_without_any_shows_none(log: EventLog) -> None:
    h100, l4 = (
        GpuFacts("GPU-1", "NVIDIA H100", "9.0", 80 << 30, mig=False, minor=0),
        GpuFacts("GPU-2", "NVIDIA L4"),
    )
    nodes = [
        registered("a", NodeFacts(gpu_driver="580.65.06", gpus=(h100, msgspec.structs.replace(h100, uuid="GPU-3")))),
        registered("b", NodeFacts(gpu_driver="570.1", gpus=(h100, l4))),
        registered("c", NodeFacts(gpu_driver="550.1")),
        registered("d", NodeFacts()),
        new(NodeLost(node=NodeName("e"), worker_id=WorkerId("e-1"), silent_seconds=1.0)),
    ]
    await log.append(nodes, epoch=await log.take_lead())
    of_h100 = {"model": "NVIDIA H100", "compute_capability": "9.0", "memory_bytes": 80 << 30, "mig": False, "minor": 0}
    two = [{"uuid": "GPU-1", **of_h100}, {"uuid": "GPU-3", **of_h100}]
    assert only(await log.query("nodes"), *GPU) == [
        ("580.65.06", 2, "NVIDIA H100", 160 << 30, two),
        ("570.1", 2, "NVIDIA H100, NVIDIA L4", 80 << 30, [two[0], {"uuid": "GPU-2", "model": "NVIDIA L4"}]),
        ("550.1", 0, None, None, None),
        (None, 0, None, None, None),
        (None, None, None, None, None),
    ]
    await log.append([registered("a", NodeFacts())], epoch=await log.take_lead())
    assert only((await log.query("nodes"))[-1:], "node", *GPU) == [("a", None, 0, None, None, None)]


async def test_nodes_that_registered_before_gpus_were_shown_show_them_once_the_database_is_migrated(
    log: EventLog, database: Database
) -> None:
    l4 = GpuFacts("GPU-2", 'NVIDIA L4 "ü"')
    more = registered("c", NodeFacts(gpu_driver="570.1", gpus=(l4, msgspec.structs.replace(l4, uuid="GPU-3"))))
    lost = new(NodeLost(node=NodeName("e"), worker_id=WorkerId("e-1"), silent_seconds=1.0))
    await log.append([*story(), more, registered("d", NodeFacts()), lost], epoch=await log.take_lead())
    shown = only(await log.query("nodes"), "node", *GPU)
    await log.close()
    await downgrade(database.url, "0004")
    await upgrade(database.url)
    again = await EventLog.open(database.url)
    try:
        assert only(await again.query("nodes"), "node", *GPU) == shown
        assert await again.differences() == ()
    finally:
        await again.close()


async def test_the_events_of_one_key_or_one_command_can_be_asked_for(written: EventLog) -> None:
    rows = await written.query("events", key=KEY)
    assert {row["stream"] for row in rows} == {f"checkpoint/{KEY}"}
    assert rows[0]["data"]["container"] == {"image": "train:1"}
    assert rows[0]["metadata"] == {"actor": "test", "causation": "story"}
    assert only(await written.query("events", command_id=CommandId("command-1")), "type") == [
        ("command.issued",),
        ("snapshot.dump-started",),
        ("snapshot.stored",),
        ("command.finished",),
    ]


async def test_a_limit_keeps_the_newest_rows_and_gives_them_oldest_first(written: EventLog) -> None:
    head = await written.head()
    assert only(await written.query("events", limit=2), "position") == [(head - 1,), (head,)]


@pytest.mark.parametrize("view", get_args(View))
async def test_every_view_can_be_read_and_sent_as_json_with_the_columns_of_its_contract(
    written: EventLog, view: View
) -> None:
    rows = await written.query(view)
    assert rows
    assert msgspec.json.decode(msgspec.json.encode(rows)) == rows
    assert list(rows[0]) == [name for name, _, _ in CONTRACT[view].columns]


async def test_a_filter_that_a_view_cannot_take_is_refused_with_advice(written: EventLog) -> None:
    with pytest.raises(ViewFilterError, match="checkpoint_history"):
        await written.query("nodes", key=KEY)
    with pytest.raises(ViewFilterError, match="commands"):
        await written.query("restore_history", command_id=CommandId("command-1"))


async def test_one_key_never_shows_in_anothers_history(written: EventLog) -> None:
    elsewhere = CheckpointKey("local", "kube-system", "train-7")
    for view in ("checkpoint_history", "latest_snapshots", "restore_history", "failures", "commands", "events"):
        assert await written.query(view, key=elsewhere) == []


def tables(sql: Sql) -> dict[str, list[tuple[object, ...]]]:
    """Show the rows of the generation that the views show, which is their first column."""
    ((shown,),) = sql("SELECT generation FROM projection_state")
    return {
        table.name: sorted(
            (row[1:] for row in sql(f"SELECT * FROM {table.name}") if row[0] == shown),
            key=repr,
        )
        for table in PROJECTIONS
    }


def generations_kept(sql: Sql) -> set[object]:
    return {row[0] for table in PROJECTIONS for row in sql(f"SELECT DISTINCT generation FROM {table.name}")}


async def test_projections_are_the_same_rebuilt_from_zero_as_written_along(written: EventLog, sql: Sql) -> None:
    before = tables(sql)
    for table in PROJECTIONS:
        sql(f"DELETE FROM {table.name}")
    await written.rebuild()
    assert tables(sql) == before
    assert all(before.values())


async def test_projections_are_the_same_event_by_event_as_rebuilt_in_one_go(log: EventLog, sql: Sql) -> None:
    epoch = await log.take_lead()
    for told in story():
        await log.append([told], epoch=epoch)
    one_by_one = tables(sql)
    await log.rebuild()
    assert tables(sql) == one_by_one


async def test_a_log_folded_by_another_version_of_the_code_is_rebuilt_when_it_is_opened(
    written: EventLog, open_log: Callable[[], Awaitable[EventLog]], sql: Sql
) -> None:
    before = tables(sql)
    sql("UPDATE snapshots SET status = 'something old'")
    sql("UPDATE projection_state SET version = 0")
    again = await open_log()
    await again.refreshed()
    assert tables(sql) == before
    assert (await again.verify()).sound
    assert len(generations_kept(sql)) == 1, "what is shown no more is deleted"


async def test_events_are_appended_while_the_projections_are_rebuilt_beside_the_ones_that_are_shown(
    written: EventLog, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild, "SLICE_EVENTS", 5)
    epoch = await written.take_lead()
    generation_before = sql("SELECT generation FROM projection_state")
    rebuilding = asyncio.ensure_future(written.rebuild())
    appended = 0
    while not rebuilding.done() and appended < 40:
        await written.append([opened(f"meanwhile-{appended}")], epoch=epoch)
        appended += 1
        if not rebuilding.done():
            assert len(await written.query("restore_history")) == 3 + appended
    await rebuilding
    assert appended > 2
    assert sql("SELECT generation FROM projection_state") != generation_before
    assert len(await written.query("restore_history")) == 3 + appended
    rebuilt_beside = tables(sql)
    await written.rebuild()
    assert tables(sql) == rebuilt_beside


async def test_an_interrupted_rebuild_shows_the_old_rows_and_goes_on_when_the_log_is_opened(
    written: EventLog, open_log: Callable[[], Awaitable[EventLog]], sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild, "SLICE_EVENTS", 5)
    before = tables(sql)
    database = written._database
    await database.write(rebuild.begin)
    assert await database.write(lambda connection: rebuild.build(connection, UPCASTS))
    assert tables(sql) == before
    assert len(generations_kept(sql)) == 2
    again = await open_log()
    await again.refreshed()
    assert tables(sql) == before
    assert generations_kept(sql) == {row[0] for row in sql("SELECT generation FROM projection_state")}


async def test_rows_that_another_version_of_the_fold_wrote_are_left_alone_by_appends(
    written: EventLog, sql: Sql
) -> None:
    sql("UPDATE snapshots SET status = 'something old'")
    sql("UPDATE projection_state SET version = 0")
    before = tables(sql)
    told = [new(one.event) for one in story()]
    await written.append(told, epoch=await written.take_lead())
    assert tables(sql) == before
    await written.rebuild()
    assert {row["status"] for row in await written.query("checkpoint_history")} >= {"valid", "failed"}
