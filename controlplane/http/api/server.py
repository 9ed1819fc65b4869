"""The API and the page over HTTP: who asks is found out, what is asked is bounded, and every answer can be kept by its ETag.

aiohttp serves it (docs/decisions/0066). What it does not bound is bounded here: how many
connections there are, how long one may be idle, and how many requests are answered at the same time.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from controlplane.http.api import openapi, params
from controlplane.http.api.actions import ACTIONS, Action, Actions
from controlplane.http.api.bodies import LARGEST_BODY_BYTES, check_origin, read_body
from controlplane.http.api.queries import ROUTES, TAIL, TAIL_PARAMS, Questions, Route
from controlplane.http.api.responses import Problem
from controlplane.http.api.settings import ApiSettings
from controlplane.http.api.tail import Tails
from controlplane.http.api.viewers import LONGEST_TOKEN, Authenticator, RefusedRequestError, Viewer
from controlplane.log.records import LogUnavailableError
from woodfrog.protocol.failures import Failure

_log = structlog.get_logger(component="api")

_MOST_CONNECTIONS: Final = 256
_MOST_AT_ONCE: Final = 32
_IDLE_SECONDS: Final = 20.0
_LOOK_SECONDS: Final = 2.0
_SEND_SECONDS: Final = 10.0
_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    ),
}
_JSON: Final = "application/json"


class Asset(msgspec.Struct, frozen=True):
    """A file of the page. Anybody may read it: it holds nothing of the log."""

    body: bytes
    content_type: str


class ApiServer:
    """Serves while :meth:`run` runs."""

    def __init__(
        self,
        settings: ApiSettings,
        questions: Questions,
        tails: Tails,
        authenticators: Sequence[Authenticator],
        assets: dict[str, Asset],
        actions: Actions | None = None,
    ) -> None:
        """Without ``actions`` nothing can be changed."""
        self._settings = settings
        self._questions = questions
        self._tails = tails
        self._authenticators = authenticators
        self._assets = assets
        self._actions = actions
        self._answered = 0
        self._heard: dict[Any, float] = {}
        """When each connection was last busy; not there while a request of it is answered."""
        self._port: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def port(self) -> int:
        """Tell on which port it listens, once it does."""
        return await self._port

    async def run(self) -> None:
        """Listen until cancelled.

        Raises:
            OSError: the address is taken, or the certificate cannot be read.
        """
        application = web.Application(middlewares=[self._guard], client_max_size=LARGEST_BODY_BYTES)
        for path, asset in self._assets.items():
            application.router.add_get(path, _always(asset))
        application.router.add_get(
            "/api/v1/openapi.json", _always(Asset(openapi.document(acts=self._actions is not None), _JSON))
        )
        for route in ROUTES:
            application.router.add_get(route.path, self._route(route))
        application.router.add_get(TAIL, self._tail, allow_head=False)
        if self._actions is not None:
            for action in ACTIONS:
                application.router.add_post(action.path, self._act(action, self._actions))
        runner = web.AppRunner(
            application,
            access_log=None,
            handler_cancellation=True,
            keepalive_timeout=_IDLE_SECONDS,
            max_field_size=LONGEST_TOKEN,
            shutdown_timeout=1.0,
        )
        await runner.setup()
        certificate = None if self._settings.certificate_file is None else _Certificate(self._settings)
        loop, address = asyncio.get_running_loop(), self._settings.address
        try:
            server = await loop.create_server(
                lambda: self._connection(runner),
                address.host or None,
                address.port,
                ssl=None if certificate is None else certificate.context,
                ssl_handshake_timeout=None if certificate is None else _SEND_SECONDS,
            )
            async with server:
                self._port.set_result(server.sockets[0].getsockname()[1])
                await _log.ainfo(
                    "the API is served", host=address.host, port=self._port.result(), tls=certificate is not None
                )
                while True:
                    await asyncio.sleep(_LOOK_SECONDS)
                    self._end_idle()
                    if certificate is not None:
                        certificate.refresh()
        finally:
            await runner.cleanup()

    def _connection(self, runner: web.AppRunner) -> asyncio.BaseProtocol:
        server = runner.server
        assert server is not None
        if len(server.connections) >= _MOST_CONNECTIONS:
            self._end_idle(0)
        if len(server.connections) >= _MOST_CONNECTIONS:
            return _Refused()
        connection: asyncio.BaseProtocol = server()
        self._heard[connection] = asyncio.get_running_loop().time()
        return connection

    def _end_idle(self, seconds: float = _IDLE_SECONDS) -> None:
        """End connections of which nothing was heard for a while; a request that is being answered keeps its own."""
        now = asyncio.get_running_loop().time()
        for connection, heard in list(self._heard.items()):
            if now - heard >= seconds:
                del self._heard[connection]
                if connection.transport is not None:
                    connection.transport.abort()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        connection = request.protocol
        self._heard.pop(connection, None)
        self._answered += 1
        try:
            response = await self._guarded(request, handler)
        finally:
            self._answered -= 1
            self._heard[connection] = asyncio.get_running_loop().time()
        return response

    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            self._check(request)
            response = await handler(request)
        except RefusedRequestError as problem:
            response = _refused(problem)
        except web.HTTPMethodNotAllowed as problem:
            response = _refused(_not_answered(request))
            response.headers["Allow"] = ", ".join(sorted(problem.allowed_methods))
        except web.HTTPException as problem:
            if problem.status < HTTPStatus.BAD_REQUEST:
                raise
            response = _refused(_unknown_path(request))
        except Exception:  # noqa: BLE001 - a question that cannot be answered must not end the process
            await _log.aexception("a question cannot be answered", path=request.path)
            failure = Failure(
                "api-failed",
                "the question cannot be answered",
                "It is a defect; the control plane's log has the details.",
            )
            response = _refused(RefusedRequestError(HTTPStatus.INTERNAL_SERVER_ERROR, failure))
        if not response.prepared:
            response.headers.update(_HEADERS)
        return response

    def _check(self, request: web.Request) -> None:
        if request.method not in ({"GET", "HEAD"} if self._actions is None else {"GET", "HEAD", "POST"}):
            raise _not_answered(request)
        if self._answered > _MOST_AT_ONCE and request.path != TAIL:
            cause = f"more than {_MOST_AT_ONCE} requests are being answered"
            raise RefusedRequestError(
                HTTPStatus.SERVICE_UNAVAILABLE, Failure("api-busy", cause, "Ask again in a moment.")
            )

    async def _viewer(self, request: web.Request) -> Viewer:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        token = token.strip()
        if scheme.lower() == "bearer" and token.isascii() and 0 < len(token) <= LONGEST_TOKEN:
            for authenticator in self._authenticators:
                if (viewer := await authenticator.viewer(token)) is not None:
                    return viewer
        cause = "the token is unknown or has expired" if token else "the request has no token"
        failure = Failure("api-unauthenticated", cause, "Send the header Authorization: Bearer <token>.")
        raise RefusedRequestError(HTTPStatus.UNAUTHORIZED, failure)

    def _route(self, route: Route) -> Handler:
        async def answer(request: web.Request) -> web.StreamResponse:
            viewer = await self._viewer(request)
            values = _values(request, route.params)
            said = msgspec.json.encode(await route.answer(self._questions, viewer, values))
            return _kept(request, said, _JSON)

        return answer

    def _act(self, action: Action, actions: Actions) -> Handler:
        async def answer(request: web.Request) -> web.StreamResponse:
            check_origin(request)
            viewer = await self._viewer(request)
            values = _values(request, action.params)
            done = await actions.act(action, viewer, values, await read_body(request))
            return web.Response(
                body=msgspec.json.encode(done), headers={"Content-Type": _JSON, "Cache-Control": "no-store"}
            )

        return answer

    async def _tail(self, request: web.Request) -> web.StreamResponse:
        viewer = await self._viewer(request)
        values = _values(request, TAIL_PARAMS)
        last = request.headers.get(params.LAST_EVENT_ID.name)
        after = params.LAST_EVENT_ID.read(last) if last is not None else values.get("after")
        assert after is None or isinstance(after, int)
        scope, streams = await self._questions.log_scope(viewer, values)
        self._tails.enter(viewer.name)
        self._answered -= 1  # it is open for minutes, and asks little
        try:
            response = web.StreamResponse(headers=_HEADERS | {"Cache-Control": "no-store"})
            response.content_type = "text/event-stream"
            await response.prepare(request)

            async def send(data: bytes) -> None:
                async with asyncio.timeout(_SEND_SECONDS):
                    await response.write(data)

            # The client went away, does not read, or comes back when the log can be read again.
            with suppress(TimeoutError, ConnectionError, RefusedRequestError, LogUnavailableError):
                await self._tails.follow(scope, streams, values.get("type"), after, send)
            return response
        finally:
            self._answered += 1
            self._tails.leave(viewer.name)


class _Refused(asyncio.Protocol):
    """A connection for which there is no place."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Close it at once."""
        assert isinstance(transport, asyncio.Transport)
        transport.abort()


