"""``woodfrog doctor --control-plane``: whether what a control plane uses has room for it, and is safe to reach.

A node's doctor cannot tell: nothing of the streams or of the database can be seen from a node.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import nats.errors
from nats.aio.client import Client
from sqlalchemy.engine import make_url

from controlplane.bus.stream_storage import STANDARD_BYTES, look
from controlplane.domain.clock_skew import is_news
from nodeworker.host.doctor import Finding, report
from woodfrog.dev_state import Reach
from woodfrog.protocol import subjects, wire
from woodfrog.protocol.durations import parse_bytes
from woodfrog.protocol.requests import QueryRequest, Refusal, Rows
from woodfrog.service.nats import LastingClient, connect

_SECONDS: Final = 10.0
_PROVEN: Final = "verify-full"
_EARLY_DAYS: Final = 30


def examine(reach: Reach, *, as_json: bool) -> int:
    """Write what was found to standard output; return the exit code."""
    return report(asyncio.run(_findings(reach, os.environ)), as_json=as_json)


async def _findings(reach: Reach, environment: Mapping[str, str]) -> list[Finding]:
    return [*[each async for each in _nats(reach, environment)], database(reach.database)]


async def _nats(reach: Reach, environment: Mapping[str, str]) -> AsyncIterator[Finding]:
    try:
        async with asyncio.timeout(_SECONDS):
            client = await connect(reach.nats_url, name="woodfrog doctor", seed_file=reach.seed_file, trust=reach.trust)
    except (nats.errors.Error, OSError, TimeoutError) as problem:
        yield Finding("nats", "failed", f"no connection: {problem!r}", "Look at NATS, and at who may connect to it.")
        return
    try:
        yield _connection(client)
        yield await _streams(client, environment)
        yield await _clocks(client)
    finally:
        await client.close()


def _connection(client: LastingClient) -> Finding:
    expires = client.certificate_expires
    if expires is None:
        advice = "Use TLS: nats.tls.enabled of the chart, or a tls:// URL and WOODFROG_NATS_CA_FILE."
        return Finding("nats", "warning", "connected, in the clear: others may read and change what is said", advice)
    days = int((expires - time.time()) // 86400)
    said = f"connected, encrypted; the server's certificate expires in {days} days"
    if days < _EARLY_DAYS:
        advice = "Upgrade the Helm release, which renews it, or renew it where it comes from and restart NATS."
        return Finding("nats", "warning", said, advice)
    return Finding("nats", "ok", said)


async def _streams(client: Client, environment: Mapping[str, str]) -> Finding:
    total = parse_bytes(environment.get("WOODFROG_STREAMS_BYTES") or f"{STANDARD_BYTES}B")
    try:
        use = await look(client.jetstream(timeout=_SECONDS), total)
    except (nats.errors.Error, TimeoutError) as problem:
        return Finding("streams", "failed", f"{problem!r}", "Ask as the control plane: others may not see the streams.")
    without = [stream for stream, (_, limit) in use.streams.items() if not limit]
    said = f"{use.bytes >> 20} of {use.limit_bytes >> 20} MiB"
    if use.scarce is not None:
        return Finding(
            "streams", "failed", use.scarce, "Give NATS more storage: nats.maxFile and nats.size of the chart."
        )
    if without:
        advice = "A leading control plane gives every stream a limit; see that one leads."
        return Finding("streams", "warning", f"{said}; without a limit: {', '.join(without)}", advice)
    return Finding("streams", "ok", said)


async def _clocks(client: Client) -> Finding:
    try:
        reply = await client.request(subjects.QUERY, wire.encode(QueryRequest(view="nodes")), timeout=_SECONDS)
        answer: Rows | Refusal = wire.decode(reply.data, Rows | Refusal)
    except (nats.errors.Error, TimeoutError, wire.MalformedMessageError) as problem:
        return Finding("clocks", "failed", f"{problem!r}", "See that a control plane runs.")
    return clocks(answer.rows if isinstance(answer, Rows) else [])


def clocks(nodes: list[dict[str, Any]]) -> Finding:
    """Say which nodes' clocks are off, of rows of the view ``nodes``."""
    measured = ((str(row["node"]), row.get("clock_offset_seconds")) for row in nodes if row["status"] == "ready")
    off = [
        f"{node} by {seconds:+.0f} s" for node, seconds in measured if seconds is not None and is_news(None, seconds)
    ]
    if off:
        advice = "Keep the nodes' clocks by NTP: the log's times of what happens there are wrong, and buckets refuse their requests."
        return Finding("clocks", "warning", f"off: {', '.join(off)}", advice)
    return Finding("clocks", "ok", "no node's clock is off")


def database(url: str | None) -> Finding:
    """Say whether somebody on the way to the database could read the log, or answer in its place."""
    if url is None:
        return Finding("database", "warning", "it is not known here", "Run this where WOODFROG_DATABASE_URL is set.")
    parsed = make_url(url)
    if not parsed.drivername.startswith("postgresql"):
        return Finding("database", "ok", parsed.get_backend_name())
    if not parsed.host or parsed.host.startswith("/") or parsed.host in {"localhost", "127.0.0.1", "::1"}:
        return Finding("database", "ok", "PostgreSQL on this machine")
    mode = parsed.query.get("ssl") or parsed.query.get("sslmode") or "prefer"
    if mode != _PROVEN:
        return Finding(
            "database",
            "warning",
            f"PostgreSQL at {parsed.host} with ssl={mode}: it need not prove who it is, and the connection may be in the clear",
            "Add ?ssl=verify-full to WOODFROG_DATABASE_URL, and name the CA in PGSSLROOTCERT.",
        )
    return Finding("database", "ok", f"PostgreSQL at {parsed.host}, verified")
