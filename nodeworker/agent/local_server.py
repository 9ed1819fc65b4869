"""The unix socket on which the OCI runtime and the command line reach the worker.

One request a connection, one line of JSON each way, as :mod:`woodfrog.protocol.runtime_api` says. Only root may connect: whoever can ask
for a ``create`` gets another container's memory restored into a bundle of their choice.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from nodeworker.errors import failure_of
from woodfrog.protocol import wire
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import ContainerId
from woodfrog.protocol.runtime_api import CreateRequest, LocalAnswer, LocalAsk, Refused, RestoreFailedNotification
from woodfrog.service import logs

_log = structlog.get_logger(component="local")
_LINE_LIMIT_BYTES = 1 << 20
_READ_LIMIT_SECONDS = 10.0

Answerer = Callable[[LocalAsk], Awaitable[LocalAnswer]]
Gone = Callable[[ContainerId], Awaitable[None]]


def _bind(path: Path) -> socket.socket:
    """Bind a listening socket that is never reachable with wider permissions than 0600, replacing a dead worker's.

    It is bound by a name that is no longer than its own: a path that fits into sun_path (unix(7)) is to be enough.
    """
    fresh = path.with_name(f".{os.getpid()}")
    fresh.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(str(fresh))
        fresh.chmod(0o600)
        fresh.rename(path)
    except BaseException:
        listening.close()
        raise
    return listening


class LocalServer:
    """Answers every connection by ``answer``, whose exceptions become refusals.

    Somebody who goes away before the answer does not stop a dump; a create is void without him.
    """

    def __init__(self, path: Path, answer: Answerer, gone: Gone | None = None) -> None:
        """``gone`` is called when nobody is there any more to whom a create could be answered."""
        self._path = path
        self._answer = answer
        self._gone = gone
        self._server: asyncio.Server | None = None
        self._conversations: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Begin to listen.

        Raises:
            OSError: if the socket cannot be made.
        """
        listening = await asyncio.to_thread(_bind, self._path)
        self._server = await asyncio.start_unix_server(self._accept, sock=listening, limit=_LINE_LIMIT_BYTES)

    async def refuse_new(self) -> None:
        """Accept nobody any more; the conversations under way go on."""
        if self._server is not None:
            self._server.close()
            self._server = None
            await asyncio.to_thread(self._path.unlink, missing_ok=True)

    async def stop(self, limit_seconds: float) -> None:
        """Accept nobody any more and give the conversations under way ``limit_seconds`` to end."""
        await self.refuse_new()
        if self._conversations:
            await asyncio.wait(self._conversations, timeout=limit_seconds)
        for conversation in self._conversations:
            conversation.cancel()
        await asyncio.gather(*self._conversations, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversation = asyncio.create_task(self._converse(reader, writer))
        self._conversations.add(conversation)
        conversation.add_done_callback(self._conversations.discard)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            try:
                async with asyncio.timeout(_READ_LIMIT_SECONDS):
                    line = await reader.readline()
            except (TimeoutError, ValueError, OSError):
                line = b""
            if not line:
                return
            try:
                ask: LocalAsk = wire.decode(line, LocalAsk)
            except wire.MalformedMessageError as problem:
                await self._tell(writer, _malformed(problem))
            else:
                await self._converse_about(ask, reader, writer)
        finally:
            writer.close()

    async def _converse_about(self, ask: LocalAsk, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._gone is None or not isinstance(ask, CreateRequest | RestoreFailedNotification):
            await self._tell(writer, await self._answer_ask(ask))
            return
        answer = await self._while_there(ask, reader)
        if answer is None or not await self._tell(writer, answer):
            await _log.awarning("the caller that asked for a start is gone", container_id=ask.container_id)
            await self._gone(ask.container_id)

    async def _tell(self, writer: asyncio.StreamWriter, answer: LocalAnswer) -> bool:
        """Send an answer; say whether anybody was there to receive it."""
        try:
            writer.write(wire.encode(answer) + b"\n")
            await writer.drain()
        except OSError as problem:
            await _log.awarning("the caller went away before the answer", error=str(problem))
            return False
        return True

    async def _while_there(self, ask: LocalAsk, reader: asyncio.StreamReader) -> LocalAnswer | None:
        """Answer, or return ``None`` once nobody is there any more; what was begun has ended then."""
        answer = asyncio.ensure_future(self._answer_ask(ask))
        leaving = asyncio.ensure_future(reader.read())
        try:
            await asyncio.wait([answer, leaving], return_when=asyncio.FIRST_COMPLETED)
            return answer.result() if answer.done() else None
        finally:
            leaving.cancel()
            answer.cancel()
            await asyncio.gather(answer, leaving, return_exceptions=True)

    async def _answer_ask(self, ask: LocalAsk) -> LocalAnswer:
        try:
            with logs.about(container_id=getattr(ask, "container_id", None)):
                return await self._answer(ask)
        except Exception as problem:  # noqa: BLE001 -- the runtime must get an answer whatever went wrong
            await _log.aexception("a local request failed", ask=type(ask).__name__)
            return Refused(failure_of(problem, f"on {type(ask).__name__}"))


def _malformed(problem: wire.MalformedMessageError) -> Refused:
    advice = "The runtime and the worker may be of different versions; install both from one release."
    cause = f"the worker was sent a message it cannot read: {problem}"
    return Refused(Failure("malformed-request", cause, advice))
