"""What alembic runs around the revisions.

``controlplane.log.admin.migrate`` hands over a connection that is in a writing transaction, so a migration is applied as a whole
or not at all, and two processes that start at once migrate once. The ``alembic`` command can be used too, with a
configuration that names this folder and a database: ``alembic -c my.ini upgrade head``.
"""

from __future__ import annotations

import asyncio

from alembic import context
from sqlalchemy import Connection

from controlplane.log.admin.migrate import COMPARISON
from controlplane.log.projections.data_dictionary import describe, described
from controlplane.log.sql.engine import lock_out_migrations, make_ready, open_engine, writing


def _migrate(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=described(),
        transactional_ddl=True,
        **COMPARISON,
    )
    with context.begin_transaction():
        context.run_migrations()
        newest = context.script.get_current_head()
        if context.get_context().get_current_heads() == (newest,):
            describe(connection)


async def _connect_and_migrate(url: str) -> None:
    engine = open_engine(url)
    try:
        await make_ready(engine)
        async with writing(engine) as connection:
            await lock_out_migrations(connection)
            await connection.run_sync(_migrate)
    finally:
        await engine.dispose()


def _run() -> None:
    handed_over = context.config.attributes.get("connection")
    if handed_over is not None:
        _migrate(handed_over)
        return
    url = context.config.get_main_option("sqlalchemy.url")
    if not url:
        raise SystemExit("name the database: set sqlalchemy.url in alembic's configuration")
    asyncio.run(_connect_and_migrate(url))


_run()
