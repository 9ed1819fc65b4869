"""An API server that says what a test wants, over HTTP: lists, watches that break in every way, leases, Events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import aiohttp
from aiohttp import web

from controlplane.kube.api import KubernetesApi
from controlplane.kube.connection import Connection

Object = dict[str, Any]


class Request(NamedTuple):
    """What was asked."""

    method: str
    params: dict[str, str]
    data: Object


def status(code: int, reason: str, **headers: str) -> web.Response:
    """An error, as the API server words it."""
    said = {"kind": "Status", "code": code, "reason": reason, "message": f"because of {reason}"}
    return web.json_response(said, status=code, headers=headers)


def line(kind: str, about: Object) -> bytes:
    """A line of a watch."""
    return json.dumps({"type": kind, "object": about}).encode() + b"\n"


def bookmark(version: str) -> bytes:
    """A line that only tells how far the watch has come."""
    return line("BOOKMARK", {"metadata": {"resourceVersion": version}})


def listing(version: str, *items: Object, more: str = "") -> Object:
    """A list, or a page of one."""
    return {"metadata": {"resourceVersion": version, "continue": more}, "items": list(items)}


class Leases:
    """The API server's memory of Leases, with its rule that a write must name the version that it replaces."""

    def __init__(self) -> None:
        self.held: Object | None = None
        self.version = 0
        self.away = False

    def answer(self, request: Request) -> Any:
        """Answer any request about the one lease."""
        if self.away:
            return status(503, "ServiceUnavailable")
        if request.method == "GET":
            return self.held if self.held is not None else status(404, "NotFound")
        given: Object = dict(request.data)
        if request.method == "POST" and self.held is not None:
            return status(409, "AlreadyExists")
        if request.method == "PUT":
            if self.held is None:
                return status(404, "NotFound")
            if given["metadata"]["resourceVersion"] != self.held["metadata"]["resourceVersion"]:
                return status(409, "Conflict")
        self.version += 1
        given["metadata"] = {**given["metadata"], "resourceVersion": str(self.version)}
        self.held = given
        return given


@asynccontextmanager
async def serving(answer: Callable[[Request], Any]) -> AsyncIterator[KubernetesApi]:
    """Serve every path, and connect: an answer is an object, a status, or what is streamed, pauses in seconds included."""

    async def handle(raw: web.Request) -> web.StreamResponse:
        data = await raw.json() if raw.can_read_body else {}
        said = answer(Request(raw.method, dict(raw.query), data))
        if isinstance(said, web.Response):
            return said
        if isinstance(said, dict):
            return web.json_response(said)
        response = web.StreamResponse()
        await response.prepare(raw)
        for part in said:
            if isinstance(part, bytes):
                await response.write(part)
            else:
                await asyncio.sleep(part)
        return response

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with aiohttp.ClientSession() as session:
            yield KubernetesApi(session, Connection(f"http://127.0.0.1:{runner.addresses[0][1]}"))
    finally:
        await runner.cleanup()
