"""Jobs and pods as the API server keeps them, with its rules: versions, names, finalizers, graceful deletion, watches.

Only what the Job controller and whoever works beside it can tell apart from the real one. Time is the loop's, so that a test that
runs in virtual time waits for nothing.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import Callable
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import Any

from controlplane.kube.api import ApiError, KubernetesApi
from woodfrog.protocol import wire

Object = dict[str, Any]
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
TRACKING = "batch.kubernetes.io/job-tracking"
INDEX = "batch.kubernetes.io/job-completion-index"
_JOB = re.compile(r"/apis/batch/v1/namespaces/([^/]+)/jobs/([^/]+)")
_PODS = re.compile(r"/api/v1/namespaces/([^/]+)/pods")
_POD = re.compile(r"/api/v1/namespaces/([^/]+)/pods/([^/]+)")
_EVENTS = re.compile(r"/apis/events.k8s.io/v1/namespaces/([^/]+)/events")


class PlayedCluster(KubernetesApi):
    """The API server, its users and its kubelets."""

    def __init__(self) -> None:
        self.jobs: dict[str, Object] = {}
        self.pods: dict[str, Object] = {}
        self.events: list[Object] = []
        self.chance = random.Random(1)
        self.watching: list[Callable[[str, Object, bool], None]] = []
        """Called with the kind and the state of an object that has changed, and whether it is gone."""
        self.admission: Callable[[Object], ApiError | None] = lambda _pod: None
        self.away = False
        self.requests: list[tuple[str, str]] = []
        self._version = 0
        self._made = 0

    # What anybody asks of the API server.

    async def ask(
        self, method: str, path: str, answer: Any, body: Any = None, longest_seconds: float = 0, /, **query: str
    ) -> Any:
        """Answer as the API server would, through JSON."""
        await asyncio.sleep(0.01)
        self.requests.append((method, path))
        if self.away:
            raise ApiError(0, "the API server cannot be asked")
        return wire.decode(json.dumps(self.answer(method, path, deepcopy(body), query)), answer)

    def answer(self, method: str, path: str, body: Any, query: dict[str, str]) -> Object:
        """Do what is asked.

        Raises:
            ApiError: it is refused.
        """
        if found := _JOB.fullmatch(path):
            job = self.job(found[2])
            if method == "PATCH":
                self._patch(job, body)
            return job
        if path == "/apis/batch/v1/jobs":
            return {"metadata": {"resourceVersion": str(self._version)}, "items": list(self.jobs.values())}
        if method == "GET" and (found := _POD.fullmatch(path)):
            return self._pod(found[1], found[2])
        if found := _EVENTS.fullmatch(path):
            return self._create_event(body)
        found = _PODS.fullmatch(path)
        assert found is not None, path
        if method == "POST":
            return self.create_pod(body, of_another=True)
        wanted = dict(part.split("=") for part in query["labelSelector"].split(","))
        items = [pod for pod in self.pods.values() if wanted.items() <= (pod["metadata"].get("labels") or {}).items()]
        return {"metadata": {}, "items": items}

    def _pod(self, namespace: str, name: str) -> Object:
        for pod in self.pods.values():
            if (pod["metadata"]["namespace"], pod["metadata"]["name"]) == (namespace, name):
                return pod
        raise ApiError(404, "there is no such pod", reason="NotFound")

    def _patch(self, job: Object, patch: Object) -> None:
        given = patch.get("metadata", {}).pop("resourceVersion", None)
        if given is not None and given != job["metadata"]["resourceVersion"]:
            raise ApiError(409, "the object has been modified", reason="Conflict")
        _merge(job, patch)
        self.changed("Job", job)

    def _create_event(self, event: Object) -> Object:
        if any(event["metadata"]["name"] == each["metadata"]["name"] for each in self.events):
            raise ApiError(409, "it is there", reason="AlreadyExists")
        self.events.append(event)
        return event

    # Objects.

    def job(self, name: str) -> Object:
        for job in self.jobs.values():
            if job["metadata"]["name"] == name:
                return job
        raise ApiError(404, "there is no such Job", reason="NotFound")

    def create_job(self, manifest: Object) -> Object:
        """Create a Job, with what the API server fills in (batch/v1 defaults, the Job strategy's selector)."""
        job = deepcopy(manifest)
        uid = self._uid("job")
        meta, spec = job["metadata"], job["spec"]
        meta |= {"uid": uid, "namespace": meta.get("namespace", "default")}
        for name, value in (("parallelism", 1), ("suspend", False), ("completionMode", "NonIndexed")):
            spec.setdefault(name, value)
        if spec.get("backoffLimitPerIndex") is not None:
            spec.setdefault("backoffLimit", 2**31 - 1)
        spec.setdefault("backoffLimit", 6)
        only_failed = spec.get("podFailurePolicy") is not None
        spec.setdefault("podReplacementPolicy", "Failed" if only_failed else "TerminatingOrFailed")
        labels = {"batch.kubernetes.io/controller-uid": uid, "batch.kubernetes.io/job-name": meta["name"]}
        spec["selector"] = {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}
        template = spec["template"].setdefault("metadata", {})
        template["labels"] = {**(template.get("labels") or {}), **labels}
        job["status"] = {"failed": 0, "succeeded": 0, "active": 0, "conditions": [], "uncountedTerminatedPods": {}}
        self.jobs[uid] = job
        self.changed("Job", job)
        return job

    def create_pod(self, manifest: Object, *, of_another: bool = False) -> Object:
        """Create a pod. Admission is asked only about those that others than the Job controller create."""
        pod = deepcopy(manifest)
        if of_another and (refusal := self.admission(pod)) is not None:
            raise refusal
        meta = pod["metadata"]
        if "name" not in meta:
            letters = "bcdfghjklmnpqrstvwxz2456789"
            meta["name"] = meta["generateName"][:58] + "".join(self.chance.choice(letters) for _ in range(5))
        if any((each["metadata"]["name"], each["metadata"]["namespace"]) == (meta["name"], meta["namespace"])
               for each in self.pods.values()):  # fmt: skip
            raise ApiError(409, f"pods {meta['name']!r} already exists", reason="AlreadyExists")
        meta |= {"uid": self._uid("pod"), "creationTimestamp": self.stamp()}
        pod["status"] = {"phase": "Pending", "conditions": [], "containerStatuses": []}
        self.pods[meta["uid"]] = pod
        self.changed("Pod", pod)
        return pod

    def changed(self, kind: str, thing: Object, *, gone: bool = False) -> None:
        """Give the object its new version and tell whoever watches."""
        self._version += 1
        thing["metadata"]["resourceVersion"] = str(self._version)
        for each in self.watching:
            each(kind, deepcopy(thing), gone)

    def stamp(self) -> str:
        """The time, as objects carry it."""
        seconds = asyncio.get_running_loop().time()
        return (NOON + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")

    def _uid(self, kind: str) -> str:
        self._made += 1
        return f"{kind}-{self._made:04d}"

    # What users, the scheduler and kubelets do to pods.

    def run(self, pod: Object) -> None:
        """Schedule the pod and start its containers."""
        pod["spec"]["nodeName"] = pod["spec"].get("nodeName", "a")
        names = [each["name"] for each in pod["spec"]["containers"]]
        pod["status"] |= {
            "phase": "Running",
            "containerStatuses": [
                {"name": name, "containerID": f"containerd://{pod['metadata']['uid']}-{name}", "state": {"running": {}}}
                for name in names
            ],
        }
        self.changed("Pod", pod)

    def exit(self, pod: Object, code: int = 1, reason: str = "Error") -> None:
        """End the pod's containers, by themselves or because the pod was deleted."""
        for each in pod["status"]["containerStatuses"]:
            ended = {"exitCode": code, "reason": reason if code else "Completed", "finishedAt": self.stamp()}
            each["state"] = {"terminated": {**ended, "containerID": each["containerID"]}}
        pod["status"]["phase"] = "Failed" if code or not pod["status"]["containerStatuses"] else "Succeeded"
        self.changed("Pod", pod)

    def restart(self, pod: Object) -> None:
        """Restart a container in place, as the kubelet does with ``restartPolicy: OnFailure``."""
        for each in pod["status"]["containerStatuses"]:
            each["restartCount"] = each.get("restartCount", 0) + 1
        self.changed("Pod", pod)

    def delete(self, pod: Object, disruption: str = "", grace_seconds: int = 30) -> None:
        """Delete the pod; with the reason of a DisruptionTarget condition for an eviction or a preemption."""
        if disruption:
            pod["status"]["conditions"].append({"type": "DisruptionTarget", "status": "True", "reason": disruption})
        if "deletionTimestamp" not in pod["metadata"]:
            pod["metadata"] |= {"deletionTimestamp": self.stamp(), "deletionGracePeriodSeconds": grace_seconds}
            self.changed("Pod", pod)
        if not grace_seconds:
            self.leave(pod)

    def leave(self, pod: Object) -> None:
        """Have the kubelet, or whoever deletes by force, say that nothing of the pod is left."""
        pod["metadata"]["deletionGracePeriodSeconds"] = 0
        self.changed("Pod", pod)
        self.collect(pod)

    def collect(self, pod: Object) -> None:
        """Remove the object once nobody holds it."""
        meta = pod["metadata"]
        held = meta.get("deletionGracePeriodSeconds") != 0 or meta.get("finalizers")
        if not held and self.pods.pop(meta["uid"], None) is not None:
            self.changed("Pod", pod, gone=True)

    # What tests ask.

    def pods_of(self, job: Object, *, active: bool = True) -> list[Object]:
        """The Job's pods, oldest first."""
        return [
            pod for pod in self.pods.values()
            if any(each["uid"] == job["metadata"]["uid"] for each in pod["metadata"].get("ownerReferences", ()))
            and (not active or is_active(pod))
        ]  # fmt: skip

    def told(self, job: Object) -> list[str]:
        """Reasons of the Events on a Job."""
        return [each["reason"] for each in self.events if each["regarding"]["uid"] == job["metadata"]["uid"]]


def is_active(pod: Object) -> bool:
    """Whether the Job controller counts it as active."""
    return pod["status"]["phase"] not in {"Succeeded", "Failed"} and "deletionTimestamp" not in pod["metadata"]


def condition(job: Object, kind: str) -> str | None:
    """The reason of a condition that holds; ``None`` if it does not."""
    found = [each for each in job["status"]["conditions"] if (each["type"], each["status"]) == (kind, "True")]
    return found[0].get("reason", "") if found else None


def _merge(onto: Object, patch: Object) -> None:
    for name, value in patch.items():
        if value is None:
            onto.pop(name, None)
        elif isinstance(value, dict):
            _merge(onto.setdefault(name, {}), value)
        else:
            onto[name] = value
