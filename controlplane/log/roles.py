"""Who may do what on PostgreSQL: a role for the control plane that can append and nothing worse, and one for people that can read.

The owner migrates and archives; ``python -m controlplane.log.roles`` writes the SQL that an administrator runs after each
migration (it may be run again at any time), and ``--apply`` runs it on ``WOODFROG_DATABASE_URL``. The roles come without a password: an
administrator gives them one, or lets them in by certificate. SQLite has no roles: its file's permissions are all there is.

Read-only and time-out are defaults of the reader's sessions, which a session may change for itself; what holds is that the reader has
no right to write anything and none to see the tables behind the views.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Final

from controlplane.log.engine import open_engine, writing
from controlplane.log.schema import metadata
from controlplane.log.views import CONTRACT

CONTROLLER: Final = "woodfrog_controller"
READER: Final = "woodfrog_reader"
READER_SECONDS: Final = 30
"""How long a reader's statement may run, so that a forgotten query does not hold back vacuum and partitions."""

_CONTROLLER_RIGHTS: Final = {
    "events": "SELECT, INSERT",
    "log_head": "SELECT, UPDATE (position, epoch)",
    "streams": "SELECT",
    "event_ids": "SELECT",
    "archived_segments": "SELECT",
    "archived_heads": "SELECT",
    "schema_dictionary": "SELECT",
    "alembic_version": "SELECT",
}
_DERIVED: Final = "SELECT, INSERT, UPDATE, DELETE"


def statements(*, controller: str = CONTROLLER, reader: str = READER, schema: str = "public") -> Iterator[str]:
    """Write the SQL that makes both roles and gives them exactly their rights, whatever they had before."""
    yield f"REVOKE CREATE ON SCHEMA {schema} FROM PUBLIC"  # which PUBLIC has in a database from before PostgreSQL 15
    for role in (controller, reader):
        yield (
            f"DO $$ BEGIN CREATE ROLE {role} LOGIN NOINHERIT; "
            "EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
        )
        yield f"REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM {role}"
        yield f"GRANT USAGE ON SCHEMA {schema} TO {role}"
    derived = {table.name: _DERIVED for table in metadata.tables.values() if table.name not in _CONTROLLER_RIGHTS}
    for table, rights in {**_CONTROLLER_RIGHTS, **derived}.items():
        yield f"GRANT {rights} ON {schema}.{table} TO {controller}"
    for view in CONTRACT:
        yield (
            f"GRANT SELECT ON {schema}.{view} TO {controller}, {reader}"
            if view != "events"
            else (f"GRANT SELECT ON {schema}.events TO {reader}")
        )
    yield f"GRANT SELECT ON {schema}.schema_dictionary TO {reader}"
    yield f"ALTER ROLE {reader} SET default_transaction_read_only = on"
    yield f"ALTER ROLE {reader} SET statement_timeout = '{READER_SECONDS}s'"
    yield f"ALTER ROLE {reader} SET idle_in_transaction_session_timeout = '{READER_SECONDS}s'"


async def apply(url: str, *, controller: str = CONTROLLER, reader: str = READER) -> None:
    """Run :func:`statements` on a migrated database, as somebody who owns its tables and may make roles.

    Raises:
        ValueError: the database is SQLite, which has no roles.
        LogUnavailableError: the database cannot be used.
    """
    engine = open_engine(url)
    try:
        if engine.dialect.name != "postgresql":
            raise ValueError("SQLite has no roles; protect the database's file")
        async with writing(engine) as connection:
            for statement in statements(controller=controller, reader=reader):
                await connection.exec_driver_sql(statement)
    finally:
        await engine.dispose()


def main(arguments: Sequence[str]) -> int:
    """Print the SQL, or run it; answer the exit code."""
    if list(arguments) == ["--apply"]:
        url = os.environ.get("WOODFROG_DATABASE_URL", "")
        if not url:
            sys.stderr.write("WOODFROG_DATABASE_URL is not set\n")
            return 2
        asyncio.run(apply(url))
        return 0
    if arguments:
        sys.stderr.write("usage: python -m controlplane.log.roles [--apply]\n")
        return 2
    sys.stdout.writelines(f"{statement};\n" for statement in statements())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
