"""Jobs and their pods as the API gives them, and a log that says what became of their work."""

from __future__ import annotations

import json
from typing import Any

from controlplane.domain.captures import Capture
from controlplane.kube.jobs.ledger import Account, Ids, Ledger, Seen, account
from controlplane.kube.jobs.models import INDEX, LEDGER, TRACKING, Job
from support.pods import pod, seen
from woodfrog.protocol import wire

Object = dict[str, Any]
OWNER = {"apiVersion": "batch/v1", "kind": "Job", "name": "train", "uid": "j1", "controller": True}
DELETED = {"deletionTimestamp": "2026-11-23T12:00:30Z", "deletionGracePeriodSeconds": 30}


def job_object(spec: Object | None = None, status: Object | None = None, **meta: Any) -> Object:
    """A Job as the API gives it."""
    env = [{"name": "CEDANA_CHECKPOINT", "value": "trainer"}]
    template = {"spec": {"runtimeClassName": "cedana", "containers": [{"name": "main", "env": env}]}}
    return {
        "metadata": {"name": "train", "namespace": "default", "uid": "j1", "resourceVersion": "1", **meta},
        "spec": {"backoffLimit": 1, "completions": 1, "parallelism": 1, "template": template, **(spec or {})},
        "status": status or {},
    }


def job(spec: Object | None = None, status: Object | None = None, **meta: Any) -> Job:
    """A Job as it is read."""
    found: Job = wire.decode(json.dumps(job_object(spec, status, **meta)), Job)
    return found


def noted(ledger: Ledger) -> Object:
    """Annotations with a ledger."""
    return {LEDGER: wire.encode(ledger).decode()}


def job_pod(
    uid: str = "u1", stage: str = "running", *, tracked: bool = True, gone: bool = False, **changes: Any
) -> Seen:
    """A pod of the Job at a stage of its life."""
    state: Object = {"running": {}}
    meta: Object = {"ownerReferences": [OWNER], "finalizers": [TRACKING] if tracked else [], **changes.pop("meta", {})}
    status: Object = {"phase": "Running", **changes.pop("status", {})}
    if stage in {"deleted", "stopped"}:
        meta |= DELETED
    if stage in {"failed", "evicted", "stopped", "succeeded"}:
        code = 0 if stage == "succeeded" else changes.pop("code", 1)
        state = {"terminated": {"exitCode": code, "containerID": "containerd://c1"}}
        status["phase"] = "Succeeded" if stage == "succeeded" else "Failed"
    if stage == "evicted":
        status["reason"] = "Evicted"
    status["containerStatuses"] = [{"name": "main", "containerID": "containerd://c1", "state": state}]
    if stage == "pending":
        status = {"phase": "Pending"}
    found = seen(pod(uid, name=f"train-{uid}", meta=meta, status=status, **changes))
    assert found.job is not None
    return Seen(found, found.job, gone=gone)


def by_uid(*pods: Seen) -> dict[str, Seen]:
    """Pods by their uid."""
    return {each.view.uid: each for each in pods}


class Log:
    """Says of every pod that is not named that its work is kept."""

    def __init__(self, **captures: Capture) -> None:
        self.captures = captures

    def __call__(self, uid: str, name: str, ids: Ids, *, has_run: bool) -> Capture:
        return self.captures.get(uid, Capture.KEPT)


KEPT = Log()


def accounted(about: Job, *pods: Seen, log: Log = KEPT) -> Account:
    """The account of a Job that has one."""
    found = account(about, by_uid(*pods), log)
    assert found is not None
    return found


def indexed(index: int, uid: str, stage: str, **annotations: str) -> Seen:
    """A pod of an index."""
    return job_pod(uid, stage, meta={"annotations": {INDEX: str(index), **annotations}})
