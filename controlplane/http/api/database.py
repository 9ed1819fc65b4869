"""The API's own door to the log's database: what people look through never takes a connection that the control plane needs.

Nor does it take the control plane's turn: PostgreSQL's rows are made on the event loop that waits for them, tens of thousands for
one count, so this one has a thread of its own.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Final, TypeVar

from sqlalchemy import Connection

from controlplane.http.api.viewers import RefusedRequestError
from controlplane.log.records import LogUnavailableError
from controlplane.log.sql.database import Database
from woodfrog.protocol.failures import Failure

_AT_ONCE: Final = 3
_ANSWER_SECONDS: Final = 15.0

T = TypeVar("T")


class Reader:
    """Reads; closed with :meth:`close`."""

    def __init__(self, url: str) -> None:
        self._database = Database(url)
        self._at_once = asyncio.Semaphore(_AT_ONCE)
        self._reading: set[asyncio.Future[Any]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="api-reader", daemon=True)
        self._thread.start()

    async def read(self, act: Callable[[Connection], T]) -> T:
        """Run ``act`` in a transaction that only reads.

        Raises:
            RefusedRequestError: the database is away or slow.
        """
        async with answering():
            return await self._read(act)

    def begin(self, act: Callable[[Connection], T]) -> asyncio.Task[T]:
        """Run it however long it takes, for several who wait for it, each within :func:`answering`."""
        return asyncio.create_task(self._read(act))

    async def _read(self, act: Callable[[Connection], T]) -> T:
        await self._at_once.acquire()  # whoever goes away before leaves nothing that is read for nobody
        # A statement cannot be taken back: its place is free again when it has ended, and not when nobody waits any more.
        task = self._begun(self._database.read(act))
        self._reading.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _begun(self, reading: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
        return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(reading, self._loop))

    def _ended(self, task: asyncio.Future[Any]) -> None:
        self._reading.discard(task)
        self._at_once.release()
        if not task.cancelled():
            task.exception()  # whoever waited for it has been told

    async def close(self) -> None:
        """Wait for what is being read, and give back every connection."""
        if self._reading:
            await asyncio.wait(self._reading)
        await self._begun(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        await asyncio.to_thread(self._thread.join)
        self._loop.close()

    async def _close(self) -> None:
        await self._database.close()
        await self._loop.shutdown_default_executor()


@asynccontextmanager
async def answering() -> AsyncIterator[None]:
    """Bound how long somebody waits for an answer.

    Raises:
        RefusedRequestError: the database is away or slow.
    """
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            yield
    except TimeoutError as problem:
        raise _busy(f"the log did not answer within {_ANSWER_SECONDS:g} s") from problem
    except LogUnavailableError as problem:
        raise _busy(f"the log cannot be read: {problem}") from problem


def _busy(cause: str) -> RefusedRequestError:
    return RefusedRequestError(HTTPStatus.SERVICE_UNAVAILABLE, Failure("api-busy", cause, "Ask again in a moment."))
