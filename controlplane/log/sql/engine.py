"""Which database it is, and what that changes; the SQL that appends run is in :mod:`sqlite` and :mod:`postgresql` beside it.

SQLite writes ahead (WAL), so that readers in any process go on while one writes; syncs every commit to disk
(``synchronous=FULL``; NORMAL may lose the last commits at power loss); and begins a writing transaction with BEGIN
IMMEDIATE, because a transaction that reads first and then finds the database changed cannot be upgraded to a writing one
(https://www.sqlite.org/isolation.html, https://www.sqlite.org/lang_transaction.html §2.2). Python's ``sqlite3`` would begin
by itself, and only before writes, so its own transaction control is switched off.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Dialect, Engine, create_engine, event, func, make_url, select
from sqlalchemy.exc import DBAPIError, IntegrityError, InvalidatePoolError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from controlplane.log.file_permissions import keep_private, path_of
from controlplane.log.records import LogFullError, LogSchemaError, LogUnavailableError, UnstorableEventError
from woodfrog.protocol.failures import Failure

BUSY_TIMEOUT_SECONDS = 10.0
"""How long a writer waits for another process's transaction before it gives up."""

_IDLE_TRANSACTION_SECONDS = 5.0
"""How long a transaction may wait for its process on PostgreSQL: a leader that is stopped in the middle of one would otherwise
keep the log locked, and no standby could take over."""
_TRUSTED_SECONDS = 0.05
"""How long an idle connection is taken to be there still. If it is not, one transaction is refused as unavailable."""
_ASYNC_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}
_CACHED_STATEMENTS = 512
_CACHE_KIB = 64 << 10
_CHECKPOINT_PAGES = 32_768
"""Pages in the write-ahead log (128 MiB) after which whoever commits brings the rest of them to their places (:func:`write_back`)."""
_WRITES = "woodfrog_writes"
_BARE = "woodfrog_bare"
_RETURNED = "woodfrog_returned"
CONTRADICTIONS = (sqlite3.IntegrityError, IntegrityError)
"""What a transaction raises, on a connection's bare driver and otherwise, if a row contradicts what is there."""
_MIGRATION_LOCK = 0x776F6F6466726F67
"""An arbitrary number that nothing else in the database should use: "woodfrog" in ASCII."""
_PG_DATA = "22"
"""The class of errors about values (PostgreSQL, appendix A, data exceptions): no repetition makes them storable."""
_PG_DISK_FULL = "53100"
_PG_UNDEFINED_TABLE = "42P01"
_PG_LOCK_TIMEOUT = "55P03"
_PG_AWAY = ("08", "53", "57P", "58")
"""Classes of errors that pass: connection, resources, shutdown, system (PostgreSQL's manual, Appendix A)."""


def database_url(text: str) -> URL:
    """Read a database URL; a plain ``sqlite:`` or ``postgresql:`` gets the driver that this code uses."""
    url = make_url(text)
    return url.set(drivername=_ASYNC_DRIVERS.get(url.drivername, url.drivername))


def is_there(text: str) -> bool:
    """Tell whether there is a database to open: SQLite makes a missing file without a word. Of a server only connecting tells."""
    url = database_url(text)
    return url.get_backend_name() != "sqlite" or (url.database is not None and Path(url.database).is_file())


def open_engine(text: str) -> AsyncEngine:
    """Make the engine for a database URL; nothing is connected yet."""
    url = database_url(text)
    if url.get_backend_name() != "sqlite":
        settings = {
            "application_name": "woodfrog",
            "lock_timeout": f"{int(BUSY_TIMEOUT_SECONDS * 1000)}",
            "idle_in_transaction_session_timeout": f"{int(_IDLE_TRANSACTION_SECONDS * 1000)}",
        }
        engine = create_async_engine(
            url,
            isolation_level="READ COMMITTED",
            connect_args={"server_settings": settings, "timeout": BUSY_TIMEOUT_SECONDS},
        )
        event.listen(engine.sync_engine, "checkin", _note_return)
        event.listen(engine.sync_engine, "checkout", partial(_ping, engine.dialect))
        return engine
    engine = create_async_engine(url, connect_args={"timeout": BUSY_TIMEOUT_SECONDS})
    event.listen(engine.sync_engine, "connect", _set_sqlite_up)
    event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


