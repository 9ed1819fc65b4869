"""The API's own door to the log's database: what people look through never takes a connection that the control plane needs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Final, TypeVar

from sqlalchemy import Connection

from controlplane.log.database import Database
from controlplane.log.records import LogUnavailableError
from controlplane.web.api.viewers import RefusedRequestError
from protocol.failures import Failure

_AT_ONCE: Final = 3
_ANSWER_SECONDS: Final = 15.0

T = TypeVar("T")


class Reader:
    """Reads; closed with :meth:`close`."""

    def __init__(self, url: str) -> None:
        self._database = Database(url)
        self._at_once = asyncio.Semaphore(_AT_ONCE)
        self._reading: set[asyncio.Task[object]] = set()

    async def read(self, act: Callable[[Connection], T]) -> T:
        """Run ``act`` in a transaction that only reads.

        Raises:
            RefusedRequestError: the database is away or slow.
        """
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await self._at_once.acquire()  # whoever goes away before leaves nothing that is read for nobody
                # A statement cannot be taken back: its place is free again when it has ended, and not when nobody waits any more.
                task = asyncio.create_task(self._database.read(act))
                self._reading.add(task)
                task.add_done_callback(self._ended)
                return await asyncio.shield(task)
        except TimeoutError as problem:
            raise _busy(f"the log did not answer within {_ANSWER_SECONDS:g} s") from problem
        except LogUnavailableError as problem:
            raise _busy(f"the log cannot be read: {problem}") from problem

    def _ended(self, task: asyncio.Task[object]) -> None:
        self._reading.discard(task)
        self._at_once.release()
        if not task.cancelled():
            task.exception()  # whoever waited for it has been told

    async def close(self) -> None:
        """Wait for what is being read, and give back every connection."""
        if self._reading:
            await asyncio.wait(self._reading)
        await self._database.close()


def _busy(cause: str) -> RefusedRequestError:
    return RefusedRequestError(HTTPStatus.SERVICE_UNAVAILABLE, Failure("api-busy", cause, "Ask again in a moment."))
