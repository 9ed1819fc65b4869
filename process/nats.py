"""A NATS connection with the options that matter set.

nats-py's defaults give up for ever after 60 reconnects, notice a half-open connection after minutes, and drop messages of
a slow subscription with no word but the error callback's. A control plane must outlive its broker instead.

Whatever the options, nats-py 2.16 closes a connection for good when the server ends it with a reason: credentials that are
replaced, a time that is over, a limit. Every subscription is then gone, and whoever waits for a message is *cancelled*, which a
task group takes for a task's proper end: the process would stand there, deaf. So each of these is made a reconnection here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import nats.errors
import structlog
from nats.aio.client import Client

from process.nkeys import InvalidSeedError, KeyPair

_log = structlog.get_logger(component="nats")

_INBOX_PREFIX = "_INBOX"
_CONNECT_SECONDS: Final = 2
_ASKED_ABOUT_SECONDS: Final = 15
"""With a token the server asks the control plane, which asks Kubernetes: see `timeout` in what woodfrog.isolation writes."""


_STALE: Final = "stale connection"
_PERMISSIONS: Final = "permissions violation"
_RECONNECT_SECONDS: Final = 1


NO_ROOM: Final = frozenset({10002, 10023, 10028, 10047, 10077})
"""JSAccountResourcesExceededErr, JSInsufficientResourcesErr, JSMemoryResourcesExceededErr, JSStorageResourcesExceededErr and
JSStreamStoreFailedF (a stream that takes no more than its limit) in nats-server's server/errors.json."""


class TokenUnreadableError(OSError):
    """There is no token to present; the message names the file."""


class SeedUnreadableError(OSError):
    """There is no seed to prove oneself by any more; the message names the file."""


class _LastingClient(Client):
    """A client that only :meth:`close` closes."""

    async def _process_err(self, err_msg: str) -> None:
        """Take what the server says before it ends the connection for a reason to connect again."""
        said = err_msg.lower()
        if _STALE in said or _PERMISSIONS in said:
            await super()._process_err(err_msg)
            return
        problem = nats.errors.Error(f"nats: {err_msg.strip(chr(39))}")
        await _log.ainfo("the server ends the connection", reason=str(problem))
        await self._process_op_err(problem)

    async def _process_connect_init(self) -> None:
        """Greet a server; of one that does not greet back, keep no transport."""
        try:
            await super()._process_connect_init()
        except BaseException:
            self._forget_transport()
            raise
        if not self.is_connected:  # it hung up before it answered, which nats-py takes for an answer
            for task in (self._reading_task, self._ping_interval_task, self._flusher_task):
                if task is not None:
                    task.cancel()
            self._forget_transport()
            raise nats.errors.UnexpectedEOF

    def _forget_transport(self) -> None:
        if self._transport is not None:
            self._transport.close()  # type: ignore[no-untyped-call]

    async def _read_loop(self) -> None:
        """Read; the end of that is the end of this connection, and never a client that is connected and deaf."""
        await super()._read_loop()
        if self.is_connected and self._reading_task is asyncio.current_task():
            await self._process_op_err(nats.errors.UnexpectedEOF())

    async def _attempt_reconnect(self) -> None:
        """Connect again, whatever comes in between."""
        while True:
            try:
                await super()._attempt_reconnect()
            except Exception as problem:  # noqa: BLE001 - the task would end with it, and nobody would connect any more
                await _log.awarning("a reconnection failed in an unforeseen way", error=problem)
            else:
                return
            await asyncio.sleep(_RECONNECT_SECONDS)


async def connect(
    url: str,
    *,
    name: str,
    seed_file: Path | None = None,
    token_file: Path | None = None,
    inbox_prefix: str = _INBOX_PREFIX,
) -> Client:
    """Connect to ``url`` (credentials may be part of it, for all servers of a cluster) and keep reconnecting until it is closed by whoever asked for it.

    ``name`` shows in the server's connection list. The first connection is retried as well, so that start order does not
    matter. ``seed_file`` holds the nkey seed of who connects, ``token_file`` a token that the server has somebody check; both
    are read at every connection, so that they may be replaced. Answers come to subjects below ``inbox_prefix``.

    Raises:
        InvalidSeedError: the seed file cannot be read, or holds no user's seed.
    """

    async def on_error(problem: Exception) -> None:
        await _log.awarning("nats error", error=problem)

    async def on_disconnect() -> None:
        await _log.awarning("nats disconnected")

    async def on_reconnect() -> None:
        await _log.ainfo("nats reconnected")

    client = _LastingClient()
    sign: Callable[[str], bytes] | None = None
    if seed_file is not None:
        client._public_nkey = KeyPair.from_file(seed_file).public  # noqa: SLF001 - nats-py sets it only through the package nkeys

        def sign(nonce: str) -> bytes:
            try:
                return KeyPair.from_file(seed_file).signature(nonce)
            except InvalidSeedError as problem:  # it was there at the beginning, and may be there again
                raise SeedUnreadableError(str(problem)) from problem

    address = urlsplit(url)
    await client.connect(
        servers=[url],
        user=address.username
        if address.password
        else None,  # nats-py keeps what an URL says from servers that it hears of
        password=address.password or None,
        name=name,
        error_cb=on_error,
        disconnected_cb=on_disconnect,
        reconnected_cb=on_reconnect,
        max_reconnect_attempts=-1,
        reconnect_time_wait=_RECONNECT_SECONDS,
        ping_interval=10,
        max_outstanding_pings=2,
        connect_timeout=_CONNECT_SECONDS if token_file is None else _ASKED_ABOUT_SECONDS,
        inbox_prefix=inbox_prefix,
        signature_cb=sign,
        token=None if token_file is None else _reading(token_file),
        pending_size=16 * 1024 * 1024,
    )
    return client


def _reading(token_file: Path) -> Callable[[], str]:
    """Read a token whenever it is asked for: the kubelet replaces the file before what is in it expires."""

    def read() -> str:
        try:
            return token_file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as problem:
            raise TokenUnreadableError(f"the token {token_file} cannot be read: {problem}") from problem

    return read
