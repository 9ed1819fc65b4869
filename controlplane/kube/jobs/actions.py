"""The requests about Jobs: patch one, list its pods, create a pod, create Events on the Job and the pod."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from datetime import datetime
from http import HTTPStatus
from typing import Any

import msgspec
import structlog

from controlplane.kube.api import ApiError, KubernetesApi
from controlplane.kube.event_recorder import event_about
from controlplane.kube.jobs.ledger import Ledger
from controlplane.kube.jobs.models import LEDGER, Job
from controlplane.kube.models import Page, Pod
from controlplane.kube.pod_diff import PodView, view
from woodfrog.protocol import wire

_log = structlog.get_logger(component="jobs")


class JobActions:
    """What is asked of the API server about Jobs."""

    def __init__(
        self,
        api: KubernetesApi,
        *,
        runtime_classes: Collection[str],
        instance: str,
        clock: Callable[[], datetime],
    ) -> None:
        self._api = api
        self._runtime_classes = runtime_classes
        self._instance = instance
        self._clock = clock

    async def fetch(self, job: Job) -> tuple[dict[str, Any], Job] | None:
        """Fetch a Job as it is now, raw and read; ``None`` if it is not there any more.

        Raises:
            ApiError: it cannot be had.
        """
        try:
            raw: dict[str, Any] = await self._api.ask("GET", _path_of(job), dict)
        except ApiError as problem:
            if problem.status == HTTPStatus.NOT_FOUND:
                return None
            raise
        try:
            found = msgspec.convert(raw, Job)
        except msgspec.ValidationError as problem:
            raise ApiError(0, f"{_path_of(job)} is not a Job: {problem}") from problem
        return (raw, found) if found.uid == job.uid else None

    async def protected_pods(self, job: Job) -> dict[str, PodView]:
        """List the Job's pods with protected containers, by uid.

        Raises:
            ApiError: they cannot be had.
        """
        labels = (job.spec.selector.match_labels if job.spec.selector is not None else None) or {}
        page: Page = await self._api.ask(
            "GET",
            f"/api/v1/namespaces/{job.metadata.namespace}/pods",
            Page,
            labelSelector=",".join(f"{name}={value}" for name, value in sorted(labels.items())),
        )
        try:
            pods = [wire.decode(bytes(item), Pod) for item in page.items or ()]
        except wire.MalformedMessageError as problem:
            raise ApiError(0, f"a pod of {_path_of(job)} cannot be read: {problem}") from problem
        views = (view(pod, runtime_classes=self._runtime_classes, cordoned=()) for pod in pods)
        return {
            each.uid: each
            for each in views
            if each is not None and each.owner is not None and each.owner.uid == job.uid
        }

    async def patch(self, job: Job, limit: int, ledger: Ledger | None) -> Job:
        """Set ``backoffLimit`` and the ledger together, if the Job is still as it was seen.

        Raises:
            ApiError: with status 409 if it is not.
        """
        annotation = None if ledger is None else wire.encode(ledger).decode()
        patch = {
            "metadata": {
                "resourceVersion": job.metadata.resource_version,
                "annotations": {LEDGER: annotation},
            },
            "spec": {"backoffLimit": limit},
        }
        patched: Job = await self._api.ask("PATCH", _path_of(job), Job, patch)
        return patched

    async def create_pod(self, namespace: str, pod: dict[str, Any]) -> None:
        """Create a pod. One that exists already is not an error.

        Raises:
            ApiError: it was refused, or nobody answered.
        """
        try:
            await self._api.ask("POST", f"/api/v1/namespaces/{namespace}/pods", msgspec.Raw, pod)
        except ApiError as problem:
            if problem.reason != "AlreadyExists":
                raise

    async def create_event(
        self, job: Job, reason: str, note: str, *, pod: PodView | None = None, once: str, warning: bool = False
    ) -> None:
        """Create an Event on the Job, and one on the pod if it is about one; ``once`` names what happened.

        An Event that cannot be created is given up: what was done stands in the Job's annotation.
        """
        meta = job.metadata
        about = [
            {"apiVersion": "batch/v1", "kind": "Job", "namespace": meta.namespace, "name": meta.name, "uid": job.uid}
        ]
        if pod is not None:
            about.append(
                {"apiVersion": "v1", "kind": "Pod", "namespace": pod.namespace, "name": pod.name, "uid": pod.uid}
            )
        await _log.ainfo("job", job=f"{meta.namespace}/{meta.name}", reason=reason, note=note)
        for regarding in about:
            event = event_about(
                regarding,
                hashlib.blake2b(f"{regarding['uid']}/{reason}/{once}".encode(), digest_size=8).hexdigest(),
                reason=reason,
                action="PreserveJob",
                note=note,
                warning=warning,
                now=self._clock(),
                instance=self._instance,
            )
            try:
                path = f"/apis/events.k8s.io/v1/namespaces/{meta.namespace}/events"
                await self._api.ask("POST", path, msgspec.Raw, event)
            except ApiError as problem:
                if problem.status != HTTPStatus.CONFLICT:
                    await _log.awarning("an Event is given up", job=meta.name, reason=reason, error=str(problem))


def _path_of(job: Job) -> str:
    return f"/apis/batch/v1/namespaces/{job.metadata.namespace}/jobs/{job.metadata.name}"
