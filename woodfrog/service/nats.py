"""A NATS connection with the options that matter set.

nats-py's defaults give up for ever after 60 reconnects, notice a half-open connection after minutes, and drop messages of
a slow subscription with no word but the error callback's. A control plane must outlive its broker instead.

Encryption is insisted on where :mod:`woodfrog.service.natstls` says so, and the server's greeting cannot talk us out of it.

Whatever the options, nats-py 2.16 closes a connection for good when the server ends it with a reason: credentials that are
replaced, a time that is over, a limit. Every subscription is then gone, and whoever waits for a message is *cancelled*, which a
task group takes for a task's proper end: the process would stand there, deaf. So each of these is made a reconnection here.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.transport import TcpTransport

from woodfrog.service.natstls import InsecureConnectionError, Trust
from woodfrog.service.nkeys import InvalidSeedError, KeyPair

_log = structlog.get_logger(component="nats")

_INBOX_PREFIX = "_INBOX"
_CONNECT_SECONDS: Final = 2
_ASKED_ABOUT_SECONDS: Final = 15
"""With a token the server asks the control plane, which asks Kubernetes: see `timeout` in what woodfrog.isolation writes."""


_STALE: Final = "stale connection"
_PERMISSIONS: Final = "permissions violation"
_RECONNECT_SECONDS: Final = 1
_SYSTEM: Final = Trust()
"""Who is vouched for by a certificate authority that this system knows."""


NO_ROOM: Final = frozenset({10002, 10023, 10028, 10047, 10077})
"""JSAccountResourcesExceededErr, JSInsufficientResourcesErr, JSMemoryResourcesExceededErr, JSStorageResourcesExceededErr and
JSStreamStoreFailedF (a stream that takes no more than its limit) in nats-server's server/errors.json."""


class TokenUnreadableError(OSError):
    """There is no token to present; the message names the file."""


class SeedUnreadableError(OSError):
    """There is no seed to prove oneself by any more; the message names the file."""


class LastingClient(Client):
    """A client that only :meth:`close` closes, and that sends nothing in the clear that is to be encrypted."""

    def __init__(self, trust: Trust, *, encrypted: bool) -> None:
        super().__init__()
        self._trust = trust
        self._encrypted = encrypted

    @property
    def ssl_context(self) -> ssl.SSLContext:
        """Read again for each connection: certificates are renewed."""
        return self._trust.context()

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        """Take a greeting that says nothing of encryption for one that asks for it."""
        if self._encrypted:
            info["tls_required"] = True
        await super()._process_info(info, initial_connection=initial_connection)

    def _connect_command(self) -> bytes:
        """Say who we are, unless that is a secret which others could read."""
        assert self._transport is not None
        assert self._current_server is not None
        said = self._current_server.uri
        secret = any(
            (self.options["user"], self.options["password"], self.options["token"], said.username, said.password)
        )
        if self._encrypted and not self._is_encrypted():
            raise InsecureConnectionError("nats: the connection was to be encrypted and is not")
        peer = self._writer().get_extra_info("peername")
        self._trust.check(encrypted=self._is_encrypted(), peer=str(peer[0]) if peer else "?", secret=secret)
        command: bytes = super()._connect_command()
        return command

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
        if self.options["tls_handshake_first"] and self._was_greeted():
            self.options["tls_handshake_first"] = False
        try:
            await super()._process_connect_init()
        except BaseException as problem:
            if self._encrypted and not self._is_encrypted() and _of_another_order(problem):
                self.options["tls_handshake_first"] = not self.options["tls_handshake_first"]
            self._forget_transport()
            raise
        if not self.is_connected:  # it hung up before it answered, which nats-py takes for an answer
            for task in (self._reading_task, self._ping_interval_task, self._flusher_task):
                if task is not None:
                    task.cancel()
            self._forget_transport()
            raise nats.errors.UnexpectedEOF

    def _writer(self) -> asyncio.StreamWriter:
        writer: asyncio.StreamWriter = self._transport._io_writer  # type: ignore[union-attr]  # noqa: SLF001
        return writer

    def _was_greeted(self) -> bool:
        """Return whether the server spoke first: with what it said in its way, no handshake would ever end."""
        reader: asyncio.StreamReader = self._transport._io_reader  # type: ignore[union-attr]  # noqa: SLF001
        return bool(reader._buffer)  # type: ignore[attr-defined]  # noqa: SLF001

    @property
    def certificate_expires(self) -> float | None:
        """When the certificate of the server that is connected expires, in seconds since 1970; ``None`` without TLS."""
        if self._transport is None or not self._transport:
            return None
        encryption: ssl.SSLObject | None = self._writer().get_extra_info("ssl_object")
        certificate = None if encryption is None else encryption.getpeercert()
        return ssl.cert_time_to_seconds(str(certificate["notAfter"])) if certificate else None

    def _is_encrypted(self) -> bool:
        return self._transport is not None and self._writer().get_extra_info("ssl_object") is not None

    def _forget_transport(self) -> None:
        """Close the connection, and do not wait for its end: after a failed handshake nobody would ever tell of that."""
        if self._transport is not None:
            self._transport.close()  # type: ignore[no-untyped-call]
            self._transport = TcpTransport()  # type: ignore[no-untyped-call]

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


def _of_another_order(problem: BaseException) -> bool:
    """Tell whether the server may greet in the clear before it encrypts, or only after; ours does after."""
    greets_first = isinstance(problem, ssl.SSLError) and not isinstance(problem, ssl.SSLCertVerificationError)
    return greets_first or isinstance(problem, TimeoutError)


async def connect(
    url: str,
    *,
    name: str,
    seed_file: Path | None = None,
    token_file: Path | None = None,
    trust: Trust = _SYSTEM,
    inbox_prefix: str = _INBOX_PREFIX,
) -> LastingClient:
    """Connect to ``url`` (credentials may be part of it, for all servers of a cluster) and keep reconnecting until it is closed by whoever asked for it.

    ``name`` shows in the server's connection list. The first connection is retried as well, so that start order does not
    matter. ``seed_file`` holds the nkey seed of who connects, ``token_file`` a token that the server has somebody check; both
    are read at every connection, so that they may be replaced. ``trust`` says how it is encrypted, which a ``tls://`` URL or
    a CA file demand; without, no password and no token leaves this machine. Answers come to subjects below ``inbox_prefix``.

    Raises:
        InvalidSeedError: the seed file cannot be read, or holds no user's seed.
    """

    async def on_error(problem: Exception) -> None:
        await _log.awarning("nats error", error=problem)

    async def on_disconnect() -> None:
        await _log.awarning("nats disconnected")

    async def on_reconnect() -> None:
        await _log.ainfo("nats reconnected")

    encrypted = trust.encrypts(url)
    client = LastingClient(trust, encrypted=encrypted)
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
        tls_handshake_first=encrypted,
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
