"""The HTTP API over a log of one's own, on loopback, without a broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, cast
from uuid import uuid4

import aiohttp
import msgspec

from controlplane.bus import message_validation
from controlplane.bus.node_statuses import NodeStatuses
from controlplane.domain import CheckpointAsked, ForgetAsked, Policy, SnapshotAsked, State, decide, evolve
from controlplane.http.api.actions import Answer, Asks, Request
from controlplane.http.api.assembly import open_api
from controlplane.http.api.next_dumps import Live
from controlplane.http.api.settings import ApiSettings
from controlplane.kube.api import KubernetesApi
from controlplane.log import EventLog, Metadata, NewEvent
from woodfrog.protocol import subjects, wire
from woodfrog.protocol.facts import NodeFacts
from woodfrog.protocol.ids import CommandId, Epoch, NodeName, Position, WorkerId
from woodfrog.protocol.node_status import NodeStatus
from woodfrog.protocol.reports import Heartbeat
from woodfrog.protocol.requests import CheckpointRequest, ForgetRequest, SnapshotRequest
from woodfrog.service.http import Address

EVERYTHING = "e" * 32
DEFAULT = "d" * 32
OTHER = "o" * 32
ACTING = "a" * 32
ACTING_ELSEWHERE = "b" * 32
TOKENS = f"""\
# who sees what, and may change it
oncall   {EVERYTHING}  *
default  {DEFAULT}     default      view
other    {OTHER}       other,third
actor    {ACTING}      *            act
distant  {ACTING_ELSEWHERE} other   act
"""


class Deciding:
    """The control plane that leads, as far as people's requests are concerned: decides them and records what follows."""

    def __init__(self, log: EventLog, epoch: Epoch) -> None:
        self._log, self._epoch = log, epoch

    async def ask(self, subject: str, request: Request) -> Answer:
        """Answer, through the bytes that would go over the wire."""
        data, number, now = wire.encode(request), uuid4(), datetime.now(UTC)
        state = State()
        for event, at in (await self._log.tell(Position(0), 1_000_000))[1]:
            evolve(state, event, at)
        asked: CheckpointAsked | ForgetAsked | SnapshotAsked
        if subject == subjects.CHECKPOINT:
            asked = CheckpointAsked(
                message_validation.request(data, CheckpointRequest), CommandId(str(number)), str(number)
            )
        elif subject == subjects.FORGET:
            asked = ForgetAsked(message_validation.request(data, ForgetRequest), str(number))
        else:
            asked = SnapshotAsked(message_validation.request(data, SnapshotRequest), str(number))
        decision = decide(state, asked, now, Policy())
        metadata = Metadata(message_validation.actor_of(asked.request.by), asked.source)
        events = [NewEvent(uuid4(), event, metadata, now) for event in decision.events]
        if events:
            await self._log.append(events, epoch=self._epoch)
        assert isinstance(decision.answer, Answer)
        return decision.answer


class Served(NamedTuple):
    """A server, and a client of it."""

    url: str
    session: aiohttp.ClientSession
    statuses: NodeStatuses

    def hear(self, node: str, status: NodeStatus | None, worker: str = "worker") -> None:
        """Let a node's worker give a sign of life."""
        heartbeat = Heartbeat(NodeName(node), WorkerId(worker), "boot", NodeFacts(), status=status)
        self.statuses.hear(subjects.heartbeats(NodeName(node)), wire.encode(heartbeat))

    async def get(
        self,
        path: str,
        token: str | None = EVERYTHING,
        *,
        headers: dict[str, str] | None = None,
        method: str = "GET",
        data: bytes | None = None,
    ) -> tuple[int, Any, Any]:
        """Ask; the answer's status, headers and decoded body."""
        sent = dict(headers or {})
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        async with self.session.request(method, f"{self.url}{path}", headers=sent, data=data) as response:
            plain = response.content_type == "application/json" and method != "HEAD"
            return response.status, response.headers, await (response.json() if plain else response.text())

    async def act(self, path: str, token: str | None = ACTING, **body: Any) -> tuple[int, Any]:
        """Change something; the answer's status and decoded body."""
        sent = {"Content-Type": "application/json"}
        data = msgspec.json.encode(body)
        status, _, said = await self.get(path, token, headers=sent, method="POST", data=data)
        return status, said


def silent() -> NodeStatuses:
    """What no broker carries anything to."""
    return NodeStatuses(cast("Any", None))


@asynccontextmanager
async def served(
    log: EventLog,
    database_url: str,
    folder: Path,
    *,
    tokens: str = TOKENS,
    api: KubernetesApi | None = None,
    certificate: Sequence[Path] = (),
    asks: Asks | None = None,
) -> AsyncIterator[Served]:
    """Serve it while the block runs; with ``asks``, something can be changed."""
    tokens_file = folder / "api-tokens"
    tokens_file.write_text(tokens)
    certificate_file, key_file = certificate or (None, None)
    settings = ApiSettings(
        Address("127.0.0.1", 0), tokens_file, api is not None, certificate_file, key_file, asks is not None
    )
    statuses = silent()
    async with AsyncExitStack() as stack:
        server = await open_api(
            stack, settings, log, database_url, cluster="local", policy=Policy(), live=Live(), statuses=statuses, api=api,
            asks=asks,
        )  # fmt: skip
        task = asyncio.create_task(server.run())
        port = asyncio.create_task(server.port())
        await asyncio.wait([task, port], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            port.cancel()
            await task
        connector = aiohttp.TCPConnector(ssl=False)
        async with aiohttp.ClientSession(connector=connector) as session:
            yield Served(f"http{'s' if certificate else ''}://127.0.0.1:{port.result()}", session, statuses)
        task.cancel()
        await asyncio.wait([task])
