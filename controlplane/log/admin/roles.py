"""Who may do what on PostgreSQL: a role for the control plane that can append and nothing worse, and one for people that can read.

A reader may also be one of a namespace, who sees nothing of the others.

The owner migrates and archives; ``python -m controlplane.log.admin.roles`` writes the SQL that an administrator runs after each
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
from itertools import chain
from typing import Final

from blake3 import blake3

from controlplane.log.projections.views import CONTRACT
from controlplane.log.schema import metadata
from controlplane.log.sql.engine import open_engine, writing
from woodfrog.protocol.ids import check_id

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
_LONGEST_NAME: Final = 63
_NAMESPACE: Final = "--namespace="
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
    yield from _limits(reader)


def namespace_statements(namespace: str, *, schema: str = "public") -> Iterator[str]:
    """Write the SQL that makes a reader of one namespace: views of its own in a schema of its own, and no other right.

    The views are those of the contract, cut to the namespace; without those that know no namespace. Their owner reads for them. They are
    made again each time, so that a migration's new columns come in.

    Raises:
        InvalidIdError: the namespace may not be one.
    """
    check_id(namespace, "namespace")
    role, own = (_quoted(f"{name}_{namespace}") for name in (READER, "woodfrog"))
    yield f"DO $$ BEGIN CREATE ROLE {role} LOGIN NOINHERIT; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
    yield f"REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM {role}"
    yield f"CREATE SCHEMA IF NOT EXISTS {own}"
    yield f"REVOKE ALL ON SCHEMA {own} FROM PUBLIC"
    yield f"GRANT USAGE ON SCHEMA {own} TO {role}"
    for name, view in CONTRACT.items():
        columns = {column for column, _, _ in view.columns}
        if name == "events":
            mine = f"split_part(stream, '/', 1) = 'checkpoint' AND split_part(stream, '/', 3) = '{namespace}'"
        elif "namespace" in columns:
            mine = f"namespace = '{namespace}'"
        else:
            continue
        yield f"DROP VIEW IF EXISTS {own}.{name}"
        yield f"CREATE VIEW {own}.{name} WITH (security_barrier) AS SELECT * FROM {schema}.{name} WHERE {mine}"  # noqa: S608 -- checked above
        yield f"GRANT SELECT ON {own}.{name} TO {role}"
    yield f"ALTER ROLE {role} SET search_path = {own}"
    yield from _limits(role)


def _quoted(name: str) -> str:
    """Quote a name; PostgreSQL would cut a long one, and two namespaces might come to share theirs."""
    if len(name) > _LONGEST_NAME:
        name = f"{name[: _LONGEST_NAME - 17]}_{blake3(name.encode()).hexdigest(8)}"
    return f'"{name}"'


def _limits(role: str) -> Iterator[str]:
    yield f"ALTER ROLE {role} SET default_transaction_read_only = on"
    yield f"ALTER ROLE {role} SET statement_timeout = '{READER_SECONDS}s'"
    yield f"ALTER ROLE {role} SET idle_in_transaction_session_timeout = '{READER_SECONDS}s'"


async def apply(
    url: str, *, controller: str = CONTROLLER, reader: str = READER, namespaces: Sequence[str] = ()
) -> None:
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
            of_namespaces = chain.from_iterable(map(namespace_statements, namespaces))
            for statement in chain(statements(controller=controller, reader=reader), of_namespaces):
                await connection.exec_driver_sql(statement)
    finally:
        await engine.dispose()


def main(arguments: Sequence[str]) -> int:
    """Print the SQL, or run it; answer the exit code."""
    words = list(arguments)
    run = "--apply" in words
    namespaces = [word.removeprefix(_NAMESPACE) for word in words if word.startswith(_NAMESPACE)]
    if len(words) != len(namespaces) + run:
        sys.stderr.write("usage: python -m controlplane.log.admin.roles [--apply] [--namespace=NAMESPACE ...]\n")
        return 2
    if run:
        url = os.environ.get("WOODFROG_DATABASE_URL", "")
        if not url:
            sys.stderr.write("WOODFROG_DATABASE_URL is not set\n")
            return 2
        asyncio.run(apply(url, namespaces=namespaces))
        return 0
    written = chain(statements(), chain.from_iterable(map(namespace_statements, namespaces)))
    sys.stdout.writelines(f"{statement};\n" for statement in written)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