def blocking_twin(engine: AsyncEngine) -> Engine | None:
    """Make an engine for threads on the same database, where that is the quicker way to drive it: SQLite; else ``None``."""
    if engine.dialect.name != "sqlite":
        return None
    twin = create_engine(
        engine.url.set(drivername="sqlite+pysqlite"),
        connect_args={"timeout": BUSY_TIMEOUT_SECONDS, "cached_statements": _CACHED_STATEMENTS},
    )
    event.listen(twin, "connect", _set_sqlite_up)
    event.listen(twin, "begin", _begin_sqlite)
    return twin


async def make_ready(engine: AsyncEngine) -> None:
    """Do what a database needs once, before its first transaction.

    PostgreSQL must not forget commits. On SQLite, write-ahead logging is turned on: the mode stays with the file. Two connections
    that turn it on at once do not wait for each other but fail (https://www.sqlite.org/wal.html §8), so one tries again.

    Raises:
        LogUnavailableError: if the database cannot be used, its file's folder does not exist, or it forgets commits.
    """
    if engine.dialect.name != "sqlite":
        await _check_durability(engine)
        return
    _check_folder(engine.url)
    database = path_of(engine.url)
    if database is not None:
        with refusals():
            keep_private(database)
    deadline = asyncio.get_running_loop().time() + BUSY_TIMEOUT_SECONDS
    while True:
        try:
            with refusals():
                async with engine.connect() as connection:
                    autocommit = await connection.execution_options(**{_BARE: True})
                    await autocommit.exec_driver_sql("PRAGMA journal_mode=WAL")
        except LogUnavailableError as problem:
            if problem.failure.code != "log-busy" or asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(0.02)
        else:
            return


async def _check_durability(engine: AsyncEngine) -> None:
    async with reading(engine) as connection:
        for setting in ("fsync", "synchronous_commit"):
            if (await connection.exec_driver_sql(f"SHOW {setting}")).scalar_one() == "off":
                raise LogUnavailableError(
                    Failure(
                        code="log-not-durable",
                        cause=f"PostgreSQL's setting {setting} is off: a commit may be lost when its machine stops",
                        advice=f"Set {setting} to on, for the server or for this database.",
                    )
                )


def _check_folder(url: URL) -> None:
    folder = Path(url.database or "").absolute().parent
    if url.database and not url.database.startswith("file:") and not folder.is_dir():
        raise LogUnavailableError(
            Failure(
                code="log-unavailable",
                cause=f"the folder {folder} of the event log's database does not exist",
                advice="Make the folder, or set WOODFROG_DATABASE_URL to a place that exists.",
            )
        )


def _set_sqlite_up(connection: Any, _record: Any) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout={int(BUSY_TIMEOUT_SECONDS * 1000)}",
        "synchronous=FULL",
        f"cache_size=-{_CACHE_KIB}",
        f"wal_autocheckpoint={_CHECKPOINT_PAGES}",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _note_return(_connection: Any, record: ConnectionPoolEntry) -> None:
    record.info[_RETURNED] = time.monotonic()


def _ping(dialect: Dialect, connection: Any, record: ConnectionPoolEntry, _proxy: Any) -> None:
    """Have a connection that lay idle replaced if its server has gone. SQLAlchemy would ask before each use, in three journeys."""
    if time.monotonic() - record.info.get(_RETURNED, time.monotonic()) < _TRUSTED_SECONDS:
        return
    try:
        dialect.do_ping(connection)
    except dialect.loaded_dbapi.Error as problem:
        raise InvalidatePoolError from problem


def _begin_sqlite(connection: Connection) -> None:
    options = connection.get_execution_options()
    if options.get(_BARE, False):  # the journal mode cannot be changed within a transaction
        return
    sql = "BEGIN IMMEDIATE" if options.get(_WRITES, False) else "BEGIN"
    driver = bare_driver(connection)
    if driver is None:
        connection.exec_driver_sql(sql)
    else:
        driver.execute(sql)


