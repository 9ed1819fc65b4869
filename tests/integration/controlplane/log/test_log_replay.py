"""The log looked back upon: tables against replay, events of a newer release, export, and what was known at a time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from support.databases import Database
from support.logstory import KEY, NODE_A, NODE_B, ONE, START, new, stored, story

from controlplane.bus.audit import payload
from controlplane.core import history
from controlplane.log import EventLog
from woodfrog.protocol import subjects
from woodfrog.protocol.commands import DeleteCommand
from woodfrog.protocol.events import (
    CommandIssued,
    Event,
    SnapshotDeleted,
    SnapshotExpired,
    SnapshotPinned,
    SnapshotUnpinned,
    UnknownEvent,
)
from woodfrog.protocol.failures import FailureError
from woodfrog.protocol.ids import CommandId, SnapshotId

Sql = Callable[..., list[tuple[object, ...]]]
TELEPORTED = '{"type":"snapshot.teleported","key":{"cluster":"local","namespace":"default","id":"train-7"},"to":"mars"}'


@pytest.fixture
async def written(log: EventLog) -> EventLog:
    await log.append(story(), epoch=await log.take_lead())
    return log


async def test_tables_that_follow_from_the_events_are_found_so(written: EventLog) -> None:
    proof = await history.verify(written)
    assert (proof.events, proof.streams, proof.sound, proof.problems) == (len(story()), 3, True, ())


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE snapshots SET status = 'valid' WHERE status = 'superseded'", "differs from its events in status"),
        ("DELETE FROM incarnations WHERE incarnation = 2", "incarnations lacks the row local/default/train-7/2"),
        ("UPDATE node_states SET node = 'elsewhere' WHERE node = 'node-a'", "a row that no event gave rise to"),
    ],
)
async def test_a_table_that_was_tampered_with_is_found_and_a_rebuild_mends_it(
    written: EventLog, sql: Sql, statement: str, said: str
) -> None:
    sql(statement)
    proof = await history.verify(written)
    assert not proof.sound
    assert said in "; ".join(problem.what for problem in proof.problems)
    await written.rebuild()
    assert (await history.verify(written)).sound


async def test_events_of_a_newer_release_disturb_neither_reading_nor_tables_nor_views(
    written: EventLog, database: Database, sql: Sql
) -> None:
    before = await written.query("checkpoint_history")
    head = await written.head()
    last: Any = sql(f"SELECT max(version) FROM events WHERE stream = 'checkpoint/{KEY}'")[0][0]
    sql(
        f"INSERT INTO events SELECT {head + 1}, 'checkpoint/{KEY}', {last + 1},"
        f" '00000000-0000-4000-8000-000000000001', 'snapshot.teleported', 9, '{TELEPORTED}', metadata, NULL,"
        f" occurred_at, recorded_at, hash FROM events WHERE position = {head}"
    )
    sql(f"UPDATE log_head SET position = {head + 1}")
    (recorded,) = await written.read(head, 10)
    assert recorded.event == UnknownEvent("snapshot.teleported", f"checkpoint/{KEY}", TELEPORTED)
    assert payload(recorded) == TELEPORTED.encode()
    assert subjects.audit(recorded.event) == "woodfrog.v1.audit.id.snapshot-teleported.local.default.train-7"
    await written.rebuild()
    assert await written.query("checkpoint_history") == before
    assert (await written.query("events", key=KEY))[-1]["type"] == "snapshot.teleported"
    assert await written.differences() == ()


async def test_an_export_is_the_view_events_line_by_line(written: EventLog) -> None:
    rows: list[dict[str, Any]] = []
    await history.export(written, 3, 7, rows.append)
    assert rows == (await written.query("events", limit=10_000))[2:7]
    rows.clear()
    await history.export(written, 1, None, rows.append)
    assert [row["position"] for row in rows] == list(range(1, len(story()) + 1))
    with pytest.raises(FailureError, match="no-such-position"):
        await history.export(written, 1, 10_000, rows.append)


async def test_what_would_have_been_chosen_is_asked_of_what_was_recorded_by_then(written: EventLog) -> None:
    events = await written.read(0, 1000)  # type: ignore[arg-type]
    recorded_at = events[0].recorded_at  # one append: everything was recorded at once
    with pytest.raises(FailureError, match="unknown-node"):
        await history.choose_at(written, KEY, NODE_B, recorded_at - timedelta(seconds=1))
    answer = await history.choose_at(written, KEY, NODE_B, recorded_at)
    assert getattr(answer, "incarnation", None) == 3
    assert await written.head() == len(events)


async def test_the_views_show_pins_expiry_and_deletion_and_a_pinned_snapshot_comes_first(log: EventLog) -> None:
    about: dict[str, Any] = {"key": KEY, "incarnation": ONE}
    old, newer = SnapshotId("20261123T210000Z-0000000a"), SnapshotId("20261123T210100Z-0000000b")
    epoch = await log.take_lead()

    async def told(*events: Event) -> dict[str, dict[str, Any]]:
        await log.append([new(event) for event in events], epoch=epoch)
        return {row["snapshot_id"]: row for row in await log.query("checkpoint_history")}

    await told(stored(old, ONE, NODE_A), stored(newer, ONE, NODE_A))
    assert [row["snapshot_id"] for row in await log.query("latest_snapshots")] == [newer]
    rows = await told(SnapshotPinned(**about, snapshot_id=old, reason="good"))
    assert (rows[old]["pinned"], rows[old]["pinned_reason"], rows[newer]["pinned"]) == (True, "good", False)
    assert [row["snapshot_id"] for row in await log.query("latest_snapshots")] == [old]
    command = DeleteCommand(CommandId("d"), NODE_B, KEY, ONE, old, START, START + timedelta(seconds=9))
    rows = await told(
        SnapshotUnpinned(**about, snapshot_id=old),
        SnapshotExpired(**about, snapshot_id=old, reason="the policy keeps the last 1", delete_after=START),
        CommandIssued(**about, command=command),
    )
    assert (rows[old]["status"], rows[old]["expired_reason"]) == ("expired", "the policy keeps the last 1")
    (row,) = await log.query("commands")
    assert (row["kind"], row["container_id"], row["snapshot_id"], row["node"]) == ("delete", None, old, NODE_B)
    rows = await told(SnapshotDeleted(**about, snapshot_id=old, node=NODE_B, command_id=command.command_id))
    assert rows[old]["status"] == "deleted"
    assert rows[old]["deleted_at"] is not None
    assert [row["snapshot_id"] for row in await log.query("latest_snapshots")] == [newer]
