"""Bring a database to the schema that this code needs, wherever the package is installed and with no file beside it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from controlplane.log.projections.data_dictionary import described
from controlplane.log.sql.engine import lock_out_migrations, make_ready, open_engine, reading, writing


def _is_no_partition(name: str | None, kind: str, _parents: Any) -> bool:
    return not (kind == "table" and name is not None and re.fullmatch(r"events_\d+", name))


COMPARISON: Final[dict[str, Any]] = {
    "compare_type": True,
    "compare_server_default": True,
    "include_name": _is_no_partition,
}
"""What alembic compares of a database with the code; partitions come and go by themselves."""


_PACKAGE: Final = Path(__file__).parents[2]
SCRIPTS: Final = next(folder for folder in (_PACKAGE / "migrations", _PACKAGE.parent / "migrations") if folder.is_dir())
"""The revisions: within this package where a wheel was installed, beside it in a checkout and in a bundle."""


async def upgrade(url: str, revision: str = "head") -> None:
    """Migrate the database at ``url`` up to ``revision``; harmless when it is there already.

    All or nothing, in one writing transaction; a second process that starts at the same time waits for it. On SQLite the
    file is created if its folder exists.

    Raises:
        LogUnavailableError: if the database cannot be used.
    """
    await _within_transaction(url, lambda config: command.upgrade(config, revision))


async def downgrade(url: str, revision: str) -> None:
    """Migrate the database back to ``revision``. ``base`` drops everything, the log included.

    Raises:
        LogUnavailableError: if the database cannot be used.
    """
    await _within_transaction(url, lambda config: command.downgrade(config, revision))


async def differences(url: str) -> list[Any]:
    """Tell what alembic would change in the database at ``url``, comments included; empty if it is as the code has it."""

    def compare(connection: Connection) -> list[Any]:
        context = MigrationContext.configure(connection, opts=COMPARISON)
        return list(compare_metadata(context, described()))

    engine = open_engine(url)
    try:
        async with reading(engine) as connection:
            return await connection.run_sync(compare)
    finally:
        await engine.dispose()


async def _within_transaction(url: str, act: Callable[[Config], None]) -> None:
    def run(connection: Connection) -> None:
        config = Config()
        config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        act(config)

    engine = open_engine(url)
    try:
        await make_ready(engine)
        async with writing(engine) as connection:
            await lock_out_migrations(connection)
            await connection.run_sync(run)
    finally:
        await engine.dispose()
