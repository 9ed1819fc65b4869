"""A NATS connection with the options that matter set.

nats-py's defaults give up for ever after 60 reconnects, notice a half-open connection after minutes, and drop messages of
a slow subscription with no word but the error callback's. A control plane must outlive its broker instead.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog
from nats.aio.client import Client

from process.nkeys import KeyPair

_log = structlog.get_logger(component="nats")

_INBOX_PREFIX = "_INBOX"
_CONNECT_SECONDS: Final = 2
_ASKED_ABOUT_SECONDS: Final = 15
"""With a token the server asks the control plane, which asks Kubernetes: see `timeout` in what woodfrog.isolation writes."""


class TokenUnreadableError(OSError):
    """There is no token to present; the message names the file."""


async def connect(
    url: str,
    *,
    name: str,
    seed_file: Path | None = None,
    token_file: Path | None = None,
    inbox_prefix: str = _INBOX_PREFIX,
) -> Client:
    """Connect to ``url`` (credentials may be part of it) and keep reconnecting for as long as the process lives.

    ``name`` shows in the server's connection list. The first connection is retried as well, so that start order does not
    matter. ``seed_file`` holds the nkey seed of who connects, ``token_file`` a token that the server has somebody check; both
    are read at every connection, so that they may be replaced. Answers come to subjects below ``inbox_prefix``.

    Raises:
        InvalidSeedError: the seed file cannot be read, or holds no user's seed.
    """

    async def on_error(problem: Exception) -> None:
        await _log.awarning("nats error", error=repr(problem))

    async def on_disconnect() -> None:
        await _log.awarning("nats disconnected")

    async def on_reconnect() -> None:
        await _log.ainfo("nats reconnected")

    client = Client()
    sign: Callable[[str], bytes] | None = None
    if seed_file is not None:
        client._public_nkey = KeyPair.from_file(seed_file).public  # noqa: SLF001 - nats-py sets it only through the package nkeys

        def sign(nonce: str) -> bytes:
            return KeyPair.from_file(seed_file).signature(nonce)

    await client.connect(
        servers=[url],
        name=name,
        error_cb=on_error,
        disconnected_cb=on_disconnect,
        reconnected_cb=on_reconnect,
        max_reconnect_attempts=-1,
        reconnect_time_wait=1,
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
