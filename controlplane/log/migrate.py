"""Bring a database to the schema that this code needs, wherever the package is installed and with no file beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

import migrations
from controlplane.log.engine import lock_out_migrations, make_ready, open_engine, writing


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


async def _within_transaction(url: str, act: Callable[[Config], None]) -> None:
    def run(connection: Connection) -> None:
        config = Config()
        config.set_main_option("script_location", str(Path(migrations.__file__).parent).replace("%", "%%"))
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