class _Certificate:
    """A certificate and its key, read again when the file changes: whoever renews it need not restart anything."""

    def __init__(self, settings: ApiSettings) -> None:
        assert settings.certificate_file is not None
        assert settings.key_file is not None
        self._files: tuple[Path, Path] = (settings.certificate_file, settings.key_file)
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._seen = self._changed()
        self.context.load_cert_chain(*self._files)

    def _changed(self) -> tuple[int, ...]:
        return tuple(file.stat().st_mtime_ns for file in self._files)

    def refresh(self) -> None:
        """Take a new one, if there is one that can be used."""
        try:
            if (seen := self._changed()) == self._seen:
                return
            self._seen = seen
            self.context.load_cert_chain(*self._files)
        except OSError as problem:  # an SSLError is one
            _log.error("the new certificate of the API cannot be used", problem=str(problem))


def _not_answered(request: web.Request) -> RefusedRequestError:
    advice = (
        "The header Allow names the methods. Nothing can be changed over the API unless WOODFROG_API_ACTIONS is on."
    )
    failure = Failure("api-read-only", f"{request.method} is not answered here", advice)
    return RefusedRequestError(HTTPStatus.METHOD_NOT_ALLOWED, failure)


def _values(request: web.Request, wanted: tuple[params.Param, ...]) -> dict[str, Any]:
    """Read path and query; a parameter of the path cannot be missing."""
    return params.read(wanted, [*request.match_info.items(), *request.rel_url.query.items()])


