"""The two roles on a real PostgreSQL: what each can do, and that it can do nothing else."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from support.databases import PostgresDatabase, SqliteFile
from support.logstory import opened, put_one_aside, story

from controlplane.log import EventLog
from controlplane.log.admin.migrate import upgrade
from controlplane.log.admin.roles import CONTROLLER, READER, apply
from controlplane.log.projections.views import CONTRACT
from controlplane.log.schema import PROJECTIONS

pytestmark = pytest.mark.parametrize("engine_name", ["postgresql"])
ROOT = Path(__file__).parents[4]


@pytest.fixture
async def controller_log(database: PostgresDatabase) -> AsyncIterator[EventLog]:
    """The log, opened by the role that may only append."""
    await apply(database.url)
    log = await EventLog.open(database.server.url(database.name, user=CONTROLLER))
    yield log
    await log.close()


def refused(database: PostgresDatabase, statement: str, role: str) -> None:
    with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.ReadOnlySQLTransactionError)):
        database.sql(statement, user=role)


async def test_the_controller_can_do_all_that_a_control_plane_does(
    controller_log: EventLog, database: PostgresDatabase
) -> None:
    log = controller_log
    await upgrade(database.server.url(database.name, user=CONTROLLER))
    epoch = await log.take_lead()
    recorded = await log.append(story(), epoch=epoch)
    assert await log.append(story()[:0] or [opened("a")], epoch=epoch)
    assert await log.recorded([recorded[0].event_id])
    await put_one_aside(database.server.url(database.name, user=CONTROLLER), epoch)
    for view in CONTRACT:
        assert await log.query(view)  # type: ignore[arg-type]
    await log.rebuild()
    assert (await log.verify()).sound


async def test_the_controller_can_not_undo_or_disarm_anything(
    controller_log: EventLog, database: PostgresDatabase
) -> None:
    await controller_log.append(story(), epoch=await controller_log.take_lead())
    for statement in (
        "UPDATE events SET data = '{}'",
        "DELETE FROM events",
        "TRUNCATE events",
        "SELECT * FROM events_000000",
        "DELETE FROM events_000000",
        "DROP TABLE events",
        "ALTER TABLE events DISABLE TRIGGER ALL",
        "ALTER TABLE events DETACH PARTITION events_000000",
        "CREATE TABLE mine (x int)",
        "DELETE FROM log_head",
        "UPDATE log_head SET one = 1",
        "DELETE FROM streams",
        "INSERT INTO event_ids VALUES ('00000000-0000-0000-0000-000000000000', 1)",
        "UPDATE streams SET version = 0",
        "INSERT INTO archived_segments SELECT 1, 2, '', 1, '', '', now(), now(), now(), ''",
        "UPDATE archived_heads SET hash = ''",
        "SELECT make_events_partition(7)",
        "UPDATE schema_dictionary SET meaning = ''",
        "UPDATE alembic_version SET version_num = '0001'",
        f"ALTER ROLE {CONTROLLER} SUPERUSER",
        f"SET ROLE {database.sql('SELECT current_user')[0][0]}",
    ):
        refused(database, statement, CONTROLLER)


async def test_the_reader_reads_the_views_and_sees_nothing_else(
    controller_log: EventLog, database: PostgresDatabase
) -> None:
    epoch = await controller_log.take_lead()
    await controller_log.append(story(), epoch=epoch)
    await put_one_aside(database.server.url(database.name, user=CONTROLLER), epoch)
    for view in CONTRACT:
        assert database.sql(f"SELECT * FROM {view}", user=READER)
    assert database.sql("SELECT * FROM schema_dictionary", user=READER)
    for table in (*(table.name for table in PROJECTIONS), "streams", "log_head", "event_ids", "archived_segments"):
        refused(database, f"SELECT * FROM {table}", READER)
    for view in CONTRACT:
        refused(database, f"DELETE FROM {view}", READER)
        refused(database, f"INSERT INTO {view} SELECT * FROM {view}", READER)
    refused(database, "CREATE TABLE mine (x int)", READER)
    refused(database, "CREATE TEMPORARY TABLE mine (x int)", READER)
    assert database.sql("SHOW statement_timeout", user=READER) == [("30s",)]
    assert database.sql("SHOW transaction_read_only", user=READER) == [("on",)]


async def test_a_reader_that_makes_itself_writable_still_may_not_write(
    controller_log: EventLog, database: PostgresDatabase
) -> None:
    for statement in ("DELETE FROM nodes", "DELETE FROM events", "UPDATE log_head SET epoch = 9"):
        refused(database, f"WITH x AS (SELECT set_config('transaction_read_only', 'off', true)) {statement}", READER)


async def test_rights_given_by_hand_are_taken_back(controller_log: EventLog, database: PostgresDatabase) -> None:
    database.sql(f"GRANT DELETE ON streams TO {CONTROLLER}")
    await apply(database.url)
    refused(database, "DELETE FROM streams", CONTROLLER)


@pytest.mark.parametrize("module", ["controlplane.log.admin.roles", "controlplane.log.roles"])
async def test_the_sql_can_be_read_before_it_is_run(module: str, database: PostgresDatabase) -> None:
    environment = {**os.environ, "WOODFROG_DATABASE_URL": database.url}
    command = [sys.executable, "-m", module]
    printed = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment
    )
    assert f"GRANT SELECT, INSERT ON public.events TO {CONTROLLER};" in printed.stdout.splitlines()
    await asyncio.to_thread(subprocess.run, [*command, "--apply"], check=True, cwd=ROOT, env=environment)
    assert database.sql("SELECT count(*) FROM nodes", user=READER) == [(0,)]


async def test_sqlite_has_no_roles(database: PostgresDatabase, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no roles"):
        await apply(SqliteFile(tmp_path / "log.db").url)


async def test_the_reader_can_create_nothing_where_everybody_could_before(
    controller_log: EventLog, database: PostgresDatabase
) -> None:
    may = f"SELECT has_schema_privilege('{READER}', 'public', 'CREATE')"
    database.sql("GRANT CREATE ON SCHEMA public TO PUBLIC")  # as before PostgreSQL 15
    assert database.sql(may) == [(True,)]
    await apply(database.url)
    assert database.sql(may) == [(False,)]


async def test_a_reader_of_a_namespace_sees_its_own_and_nothing_else(
    controller_log: EventLog, database: PostgresDatabase
) -> None:
    await controller_log.append(story(), epoch=await controller_log.take_lead())
    (namespace,) = {row[0] for row in database.sql("SELECT DISTINCT namespace FROM checkpoint_history")}
    await apply(database.url, namespaces=[namespace, "other-team"])
    await apply(database.url, namespaces=[namespace, "other-team"])
    own, other = f"{READER}_{namespace}", f"{READER}_other-team"
    assert database.sql("SELECT * FROM checkpoint_history", user=own)
    assert database.sql("SELECT * FROM events", user=own)
    for view in ("checkpoint_history", "restore_history", "failures", "commands", "events", "latest_snapshots"):
        assert database.sql(f"SELECT count(*) FROM {view}", user=other) == [(0,)]
        refused(database, f"SELECT * FROM public.{view}", other)
        refused(database, f'SELECT * FROM "woodfrog_{namespace}".{view}', other)
    refused(database, "SELECT * FROM public.nodes", own)
    refused(database, "SELECT * FROM public.snapshots", own)
