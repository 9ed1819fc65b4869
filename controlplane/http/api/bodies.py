"""The bodies of requests that change something: from whom they are taken, how large they are, and how long they are waited for."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Final

from aiohttp import web

from controlplane.http.api.viewers import RefusedRequestError
from woodfrog.protocol.failures import Failure

LARGEST_BODY_BYTES: Final = 4096
JSON: Final = "application/json"
_READ_SECONDS: Final = 10.0


def check_origin(request: web.Request) -> None:
    """Refuse what a browser sends on behalf of another site (W3C, Fetch Metadata), and what a page's form could send.

    Raises:
        RefusedRequestError: ``api-cross-site``, ``api-parameter``.
    """
    if request.headers.get("Sec-Fetch-Site", "none") not in {"none", "same-origin"}:
        failure = Failure(
            "api-cross-site",
            "a page of another site sends the request",
            "Send it from the page itself, or without a browser.",
        )
        raise RefusedRequestError(HTTPStatus.FORBIDDEN, failure)
    if request.content_type != JSON:
        failure = Failure("api-parameter", f"the body is not {JSON}", f"Send the header Content-Type: {JSON}.")
        raise RefusedRequestError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, failure, field="body")


async def read_body(request: web.Request) -> bytes:
    """Read a small body, in bounded time.

    Raises:
        RefusedRequestError: it is too large, or does not come.
    """
    data = b""
    try:
        async with asyncio.timeout(_READ_SECONDS):
            async for piece in request.content.iter_any():
                data += piece
                if len(data) > LARGEST_BODY_BYTES:
                    failure = Failure(
                        "api-parameter", f"the body has more than {LARGEST_BODY_BYTES} bytes", "Send a shorter reason."
                    )
                    raise RefusedRequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, failure, field="body")
    except TimeoutError as problem:
        failure = Failure("api-busy", "the body did not come in time", "Ask again.")
        raise RefusedRequestError(HTTPStatus.SERVICE_UNAVAILABLE, failure) from problem
    return data
