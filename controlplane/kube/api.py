"""The Kubernetes API, as plain requests for JSON that is decoded into exactly the fields that are used.

The generated models of kubernetes-asyncio reject an object of a release that is newer or older than they are if a field is
missing that one of them requires; the fields that Woodfrog uses have been the same since Kubernetes 1.20. They would also
build every field of every object of a list, and a watch wants the lines as they come.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Final, TypeVar

import aiohttp
import msgspec
from kubernetes_asyncio.client import ApiClient, Configuration
from kubernetes_asyncio.client.exceptions import ApiException
from kubernetes_asyncio.config import ConfigException, load_incluster_config, load_kube_config

from controlplane.kube.models import Status
from woodfrog.protocol import wire
from woodfrog.protocol.failures import Failure, FailureError

REQUEST_SECONDS: Final = 5.0
"""The longest that one request may take."""
_ANSWER_SECONDS: Final = 30.0
"""The longest that a page of a list may take."""
_LONGEST_LINE_BYTES: Final = 16 << 20
_JSON: Final = {"Accept": "application/json", "Content-Type": "application/json"}
_MERGE_PATCH: Final = {"Accept": "application/json", "Content-Type": "application/merge-patch+json"}
_NOT_FOUND: Final = 404
_ANY_SUCCESS: Final = {200: "object", 201: "object", 202: "object"}

T = TypeVar("T")


class KubernetesUnavailableError(Exception):
    """The API did not do what it was asked for; the message says what it answered."""


class ApiError(KubernetesUnavailableError):
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


class NotThereError(Exception):
    """The API knows no such object."""


class KubernetesApi:
    """A connection to the API; :func:`kubernetes` opens it."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client

    async def request(self, method: str, path: str, answer: type[T], body: object = None) -> T:
        """Send one request and decode the answer.

        Raises:
            NotThereError: there is no such object.
            KubernetesUnavailableError: no answer, or none that can be used.
        """
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                said: Any = await self._client.call_api(
                    path,
                    method,
                    header_params=dict(_JSON),
                    body=body,
                    response_types_map=_ANY_SUCCESS,
                    auth_settings=["BearerToken"],
                    _return_http_data_only=True,
                )
            return msgspec.convert(said, answer)
        except ApiException as problem:
            if problem.status == _NOT_FOUND:
                raise NotThereError(path) from problem
            raise KubernetesUnavailableError(f"{method} {path}: {problem.status} {problem.reason}") from problem
        except (TimeoutError, OSError, aiohttp.ClientError) as problem:
            raise KubernetesUnavailableError(f"{method} {path}: {problem!r}") from problem
        except msgspec.ValidationError as problem:
            raise KubernetesUnavailableError(f"{method} {path}: answered with something else: {problem}") from problem

    async def ask(self, method: str, path: str, answer: type[T], body: Any = None, /, **query: str) -> T:
        """Make a request; the answer is decoded as ``answer``. The body of a PATCH is a merge patch (RFC 7386).

        Raises:
            ApiError: whatever went wrong.
        """
        bounds = aiohttp.ClientTimeout(total=_ANSWER_SECONDS, connect=REQUEST_SECONDS)
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
        try:
            response: aiohttp.ClientResponse = await self._client.call_api(
                path,
                method,
                query_params=list(query.items()),
                header_params=dict(_MERGE_PATCH if method == "PATCH" else {"Accept": "application/json"}),
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _request_timeout=bounds,
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as problem:
            raise ApiError(0, f"the API server cannot be asked: {problem!r}") from problem
        async with response:
            if response.status >= HTTPStatus.BAD_REQUEST:
                raise await _refusal(response)
            yield response


@asynccontextmanager
async def kubernetes() -> AsyncIterator[KubernetesApi]:
    """Connect as this pod's ServiceAccount, or as ``KUBECONFIG`` says where that is set.

    Raises:
        FailureError: ``kubernetes-config``.
    """
    configuration = Configuration()
    # Many clusters' own authorities leave out extensions that Python insists on since 3.13 and every other client forgives.
    configuration.disable_strict_ssl_verification = True
    try:
        if file := os.environ.get("KUBECONFIG"):
            await load_kube_config(config_file=file, client_configuration=configuration)
        else:
            load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    except ConfigException as problem:
        raise FailureError(
            Failure(
                "kubernetes-config",
                f"the Kubernetes API cannot be found: {problem}",
                "Run in a pod that mounts its ServiceAccount's token, or set KUBECONFIG.",
            )
        ) from problem
    async with ApiClient(configuration) as client:
        yield KubernetesApi(client)


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