def _always(asset: Asset) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answer(request: web.Request) -> web.StreamResponse:
        return _kept(request, asset.body, asset.content_type)

    return answer


def _kept(request: web.Request, body: bytes, content_type: str) -> web.Response:
    """Answer, or say that the client has it already."""
    etag = hashlib.blake2b(body, digest_size=16).hexdigest()
    held = request.if_none_match or ()
    if any(each.value in {etag, "*"} for each in held):
        response = web.Response(status=HTTPStatus.NOT_MODIFIED)
    else:
        response = web.Response(body=body, headers={"Content-Type": content_type})
        if len(body) > 1024:
            response.enable_compression()
    response.etag = etag
    response.headers["Cache-Control"] = "no-cache"
    response.headers["Vary"] = "Authorization, Accept-Encoding"
    return response


def _refused(problem: RefusedRequestError) -> web.Response:
    failure = problem.failure
    body = msgspec.json.encode(Problem(failure.code, failure.cause, failure.advice, problem.field))
    response = web.Response(
        status=problem.status, body=body, headers={"Content-Type": _JSON, "Cache-Control": "no-store"}
    )
    if problem.status == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = "Bearer"
    if problem.status == HTTPStatus.SERVICE_UNAVAILABLE:
        response.headers["Retry-After"] = "1"
    if problem.status == HTTPStatus.METHOD_NOT_ALLOWED:
        response.headers["Allow"] = "GET, HEAD"
    return response


def _unknown_path(request: web.Request) -> RefusedRequestError:
    failure = Failure(
        "api-not-found", f"there is nothing at {request.path[:200]}", "/api/v1/openapi.json lists every path."
    )
    return RefusedRequestError(HTTPStatus.NOT_FOUND, failure)
