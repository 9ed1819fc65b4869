"""The log as it grows, for whoever keeps a connection open: server-sent events (WHATWG HTML §9.2).

An event's id is its position, so a client that reconnects with ``Last-Event-ID`` misses nothing and gets nothing twice. A comment
comes when nothing else did for a while, with the position up to which the log was looked at. A stream ends after some minutes,
so that a right that was taken away does not last; the client comes back by itself.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from typing import Any, Final

import msgspec

from controlplane.http.api.queries import Questions, shown
from controlplane.http.api.viewers import RefusedRequestError
from controlplane.log import pages, read
from controlplane.log.eventlog import EventLog
from controlplane.log.pages import Scope
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import Position

_PAGE: Final = 200
_GATHER_SECONDS: Final = 0.2
"""How long events are gathered before they are read together, so that many streams cost few reads."""
_QUIET_SECONDS: Final = 15.0
_LONGEST_SECONDS: Final = 600.0
_MOST_STREAMS: Final = 64
_MOST_OF_ONE: Final = 8

Send = Callable[[bytes], Awaitable[None]]


class Tails:
    """All open streams of one server."""

    def __init__(self, log: EventLog, questions: Questions) -> None:
        self._log = log
        self._questions = questions
        self._open: Counter[str] = Counter()

    def enter(self, name: str) -> None:
        """Take a place for somebody's stream; :meth:`leave` gives it back.

        Raises:
            RefusedRequestError: there is none.
        """
        if self._open.total() >= _MOST_STREAMS or self._open[name] >= _MOST_OF_ONE:
            cause = f"{name} has {self._open[name]} streams open, of {self._open.total()} in all"
            advice = "Close one, or ask again in a moment."
            raise RefusedRequestError(HTTPStatus.SERVICE_UNAVAILABLE, Failure("api-busy", cause, advice))
        self._open[name] += 1

    def leave(self, name: str) -> None:
        """Give a place back."""
        self._open[name] -= 1
        if not self._open[name]:
            del self._open[name]

    async def follow(self, scope: Scope, streams: list[str], type_: str | None, after: int | None, send: Send) -> None:
        """Send what follows on a position, until it is time to ask again."""
        types = [] if type_ is None else [type_]
        position = Position(after) if after is not None else await self._questions.reader.read(read.head)
        await send(b"retry: 1000\n\n")
        loop = asyncio.get_running_loop()
        ends, quiet_since = loop.time() + _LONGEST_SECONDS, loop.time()
        while loop.time() < ends:
            position, rows = await self._questions.reader.read(
                partial(pages.events_after, scope=scope, streams=streams, types=types, after=position, limit=_PAGE)
            )
            if rows:
                await send(b"".join(_written(row) for row in rows))
                quiet_since = loop.time()
            elif loop.time() - quiet_since >= _QUIET_SECONDS:
                await send(f": {position}\n\n".encode())
                quiet_since = loop.time()
            if len(rows) < _PAGE and await self._log.wait_for(Position(position + 1), _QUIET_SECONDS):
                await asyncio.sleep(_GATHER_SECONDS)


def _written(row: dict[str, Any]) -> bytes:
    return b"id: %d\ndata: %s\n\n" % (row["position"], msgspec.json.encode(shown(row)))
