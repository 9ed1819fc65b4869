"""The lease in a Kubernetes Lease object, where Kubernetes is: whoever cannot reach its API does not lead a cluster.

The resourceVersion makes each write conditional on what was read. The times in the object are for people and for tools that
show them; nobody here compares them with a clock. Which leadership may append is still decided by the log's epoch in SQL
(docs/decisions/0008-who-leads.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final

from controlplane.election.candidate import DURATION_SECONDS
from controlplane.election.lease import Lease, LeaseUnavailableError
from controlplane.kube.api import ApiError, KubernetesApi
from controlplane.kube.models import LeaseObject, LeaseSpec
from controlplane.log.records import utc_now

NAME: Final = "woodfrog-controlplane"
_SECONDS: Final = 3.0
"""The longest that the API may take: a renewal that hangs must not cost the lead."""


class KubernetesLease:
    """A :class:`~controlplane.election.lease.LeaseStore` in one namespace of one cluster."""

    def __init__(self, api: KubernetesApi, namespace: str, *, clock: Callable[[], datetime] = utc_now) -> None:
        self._api = api
        self._namespace = namespace
        self._folder = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._clock = clock
        self._last = LeaseSpec()

    async def read(self) -> Lease:
        """See :meth:`controlplane.election.lease.LeaseStore.read`. A lease that was never written is held by nobody."""
        try:
            found = await self._ask("GET", f"{self._folder}/{NAME}")
        except ApiError as problem:
            if problem.status == HTTPStatus.NOT_FOUND:
                self._last = LeaseSpec()
                return Lease(holder="", duration_seconds=DURATION_SECONDS, version="")
            raise LeaseUnavailableError(str(problem)) from problem
        return self._read(found)

    async def replace(self, before: Lease, *, holder: str, duration_seconds: float) -> Lease | None:
        """See :meth:`controlplane.election.lease.LeaseStore.replace`."""
        body = self._object(before, holder, duration_seconds)
        try:
            if before.version:
                found = await self._ask("PUT", f"{self._folder}/{NAME}", body)
            else:
                found = await self._ask("POST", self._folder, body)
        except ApiError as problem:
            if problem.status in {HTTPStatus.CONFLICT, HTTPStatus.NOT_FOUND} and not _no_namespace(problem, before):
                return None
            raise LeaseUnavailableError(str(problem)) from problem
        return self._read(found)

    async def _ask(self, method: str, path: str, body: Any = None) -> LeaseObject:
        try:
            async with asyncio.timeout(_SECONDS):
                return await self._api.ask(method, path, LeaseObject, body)
        except TimeoutError as problem:
            raise ApiError(0, f"no answer from the API server within {_SECONDS:g} s") from problem

    def _read(self, found: LeaseObject) -> Lease:
        self._last = found.spec
        return Lease(
            holder=found.spec.holder_identity or "",
            duration_seconds=float(found.spec.lease_duration_seconds or DURATION_SECONDS),
            version=found.metadata.resource_version,
        )

    def _object(self, before: Lease, holder: str, duration_seconds: float) -> dict[str, Any]:
        now = self._clock().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        same = bool(holder) and before.holder == holder
        transitions = (self._last.lease_transitions or 0) + (0 if same or not holder else 1)
        metadata = {"name": NAME, "namespace": self._namespace}
        if before.version:
            metadata["resourceVersion"] = before.version
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": {
                "holderIdentity": holder,
                "leaseDurationSeconds": max(1, round(duration_seconds)),
                "leaseTransitions": transitions,
                "acquireTime": (self._last.acquire_time if same else None) or now,
                "renewTime": now,
            },
        }


def _no_namespace(problem: ApiError, before: Lease) -> bool:
    """A lease that cannot be made because its namespace is not there: nobody else has written meanwhile."""
    return problem.status == HTTPStatus.NOT_FOUND and not before.version