@asynccontextmanager
async def writing(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Open a writing transaction: committed at the end of the block, rolled back if it raises.

    Raises:
        LogUnavailableError: if the database could not take it, :class:`LogFullError` if for want of space.
        LogSchemaError: if a table is missing.
    """
    with refusals():
        async with engine.execution_options(**{_WRITES: True}).begin() as connection:
            yield connection


async def lock_out_migrations(connection: AsyncConnection) -> None:
    """Wait until no other process migrates, and let none begin before this transaction ends.

    SQLite's BEGIN IMMEDIATE does that already; PostgreSQL, where DDL of two transactions mixes, needs a lock with a name.
    """
    if connection.dialect.name != "sqlite":
        await connection.execute(select(func.pg_advisory_xact_lock(_MIGRATION_LOCK)))


@asynccontextmanager
async def reading(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Open a transaction that only reads. Raises as :func:`writing` does."""
    with refusals():
        async with engine.connect() as connection:
            yield connection


@contextmanager
def writing_blocked(twin: Engine) -> Iterator[Connection]:
    """Do as :func:`writing`, in the calling thread."""
    with refusals(), twin.execution_options(**{_WRITES: True}).begin() as connection:
        yield connection


@contextmanager
def reading_blocked(twin: Engine) -> Iterator[Connection]:
    """Do as :func:`reading`, in the calling thread."""
    with refusals(), twin.connect() as connection:
        yield connection


def bare_driver(connection: Connection) -> sqlite3.Connection | None:
    """Give the driver's own connection where its calls block and may be made directly: SQLite in a thread; else ``None``."""
    if connection.dialect.driver != "pysqlite":
        return None
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    return driver


def write_back(twin: Engine) -> None:
    """Bring pages of the write-ahead log to their places in the file, beside readers and writers.

    SQLite leaves this to the commit that finds the log too long, which then takes hundreds of milliseconds. What was brought
    over before (https://www.sqlite.org/pragma.html#pragma_wal_checkpoint, PASSIVE) that commit need not do.
    """
    pooled = twin.raw_connection()
    try:
        pooled.cursor().execute("PRAGMA wal_checkpoint(PASSIVE)")
    except sqlite3.Error:  # a full or broken disk: appends meet it, too, and say so
        pooled.invalidate()
    finally:
        pooled.close()


def takes_columns(dialect: Dialect) -> bool:
    """Tell whether rows are best handed over as one array for each column (``unnest``), and not one after the other.

    PostgreSQL runs a statement once for each row of an ``executemany``, statement triggers included; SQLite has no arrays,
    and for it a step for each row is the quickest way there is.
    """
    return dialect.name == "postgresql"


@contextmanager
def refusals() -> Iterator[None]:
    """Turn the drivers' errors into those of the log."""
    try:
        yield
    except DBAPIError as problem:
        refusal = _refusal(problem)
        if refusal is None:
            raise
        raise refusal from problem
    except sqlite3.Error as problem:  # from a connection's bare driver
        refusal = _refusal(problem)
        if refusal is None:
            raise
        raise refusal from problem
    except OSError as problem:  # asyncpg's, when there is no server to connect to
        raise _away(problem) from problem
    except OverflowError as problem:  # sqlite3's, of a number beyond 64 bits
        raise UnstorableEventError(str(problem)) from problem


def _refusal(
    problem: DBAPIError | sqlite3.Error,
) -> LogUnavailableError | LogSchemaError | UnstorableEventError | None:
    cause = problem.orig if isinstance(problem, DBAPIError) else problem
    state = getattr(cause, "sqlstate", None)
    sqlite_name = getattr(cause, "sqlite_errorname", "") or ""
    if sqlite_name == "SQLITE_FULL" or state == _PG_DISK_FULL:
        return LogFullError(
            Failure(
                code="log-disk-full",
                cause="the disk that holds the event log's database is full",
                advice="Free space on that disk; the control plane continues by itself.",
                detail=str(cause),
            )
        )
    if (state or "").startswith(_PG_DATA) or isinstance(cause, sqlite3.DataError):
        return UnstorableEventError(str(cause))
    if "no such table" in str(cause) or state == _PG_UNDEFINED_TABLE:
        return _unmigrated(cause)
    if sqlite_name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")) or state == _PG_LOCK_TIMEOUT:
        return LogUnavailableError(
            Failure(
                code="log-busy",
                cause=f"another process kept the event log's database locked for {BUSY_TIMEOUT_SECONDS:.0f} seconds",
                advice="End whatever holds a long writing transaction on the database.",
                detail=str(cause),
            )
        )
    gone = getattr(problem, "connection_invalidated", False) or (state or "").startswith(_PG_AWAY)
    if gone or isinstance(cause, sqlite3.OperationalError | OSError):
        return _away(cause)
    return None


def _away(cause: object) -> LogUnavailableError:
    return LogUnavailableError(
        Failure(
            code="log-unavailable",
            cause="the event log's database cannot be used",
            advice="Look at the detail; check that the database's disk or server is there and may be written to.",
            detail=str(cause),
        )
    )


def _unmigrated(cause: object) -> LogSchemaError:
    return LogSchemaError(
        Failure(
            code="log-not-migrated",
            cause="the database lacks tables of the event log",
            advice="Run `python -m controlplane` once, or `controlplane.log.admin.migrate.upgrade`, to migrate it.",
            detail=str(cause),
        )
    )
