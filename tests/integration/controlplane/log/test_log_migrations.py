"""A database is migrated to exactly what the code knows, whole, from everywhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect
from support.databases import Database
from support.logstory import new, opened

from controlplane.log import EventLog, LogSchemaError, LogUnavailableError, NewEvent
from controlplane.log.admin.migrate import SCRIPTS, differences, downgrade, upgrade
from controlplane.log.projections.data_dictionary import WORDS
from controlplane.log.projections.views import CONTRACT
from controlplane.log.schema import metadata
from controlplane.log.sql import engine
from woodfrog.protocol import wire
from woodfrog.protocol.events import CheckpointForgotten, event_type
from woodfrog.protocol.ids import CheckpointKey, IncarnationNumber

Sql = Callable[..., list[tuple[object, ...]]]


async def look(database: Database, question: Callable[[Connection], Any]) -> Any:
    opened_engine = engine.open_engine(database.url)
    try:
        async with engine.reading(opened_engine) as connection:
            return await connection.run_sync(question)
    finally:
        await opened_engine.dispose()


async def test_the_migrated_schema_is_the_one_that_the_code_knows(database: Database) -> None:
    assert await differences(database.url) == []


async def test_a_column_that_the_code_does_not_know_is_found(database: Database) -> None:
    database.sql("ALTER TABLE streams ADD COLUMN unknown text")
    assert len(await differences(database.url)) == 1


async def test_constraints_have_the_names_that_later_migrations_will_call_them_by(database: Database) -> None:
    def names(connection: Connection) -> dict[str, set[str | None]]:
        look_at = inspect(connection)
        return {
            table: {
                look_at.get_pk_constraint(table)["name"],
                *(found["name"] for found in look_at.get_unique_constraints(table)),
                *(found["name"] for found in look_at.get_check_constraints(table)),
                *(found["name"] for found in look_at.get_indexes(table)),
            }
            for table in metadata.tables
        }

    def wanted(table: str) -> set[object]:
        known = metadata.tables[table]
        return {item.name for item in (*known.constraints, *known.indexes)}

    assert await look(database, names) == {table: wanted(table) for table in metadata.tables}


async def test_every_view_has_the_columns_of_its_contract_in_order(database: Database) -> None:
    def columns(connection: Connection) -> dict[str, list[str]]:
        look_at = inspect(connection)
        return {name: [column["name"] for column in look_at.get_columns(name)] for name in look_at.get_view_names()}

    wanted = {name: [column for column, _, _ in view.columns] for name, view in CONTRACT.items() if name != "events"}
    assert await look(database, columns) == wanted


def test_the_dictionary_in_the_database_says_what_every_public_column_means(database: Database) -> None:
    rows = database.sql('SELECT object, "column", meaning FROM schema_dictionary')
    wanted = {(view.name, column, meaning) for view in CONTRACT.values() for column, _, meaning in view.columns}
    assert set(rows) == wanted | {(view.name, "", view.row) for view in CONTRACT.values()}


@pytest.mark.parametrize("engine_name", ["postgresql"])
def test_every_column_of_every_table_and_view_has_a_comment(database: Database) -> None:
    rows = database.sql("""
        SELECT relname, attname, col_description(pg_class.oid, attnum), obj_description(pg_class.oid, 'pg_class')
        FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
        WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v') AND NOT relispartition
          AND attnum > 0 AND NOT attisdropped AND relname <> 'alembic_version'
    """)
    assert {(relation, column): words for relation, column, words, _ in rows} == {
        key: words for key, words in WORDS.items() if key[1]
    }
    assert {relation: words for relation, _, _, words in rows} == {
        relation: words for (relation, column), words in WORDS.items() if not column
    }


async def test_words_that_the_code_says_otherwise_by_now_are_brought_up_to_date(database: Database) -> None:
    database.sql("UPDATE schema_dictionary SET meaning = 'something old'")
    if database.engine == "postgresql":
        database.sql("COMMENT ON VIEW nodes IS 'something old'")
    await upgrade(database.url)
    assert database.sql("SELECT count(*) FROM schema_dictionary WHERE meaning LIKE 'something%'") == [(0,)]
    assert await differences(database.url) == []


EVERYTHING = {
    "sqlite": "SELECT type, name, sql FROM sqlite_master ORDER BY 1, 2",
    "postgresql": """
        SELECT relkind::text, relname::text, coalesce(pg_get_viewdef(CASE WHEN relkind = 'v' THEN oid END), '')
               || coalesce(pg_get_indexdef(CASE WHEN relkind = 'i' THEN oid END), '') || coalesce(
               (SELECT string_agg(concat_ws(' ', attname, atttypid::regtype, attnotnull), ',' ORDER BY attnum)
                FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped), '')
        FROM pg_class c WHERE relnamespace = 'public'::regnamespace
        UNION ALL SELECT 'function', proname::text, prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace
        UNION ALL SELECT 'trigger', tgrelid::regclass || ' ' || tgname, pg_get_triggerdef(oid)
        FROM pg_trigger WHERE NOT tgisinternal
        UNION ALL SELECT 'constraint', conrelid::regclass || ' ' || conname, pg_get_constraintdef(oid)
        FROM pg_constraint WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2
    """,
}
REVISIONS = [script.revision for script in ScriptDirectory(str(SCRIPTS)).walk_revisions()][::-1]


def everything(database: Database) -> list[tuple[str, ...]]:
    rows = database.sql(EVERYTHING[database.engine])
    return [tuple(" ".join(str(value).split()) for value in row) for row in rows if "alembic_version" not in str(row)]


async def test_a_database_goes_up_and_down_one_revision_at_a_time_and_is_each_time_the_same(
    empty_database: Database,
) -> None:
    seen = {"base": everything(empty_database)}
    for revision in REVISIONS:
        await upgrade(empty_database.url, revision)
        seen[revision] = everything(empty_database)
    for revision in ["base", *REVISIONS][-2::-1]:
        await downgrade(empty_database.url, revision)
        assert everything(empty_database) == seen[revision], revision
    await upgrade(empty_database.url)
    assert everything(empty_database) == seen[REVISIONS[-1]]
    await upgrade(empty_database.url)
    assert everything(empty_database) == seen[REVISIONS[-1]]


def write_with_the_first_revisions_tables(database: Database, told: list[NewEvent]) -> None:
    """Append as an old release would have, in as much as later revisions look at it."""
    moment = "'2026-11-23T21:00:00.000000Z'"
    for position, one in enumerate(told, start=1):
        data = wire.encode(one.event).decode().replace("'", "''")
        database.sql(
            f"INSERT INTO events VALUES ({position}, 'a', {position}, '{one.event_id}', '{event_type(one.event)}', 1, "
            f"'{data}', '{{}}', NULL, {moment}, {moment}, 'x')"
        )
    database.sql(f"UPDATE log_head SET position = {len(told)}")


async def test_events_survive_every_way_up_and_down(empty_database: Database) -> None:
    told = [opened("a", number) for number in range(1, 8)]
    await upgrade(empty_database.url, REVISIONS[0])
    write_with_the_first_revisions_tables(empty_database, told)
    rows = empty_database.sql("SELECT * FROM events ORDER BY position")
    for revision in [*REVISIONS[1:], *REVISIONS[-2::-1], REVISIONS[-1]]:
        act = downgrade if revision == REVISIONS[0] else upgrade
        await act(empty_database.url, revision)
        assert empty_database.sql("SELECT * FROM events ORDER BY position") == rows
    assert empty_database.sql("SELECT count(*) FROM event_ids") == [(7,)]
    assert empty_database.sql("SELECT * FROM streams") == [("a", 7, "x")]


async def test_ids_that_were_forgotten_before_a_migration_are_known_as_such_after_it(
    database: Database, log: EventLog
) -> None:
    key = CheckpointKey("local", "default", "a")
    forgotten = new(CheckpointForgotten(key=key, incarnation=IncarnationNumber(2), idle_seconds=0.0), 60)
    await log.append([opened("a"), opened("a", 2), forgotten], epoch=await log.take_lead())
    asked = "SELECT incarnation, forgotten_at FROM restore_history ORDER BY 1"
    known = database.sql(asked)
    assert [moment is not None for _, moment in known] == [False, True]
    await downgrade(database.url, "0007")
    await upgrade(database.url)
    assert database.sql(asked) == known


@pytest.mark.parametrize("engine_name", ["postgresql"])
async def test_whoever_may_read_a_view_may_read_it_after_it_got_more_columns(empty_database: Database) -> None:
    await upgrade(empty_database.url, "0004")
    empty_database.sql("GRANT SELECT ON nodes TO PUBLIC")
    await upgrade(empty_database.url)
    assert empty_database.sql(
        "SELECT relacl::text LIKE '%{=r/%' OR relacl::text LIKE '%,=r/%' FROM pg_class WHERE relname = 'nodes'"
    ) == [(True,)]


async def test_migrating_again_keeps_the_events(database: Database, log: EventLog) -> None:
    await log.append([opened("a")], epoch=await log.take_lead())
    await upgrade(database.url)
    assert await log.head() == 1


async def test_two_that_start_at_once_migrate_once(empty_database: Database) -> None:
    url = empty_database.url
    await asyncio.gather(*(upgrade(url) for _ in range(4)))
    log = await EventLog.open(url)
    assert await log.head() == 0
    await log.close()


async def test_a_migration_that_fails_half_way_leaves_nothing(
    empty_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("half-way")

    with monkeypatch.context() as patched:
        patched.setattr("alembic.operations.Operations.create_index", fail)
        with pytest.raises(RuntimeError, match="half-way"):
            await upgrade(empty_database.url)
    assert await look(empty_database, lambda connection: inspect(connection).get_table_names()) == []


async def test_a_database_that_was_not_migrated_is_refused_with_advice(empty_database: Database) -> None:
    with pytest.raises(LogSchemaError) as refusal:
        await EventLog.open(empty_database.url)
    assert refusal.value.failure.code == "log-not-migrated"


async def test_a_database_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(LogUnavailableError) as refusal:
        await upgrade(f"sqlite:///{tmp_path / 'no' / 'such' / 'folder' / 'new.db'}")
    assert refusal.value.failure.code == "log-unavailable"


def test_there_is_one_line_of_revisions() -> None:
    assert len(ScriptDirectory(str(SCRIPTS)).get_heads()) == 1
