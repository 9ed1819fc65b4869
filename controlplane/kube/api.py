"""The Kubernetes API, as plain requests for JSON that is decoded into exactly the fields that are used.

Generated models reject an object of a release that is newer or older than they are if a field is missing that one of them requires;
the fields that Woodfrog uses have been the same since Kubernetes 1.20. They would also build every field of every object of a list,
and a watch wants the lines as they come.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Final, TypeVar

import aiohttp

from controlplane.kube import connection
from controlplane.kube.connection import Connection
from controlplane.kube.models import Status
from woodfrog.protocol import wire

REQUEST_SECONDS: Final = 5.0
"""The longest that a request may take that is waited for by somebody who cannot wait."""
_ANSWER_SECONDS: Final = 30.0
"""The longest that a page of a list may take."""
_LONGEST_LINE_BYTES: Final = 16 << 20
_MERGE_PATCH: Final = "application/merge-patch+json"

T = TypeVar("T")


class ApiError(Exception):
    """The API refused a request, or could not be asked: ``status`` is 0 where there was no answer."""

    def __init__(self, status: int, message: str, *, reason: str = "", retry_after_seconds: float = 0.0) -> None:
        self.status = status
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds
        super().__init__(f"{status} {reason}: {message}" if status else message)

    @property
    def is_gone(self) -> bool:
        """Whether the version asked for is not kept any more."""
        return self.status == HTTPStatus.GONE or self.reason == "Expired"


class KubernetesApi:
    """A connection to the API; :func:`kubernetes` opens it."""

    def __init__(self, session: aiohttp.ClientSession, how: Connection) -> None:
        self._session = session
        self._how = how

    async def ask(
        self,
        method: str,
        path: str,
        answer: type[T],
        body: Any = None,
        longest_seconds: float = _ANSWER_SECONDS,
        /,
        **query: str,
    ) -> T:
        """Make a request; the answer is decoded as ``answer``. The body of a PATCH is a merge patch (RFC 7386).

        Raises:
            ApiError: whatever went wrong.
        """
        bounds = aiohttp.ClientTimeout(total=longest_seconds, connect=REQUEST_SECONDS)
        async with self._open(method, path, query, bounds, body) as response:
            try:
                data = await response.read()
            except (aiohttp.ClientError, TimeoutError, OSError) as problem:
                raise ApiError(0, f"the answer broke off: {problem!r}") from problem
        try:
            decoded: T = wire.decode(data, answer)
        except wire.MalformedMessageError as problem:
            raise ApiError(0, f"{path} answers something else than {answer.__name__}: {problem}") from problem
        return decoded

    async def lines(
        self, path: str, *, idle_seconds: float, total_seconds: float, **query: str
    ) -> AsyncIterator[bytes]:
        """Give the lines of a watch until the server ends it.

        Raises:
            ApiError: it was refused, broke off, or nothing came for ``idle_seconds``.
        """
        bounds = aiohttp.ClientTimeout(total=total_seconds, sock_connect=REQUEST_SECONDS, sock_read=idle_seconds)
        async with self._open("GET", path, query, bounds) as response:
            rest = b""
            try:
                async for part in response.content.iter_any():
                    *whole, rest = (rest + part).split(b"\n")
                    for line in whole:
                        yield line
                    if len(rest) > _LONGEST_LINE_BYTES:
                        raise ApiError(0, f"a line of {path} is longer than {_LONGEST_LINE_BYTES} bytes")
            except (aiohttp.ClientError, TimeoutError, OSError) as problem:
                raise ApiError(0, f"the watch broke off: {problem!r}") from problem
            if rest.strip():
                yield rest

    @asynccontextmanager
    async def _open(
        self, method: str, path: str, query: Mapping[str, str], bounds: aiohttp.ClientTimeout, body: Any = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        headers = {"Accept": "application/json"}
        data = None
        if body is not None:
            data = wire.encode(body)
            headers["Content-Type"] = _MERGE_PATCH if method == "PATCH" else "application/json"
        how = self._how
        try:
            if (credential := await how.credential.header()) is not None:
                headers["Authorization"] = credential
            response = await self._session.request(
                method,
                how.server + path,
                params=query,
                data=data,
                headers=headers,
                timeout=bounds,
                ssl=how.tls or True,
                server_hostname=how.server_name,
                proxy=how.proxy,
            )
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as problem:
            raise ApiError(0, f"the API server cannot be asked: {problem!r}") from problem
        async with response:
            if response.status == HTTPStatus.UNAUTHORIZED:
                how.credential.refused()
            if response.status >= HTTPStatus.BAD_REQUEST:
                raise await _refusal(response)
            yield response


@asynccontextmanager
async def kubernetes() -> AsyncIterator[KubernetesApi]:
    """Connect as this pod's ServiceAccount, or as ``KUBECONFIG`` says where that is set.

    Raises:
        FailureError: ``kubernetes-config``.
    """
    how = await connection.find()
    async with aiohttp.ClientSession(trust_env=True, headers={"User-Agent": "woodfrog"}) as session:
        yield KubernetesApi(session, how)


async def _refusal(response: aiohttp.ClientResponse) -> ApiError:
    try:
        said: Status = wire.decode(await response.read(), Status)
    except (wire.MalformedMessageError, aiohttp.ClientError, TimeoutError, OSError):
        said = Status()
    try:
        retry_after_seconds = float(response.headers.get("Retry-After", "0"))
    except ValueError:  # a date
        retry_after_seconds = 0.0
    return ApiError(
        response.status,
        said.message or response.reason or "",
        reason=said.reason or "",
        retry_after_seconds=retry_after_seconds,
    )
