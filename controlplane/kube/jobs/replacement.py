"""Which pods to create in place of those that were ended from outside, and what they look like.

The Job controller waits 10 s after a failure before it makes the next pod, then 20, 40 and so on up to ten minutes, and it takes
every deletion for a failure. A pod that is made of the Job's own template, owned by the Job and carrying its finalizer is adopted
by it, and it makes none of its own (measured on 1.36.2; ``getPodsForJob``, ``manageJob``). The rules are its own:

- never more pods active than it would have, and no second pod of an index;
- with ``podReplacementPolicy: Failed`` or a podFailurePolicy only once the pod before is terminal;
- none for a Job that is suspended, has ended or is about to, nor for an index that has succeeded or failed.

And these are ours: only in place of a pod whose protected containers ran, so that whatever deletes pods before they run is met at
the Job controller's pace; and none where something else admits pods (Kueue, scheduling gates, groups of pods).

A pod in place of another has a name that follows from the other's uid. Whoever asks twice finds it there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from copy import deepcopy
from datetime import timedelta
from typing import Any, Final

from controlplane.kube.jobs.failure_policy import FAIL_INDEX, FAIL_JOB, IGNORE, action_for
from controlplane.kube.jobs.ledger import Account, End, Seen, wanted
from controlplane.kube.jobs.models import INDEX, INDEX_FAILURES, INDEX_IGNORED, REPLACES, TRACKING, Job, JobPod

_ALPHABET: Final = "bcdfghjklmnpqrstvwxz2456789"
"""What the API server makes the ends of names of (k8s.io/apimachinery, util/rand)."""
_END_LENGTH: Final = 5
_LONGEST_BASE: Final = 63 - _END_LENGTH
_INDEX_VARIABLE: Final = "JOB_COMPLETION_INDEX"


def may_be_replaced(job: Job, seen: Seen, end: End) -> bool:
    """Whether a pod is to be created in place of this one, now or once it is terminal."""
    pod = seen.job
    if end is End.UNCOUNTED:  # by a policy; what was taken away by the Job controller itself is not replaced
        by_policy = pod.phase == "Failed" and action_for(job.spec.pod_failure_policy, pod) == IGNORE
        if not by_policy or seen.view.terminating is None:
            return False
    elif end not in {End.CAPTURED, End.UNDECIDED}:
        return False
    if pod.phase == "Failed" and action_for(job.spec.pod_failure_policy, pod) == FAIL_JOB:
        return False
    if _deleted_at_the_deadline(job, seen):
        return False
    return seen.view.has_run and not pod.grouped and not job.admitted_elsewhere and not index_is_spent(job, pod)


def to_replace(job: Job, pods: Mapping[str, Seen], state: Account, refused: Collection[str]) -> list[Seen]:
    """Return the pods in whose place one is to be created now, at most as many as are missing.

    ``pods`` are all protected ones of the Job, those that are gone included; ``refused`` names those that were tried in vain.
    """
    if job.ending or job.managed_elsewhere or job.spec.suspend or state.exhausted:
        return []
    there = {uid: each for uid, each in pods.items() if not each.gone}
    active = [each for each in there.values() if each.job.active]
    missing = wanted(job, pods) - len(active)
    if job.replaces_only_terminal:
        missing -= sum(each.job.deleted and not each.job.terminal for each in there.values())
    taken = {each.job.index for each in active} if job.indexed else set()
    taken |= _indexes(job.status.completed_indexes) | _indexes(job.status.failed_indexes)
    replaced = {each.job.replaces for each in there.values()}
    found: list[Seen] = []
    for uid, seen in pods.items():
        if len(found) >= missing:
            break
        end = state.ends.get(uid, End.OWN)
        waits = job.replaces_only_terminal and not seen.job.terminal and not seen.gone
        if uid in replaced or uid in refused or waits or not may_be_replaced(job, seen, end):
            continue
        if job.indexed:
            index = seen.job.index
            if index is None or index in taken or index >= (job.spec.completions or 0):
                continue
            taken.add(index)
        found.append(seen)
    return found


def replacement(job: dict[str, Any], seen: Seen) -> dict[str, Any]:
    """Build the pod that takes the place of ``seen``, as the Job controller would (manageJob), from the Job as the API gave it."""
    meta, template = job["metadata"], deepcopy(job["spec"]["template"])
    given: dict[str, Any] = template.get("metadata") or {}
    labels, annotations = dict(given.get("labels") or {}), dict(given.get("annotations") or {})
    spec: dict[str, Any] = template["spec"]
    base = f"{meta['name']}-"[:_LONGEST_BASE]
    pod = seen.job
    if pod.index is not None:
        infix = f"-{pod.index}-"
        base = f"{meta['name'][: _LONGEST_BASE - len(infix)]}{infix}"
        labels[INDEX] = annotations[INDEX] = str(pod.index)
        spec["hostname"] = f"{meta['name']}-{pod.index}"
        for container in (*spec.get("initContainers", ()), *spec["containers"]):
            _add_index(container)
        if job["spec"].get("backoffLimitPerIndex") is not None:
            # The predecessor's own counts: its end adds nothing, neither to the index's failures nor to its pause.
            annotations[INDEX_FAILURES] = str(pod.index_failures)
            if pod.index_ignored:
                annotations[INDEX_IGNORED] = str(pod.index_ignored)
    annotations[REPLACES] = seen.view.uid
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{base}{_end_of_name(seen.view.uid)}",
            "namespace": meta["namespace"],
            "labels": labels,
            "annotations": annotations,
            "finalizers": [*(each for each in given.get("finalizers") or () if each != TRACKING), TRACKING],
            "ownerReferences": [
                {
                    "apiVersion": "batch/v1",
                    "kind": "Job",
                    "name": meta["name"],
                    "uid": meta["uid"],
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
        "spec": spec,
    }


def _add_index(container: dict[str, Any]) -> None:
    env = container.setdefault("env", [])
    if all(each.get("name") != _INDEX_VARIABLE for each in env):
        field = {"fieldRef": {"fieldPath": f"metadata.annotations['{INDEX}']"}}
        env.append({"name": _INDEX_VARIABLE, "valueFrom": field})


def _deleted_at_the_deadline(job: Job, seen: Seen) -> bool:
    """Whether the Job controller deleted the pod because the Job's time is up, which it says in the Job's status only afterwards."""
    end = seen.view.terminating
    if end is None or end.deadline is None or job.deadline is None:
        return False
    return end.deadline - timedelta(seconds=end.grace_seconds) >= job.deadline


def index_is_spent(job: Job, pod: JobPod) -> bool:
    """Whether the Job controller fails the index for this pod's end (isIndexFailed).

    The pod was the index's last try. ``backoffLimitPerIndex`` cannot be changed on a running Job and a count below 0 is read as 0, so
    nothing can be kept ahead of it here.
    """
    limit = job.spec.backoff_limit_per_index
    if limit is None or pod.index is None:
        return False
    action = action_for(job.spec.pod_failure_policy, pod)
    return action == FAIL_INDEX or (action != IGNORE and pod.index_failures >= limit)


def _indexes(text: str | None) -> set[int | None]:
    """Read indexes as a Job's status lists them: ``0,2-5``."""
    found: set[int | None] = set()
    for part in (text or "").split(","):
        first, _, last = part.partition("-")
        if first.isdecimal():
            found.update(range(int(first), int(last if last.isdecimal() else first) + 1))
    return found


def _end_of_name(uid: str) -> str:
    number = int.from_bytes(hashlib.blake2b(uid.encode(), digest_size=8).digest())
    letters = []
    for _ in range(_END_LENGTH):
        number, letter = divmod(number, len(_ALPHABET))
        letters.append(_ALPHABET[letter])
    return "".join(letters)
