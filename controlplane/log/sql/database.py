"""One hop per transaction: a transaction is a plain function of a connection, run where its database is driven best.

SQLite works in the calling thread, and its asyncio driver hops to a thread and back for every statement, which took most of
an append's time. So on SQLite a whole transaction runs in a thread of ours: one thread for all that writes, since only one
transaction can, and a few for reading. PostgreSQL is waited for on the network: there the same function runs on the event
loop, each of its statements awaited behind it (SQLAlchemy's ``run_sync``). The log's SQL is thus written once, without
``await``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy import Connection, Engine

from controlplane.log.sql.engine import (
    blocking_twin,
    open_engine,
    reading,
    reading_blocked,
    write_back,
    writing,
    writing_blocked,
)

T = TypeVar("T")

_READERS = 4
_WRITE_BACK_SECONDS = 2.0


class Database:
    """An open database. ``engine`` is its asyncio side, for migrations and tests."""

    def __init__(self, url: str) -> None:
        self.engine = open_engine(url)
        self._twin = blocking_twin(self.engine)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="log-writer")
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="log-reader")
        self._behind = ThreadPoolExecutor(1, thread_name_prefix="log-behind")
        self._writing_back: Future[None] | None = None
        self._written_back_at = time.monotonic()

    async def write(self, act: Callable[[Connection], T], *, committed: Callable[[], None] | None = None) -> T:
        """Run ``act`` in a writing transaction, and ``committed`` at once after it was committed.

        If the caller is cancelled, the transaction still ends, whole or not at all, before the next one begins.

        Raises:
            LogUnavailableError, LogFullError, LogSchemaError: see :func:`controlplane.log.sql.engine.refusals`.
        """
        twin = self._twin
        if twin is None:
            async with writing(self.engine) as connection:
                result = await connection.run_sync(act)
            if committed is not None:
                committed()
            return result

        def run() -> T:
            with writing_blocked(twin) as connection:
                answer = act(connection)
            if committed is not None:
                committed()
            self._write_back(twin)
            return answer

        return await asyncio.get_running_loop().run_in_executor(self._writer, run)

    def _write_back(self, twin: Engine) -> None:
        now = time.monotonic()
        idle = self._writing_back is None or self._writing_back.done()
        if idle and now - self._written_back_at >= _WRITE_BACK_SECONDS:
            self._written_back_at = now
            self._writing_back = self._behind.submit(write_back, twin)

    async def read(self, act: Callable[[Connection], T]) -> T:
        """Run ``act`` in a transaction that only reads, beside all others. Raises as :meth:`write` does."""
        twin = self._twin
        if twin is None:
            async with reading(self.engine) as connection:
                return await connection.run_sync(act)

        def run() -> T:
            with reading_blocked(twin) as connection:
                return act(connection)

        return await asyncio.get_running_loop().run_in_executor(self._readers, run)

    async def close(self) -> None:
        """Let what was begun end, and give back every connection."""
        for threads in (self._writer, self._behind, self._readers):
            await asyncio.to_thread(threads.shutdown)
        if self._twin is not None:
            self._twin.dispose()
        await self.engine.dispose()
