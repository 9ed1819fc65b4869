"""The Kubernetes API, as plain requests for JSON that is decoded into exactly the fields that are used.

The generated models of kubernetes-asyncio reject an object of a release that is newer or older than they are if a field is
missing that one of them requires; the fields that Woodfrog uses have been the same since Kubernetes 1.20.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import aiohttp
import msgspec
from kubernetes_asyncio.client import ApiClient, Configuration
from kubernetes_asyncio.client.exceptions import ApiException
from kubernetes_asyncio.config import ConfigException, load_incluster_config, load_kube_config

from protocol.failures import Failure, FailureError

REQUEST_SECONDS: Final = 5.0
"""The longest that one request may take."""
_JSON: Final = {"Accept": "application/json", "Content-Type": "application/json"}
_NOT_FOUND: Final = 404
_ANY_SUCCESS: Final = {200: "object", 201: "object", 202: "object"}

T = TypeVar("T")


class KubernetesUnavailableError(Exception):
    """The API did not do what it was asked for; the message says what it answered."""


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
