"""The HTTP API over a log of one's own, on loopback, without a broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from controlplane.domain import Policy
from controlplane.http.api.assembly import open_api
from controlplane.http.api.next_dumps import Live
from controlplane.http.api.settings import ApiSettings
from controlplane.kube.api import KubernetesApi
from controlplane.log import EventLog
from woodfrog.service.http import Address

EVERYTHING = "e" * 32
DEFAULT = "d" * 32
OTHER = "o" * 32
TOKENS = f"""\
# who sees what
oncall   {EVERYTHING}  *
default  {DEFAULT}     default
other    {OTHER}       other,third
"""


class Served(NamedTuple):
    """A server, and a client of it."""

    url: str
    session: aiohttp.ClientSession

    async def get(
        self, path: str, token: str | None = EVERYTHING, *, headers: dict[str, str] | None = None, method: str = "GET"
    ) -> tuple[int, Any, Any]:
        """Ask; the answer's status, headers and decoded body."""
        sent = dict(headers or {})
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        async with self.session.request(method, f"{self.url}{path}", headers=sent) as response:
            plain = response.content_type == "application/json" and method != "HEAD"
            return response.status, response.headers, await (response.json() if plain else response.text())


@asynccontextmanager
async def served(
    log: EventLog,
    database_url: str,
    folder: Path,
    *,
    tokens: str = TOKENS,
    api: KubernetesApi | None = None,
    certificate: Sequence[Path] = (),
) -> AsyncIterator[Served]:
    """Serve it while the block runs."""
    tokens_file = folder / "api-tokens"
    tokens_file.write_text(tokens)
    certificate_file, key_file = certificate or (None, None)
    settings = ApiSettings(Address("127.0.0.1", 0), tokens_file, api is not None, certificate_file, key_file)
    async with AsyncExitStack() as stack:
        server = await open_api(
            stack, settings, log, database_url, cluster="local", policy=Policy(), live=Live(), api=api
        )
        task = asyncio.create_task(server.run())
        port = asyncio.create_task(server.port())
        await asyncio.wait([task, port], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            port.cancel()
            await task
        connector = aiohttp.TCPConnector(ssl=False)
        async with aiohttp.ClientSession(connector=connector) as session:
            yield Served(f"http{'s' if certificate else ''}://127.0.0.1:{port.result()}", session)
        task.cancel()
        await asyncio.wait([task])
