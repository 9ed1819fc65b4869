"""Whoever changes the log behind its back is found out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.databases import Database
from support.logstory import story

from controlplane.log import EventLog

Sql = Callable[..., list[tuple[object, ...]]]

FORGERY = """
    INSERT INTO events SELECT 33, 'node/evil', 1, 'forged', type, schema_version, data, metadata, command_id,
                              occurred_at, recorded_at, hash
    FROM events WHERE position = 1
"""


@pytest.fixture
async def written(log: EventLog) -> EventLog:
    await log.append(story(), epoch=await log.take_lead())
    return log


async def test_an_untouched_log_is_sound(written: EventLog) -> None:
    verification = await written.verify()
    assert verification.sound
    assert verification.events == len(story())


@pytest.mark.parametrize(
    ("statement", "position", "said"),
    [
        ("UPDATE events SET data = replace(data, 'no snapshot yet', 'whatever') WHERE position = 4", 4, "hash"),
        ('UPDATE events SET metadata = \'{"actor":"x","causation":"y"}\' WHERE position = 4', 4, "hash"),
        ("UPDATE events SET occurred_at = '2026-11-23T22:00:00.000000Z' WHERE position = 4", 4, "hash"),
        ("UPDATE events SET type = 'snapshot.stored' WHERE position = 4", 4, "hash"),
        ("UPDATE events SET command_id = NULL WHERE position = 7", 7, "command_id"),
        ("UPDATE events SET data = 'nothing' WHERE position = 4", 4, "not an event"),
        ("UPDATE events SET hash = substr(hash, 2) || substr(hash, 1, 1) WHERE position = 4", 4, "hash"),
        ("DELETE FROM events WHERE position = 4", 5, "positions 4 to 4 are missing"),
        ("DELETE FROM events WHERE position = (SELECT max(position) FROM events)", 0, "the log ends at"),
        (FORGERY, 33, "hash"),
        ("UPDATE streams SET hash = '00' WHERE stream = 'node/node-a'", 0, "node/node-a ends at"),
        ("DELETE FROM streams WHERE stream = 'node/node-a'", 0, "node/node-a ends at"),
    ],
)
async def test_tampering_is_found_where_it_happened(
    written: EventLog, database: Database, sql: Sql, statement: str, position: int, said: str
) -> None:
    database.drop_guards()
    sql(statement)
    verification = await written.verify()
    assert not verification.sound
    assert verification.problems[0].position == position
    assert any(said in problem.what for problem in verification.problems)


@pytest.mark.parametrize("engine_name", ["sqlite"])
async def test_a_moment_that_is_none_is_found(written: EventLog, database: Database, sql: Sql) -> None:
    database.drop_guards()
    sql("UPDATE events SET recorded_at = 'yesterday' WHERE position = 4")
    (problem,) = (await written.verify()).problems
    assert problem.position == 1
    assert "cannot be read" in problem.what


async def test_a_removed_tail_with_a_forged_head_is_missed_by_its_streams(
    written: EventLog, database: Database, sql: Sql
) -> None:
    database.drop_guards()
    sql("DELETE FROM events WHERE position > 30")
    sql("UPDATE log_head SET position = 30")
    assert {problem.position for problem in (await written.verify()).problems} == {0}


async def test_a_log_that_is_damaged_all_over_is_reported_within_bounds(
    written: EventLog, database: Database, sql: Sql
) -> None:
    database.drop_guards()
    sql("UPDATE events SET hash = 'x', data = 'x', version = version + 1000")
    assert 0 < len((await written.verify()).problems) <= 100
