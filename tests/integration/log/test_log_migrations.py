"""A database is migrated to exactly what the code knows, whole, from everywhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect
from support.logstory import opened

import migrations
from controlplane.log import EventLog, LogSchemaError, LogUnavailableError, engine
from controlplane.log.migrate import downgrade, upgrade
from controlplane.log.schema import metadata
from controlplane.log.views import CONTRACT

Sql = Callable[..., list[tuple[object, ...]]]


async def look(path: Path, question: Callable[[Connection], Any]) -> Any:
    opened_engine = engine.open_engine(f"sqlite:///{path}")
    try:
        async with engine.reading(opened_engine) as connection:
            return await connection.run_sync(question)
    finally:
        await opened_engine.dispose()


async def test_the_migrated_schema_is_the_one_that_the_code_knows(path: Path) -> None:
    def differences(connection: Connection) -> list[Any]:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        return list(compare_metadata(context, metadata))

    assert await look(path, differences) == []


async def test_constraints_have_the_names_that_later_migrations_will_call_them_by(path: Path) -> None:
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

    assert await look(path, names) == {table: wanted(table) for table in metadata.tables}


async def test_every_view_has_the_columns_of_its_contract_in_order(path: Path, sql: Sql) -> None:
    for name, view in CONTRACT.items():
        columns = [row[1] for row in sql(f"PRAGMA table_info({name})")]
        assert columns == [column for column, _, _ in view.columns], name
    views = {name for (name,) in sql("SELECT name FROM sqlite_master WHERE type = 'view'")}
    assert views == CONTRACT.keys() - {"events"}


async def test_a_database_goes_up_down_and_up_again(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    url = f"sqlite:///{path}"

    def everything(connection: Connection) -> list[tuple[str, str, str | None]]:
        rows = connection.exec_driver_sql("SELECT type, name, sql FROM sqlite_master ORDER BY name").all()
        return [(row[0], row[1], row[2]) for row in rows]

    await upgrade(url)
    first = await look(path, everything)
    await upgrade(url)
    assert await look(path, everything) == first
    await downgrade(url, "base")
    assert [name for _, name, _ in await look(path, everything) if not name.startswith("sqlite_")] == [
        "alembic_version"
    ]
    await upgrade(url)
    assert await look(path, everything) == first


async def test_migrating_again_keeps_the_events(path: Path, log: EventLog) -> None:
    await log.append([opened("a")], epoch=await log.take_lead())
    await upgrade(f"sqlite:///{path}")
    assert await log.head() == 1


async def test_two_that_start_at_once_migrate_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new.db'}"
    await asyncio.gather(*(upgrade(url) for _ in range(4)))
    log = await EventLog.open(url)
    assert await log.head() == 0
    await log.close()


async def test_a_migration_that_fails_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new.db"

    def fail(*_: object) -> None:
        raise RuntimeError("half-way")

    with monkeypatch.context() as patched:
        patched.setattr("alembic.operations.Operations.create_index", fail)
        with pytest.raises(RuntimeError, match="half-way"):
            await upgrade(f"sqlite:///{path}")
    assert await look(path, lambda connection: inspect(connection).get_table_names()) == []


async def test_a_database_that_was_not_migrated_is_refused_with_advice(tmp_path: Path) -> None:
    with pytest.raises(LogSchemaError) as refusal:
        await EventLog.open(f"sqlite:///{tmp_path / 'new.db'}")
    assert refusal.value.failure.code == "log-not-migrated"


async def test_a_database_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(LogUnavailableError) as refusal:
        await upgrade(f"sqlite:///{tmp_path / 'no' / 'such' / 'folder' / 'new.db'}")
    assert refusal.value.failure.code == "log-unavailable"


def test_there_is_one_line_of_revisions() -> None:
    assert len(ScriptDirectory(str(Path(migrations.__file__).parent)).get_heads()) == 1
