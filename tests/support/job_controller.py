"""A Job controller that keeps to the rules of Kubernetes 1.36's, played on objects of :mod:`support.fake_cluster`.

Written from the behaviour of ``pkg/controller/job`` (job_controller.go: syncJob, manageJob, trackJobStatusAndRemoveFinalizers;
backoff_utils.go; indexed_job_utils.go; pod_failure_policy.go) and the documentation of batch/v1, and held to what was measured on a real
1.36.2 by tests/integration/controlplane/kube/test_job_controller.py. Left out is what no test can tell: batches, expectations, metrics, successPolicy.
"""

from __future__ import annotations

import asyncio
from copy import deepcopy
from datetime import datetime

from support.fake_cluster import INDEX, NOON, TRACKING, Object, PlayedCluster, condition, is_active

FIRST_PAUSE_SECONDS = 10.0
LONGEST_PAUSE_SECONDS = 600.0
FAILURES = "batch.kubernetes.io/job-index-failure-count"
IGNORED = "batch.kubernetes.io/job-index-ignored-failure-count"


class JobController:
    """The controller. Its memory of failures since the last success is lost when it restarts, as the real one's is."""

    def __init__(self, cluster: PlayedCluster) -> None:
        self._cluster = cluster
        self._failures: dict[str, tuple[int, float]] = {}
        self._syncing: set[str] = set()
        self.created: list[tuple[float, str]] = []
        """When it created which pod."""
        cluster.watching.append(self._noticed)

    def _noticed(self, kind: str, thing: Object, gone: bool) -> None:
        owners = [thing] if kind == "Job" else thing["metadata"].get("ownerReferences", ())
        for each in owners:
            self.soon(each["uid"] if kind == "Pod" else each["metadata"]["uid"], 0.002)

    def soon(self, uid: str, seconds: float) -> None:
        """Look at the Job then, or at once with what else has changed."""
        if seconds < 1.0:  # changes that come together are looked at together
            if uid in self._syncing:
                return
            self._syncing.add(uid)
        asyncio.get_running_loop().call_later(seconds, self._sync, uid)

    def _sync(self, uid: str) -> None:
        self._syncing.discard(uid)
        job = self._cluster.jobs.get(uid)
        if job is None or any(condition(job, each) is not None for each in ("Complete", "Failed")):
            self._failures.pop(uid, None)
            return
        if job["spec"].get("managedBy", "kubernetes.io/job-controller") != "kubernetes.io/job-controller":
            return
        _Sync(self._cluster, self, job, self._failures).run()


class _Sync:
    """One look at one Job."""

    def __init__(
        self, cluster: PlayedCluster, controller: JobController, job: Object, failures: dict[str, tuple[int, float]]
    ) -> None:
        self.cluster, self.controller, self.job, self.failures = cluster, controller, job, failures
        self.spec, self.status, self.uid = job["spec"], job["status"], job["metadata"]["uid"]
        self.before = deepcopy(self.status)
        self.pods = cluster.pods_of(job, active=False)
        self.now = asyncio.get_running_loop().time()
        self.indexed = self.spec["completionMode"] == "Indexed"
        self.per_index: int | None = self.spec.get("backoffLimitPerIndex")
        self.only_terminal = (
            self.spec["podReplacementPolicy"] == "Failed" or self.spec.get("podFailurePolicy") is not None
        )
        self.uncounted: dict[str, list[str]] = self.status["uncountedTerminatedPods"]

    def run(self) -> None:
        if not self.spec["suspend"] and "startTime" not in self.status:
            self.status["startTime"] = self.cluster.stamp()
        active = [pod for pod in self.pods if is_active(pod)]
        terminating = [pod for pod in self.pods if _deleted(pod) and not _terminal(pod)]
        new_failed = [pod for pod in self.pods if self.is_new(pod, "failed") and self.has_failed(pod)]
        new_succeeded = [pod for pod in self.pods if self.is_new(pod, "succeeded") and _phase(pod) == "Succeeded"]
        failed = self.status["failed"] + len(self.uncounted.get("failed", ()))
        failed += sum(self.action(pod) != "Ignore" for pod in new_failed)
        count, since = self.back_off(new_succeeded, new_failed)
        done = {_index(pod) for pod in self.pods if _phase(pod) == "Succeeded"} | _indexes(
            self.status.get("completedIndexes")
        )
        spent = self.failed_indexes() if self.per_index is not None else set()
        succeeded = len(done) if self.indexed else (
            self.status["succeeded"] + len(self.uncounted.get("succeeded", ())) + len(new_succeeded))  # fmt: skip
        reason = self.why_it_fails(failed, spent, done)
        if reason is not None:
            for pod in active:
                self.cluster.delete(pod)
            active = []
        elif "deletionTimestamp" not in self.job["metadata"]:
            wait = 0.0 if self.per_index is not None or not count else max(0.0, since + _pause(count) - self.now)
            active = self.manage(active, terminating, succeeded, done, spent, wait)
        wanted = self.spec.get("completions")
        complete = reason is None and not active and (succeeded >= wanted if wanted is not None else succeeded > 0)
        self.status["active"] = len(active)
        self.track(done, spent, ends=reason is not None or complete)
        self.failures[self.uid] = (count, since)
        self.finish(reason, complete=complete)
        if self.status != self.before:
            self.cluster.changed("Job", self.job)

    def is_new(self, pod: Object, counter: str) -> bool:
        return _tracked(pod) and pod["metadata"]["uid"] not in self.uncounted.get(counter, ())

    def has_failed(self, pod: Object) -> bool:
        if _phase(pod) == "Failed":
            return True
        return not self.only_terminal and _deleted(pod) and _phase(pod) != "Succeeded"

    def action(self, pod: Object) -> str:
        statuses = pod["status"]["containerStatuses"]
        ends = [(each["name"], each["state"]["terminated"]) for each in statuses if "terminated" in each["state"]]
        there = [(each["type"], each["status"]) for each in pod["status"]["conditions"]]
        for rule in (self.spec.get("podFailurePolicy") or {}).get("rules", ()):
            asked = rule.get("onExitCodes")
            if asked is not None:
                codes = [
                    end["exitCode"]
                    for name, end in ends
                    if asked.get("containerName", name) == name and end["exitCode"]
                ]
                if any((code in asked["values"]) == (asked["operator"] == "In") for code in codes):
                    return str(rule["action"])
            elif any((each["type"], each["status"]) in there for each in rule.get("onPodConditions", ())):
                return str(rule["action"])
        return "Count"

    def back_off(self, succeeded: list[Object], failed: list[Object]) -> tuple[int, float]:
        """Failures since the last success, those that a policy ignores included, and when the last was."""
        count, since = self.failures.get(self.uid, (0, 0.0))
        if succeeded:
            last = max(self.finished_at(pod) for pod in succeeded)
            failed = [pod for pod in failed if self.finished_at(pod) > last]
            count, since = 0, 0.0
        if failed:
            return count + len(failed), max(self.finished_at(pod) for pod in failed)
        return count, since

    def finished_at(self, pod: Object) -> float:
        """When the pod's containers ended, or else when it was deleted."""
        ends = [each["state"].get("terminated") for each in pod["status"]["containerStatuses"]]
        if ends and all(ends):
            return max(_seconds(end["finishedAt"]) for end in ends)
        return _seconds(pod["metadata"].get("deletionTimestamp") or pod["metadata"]["creationTimestamp"])

    def why_it_fails(self, failed: int, spent: set[int], done: set[int]) -> str | None:
        if (reason := condition(self.job, "FailureTarget")) is not None:
            return reason
        if any(self.has_failed(pod) and self.action(pod) == "FailJob" for pod in self.pods):
            return "PodFailurePolicy"
        limit = self.spec["backoffLimit"]
        restarts = sum(each.get("restartCount", 0) for pod in self.pods if not _terminal(pod)
                       for each in pod["status"]["containerStatuses"])  # fmt: skip
        on_failure = self.spec["template"]["spec"].get("restartPolicy") == "OnFailure"
        if failed > limit or (on_failure and restarts >= max(1, limit)):
            return "BackoffLimitExceeded"
        if (seconds := self.spec.get("activeDeadlineSeconds")) is not None and not self.spec["suspend"]:
            left = _seconds(self.status["startTime"]) + seconds - self.now
            if left <= 0:
                return "DeadlineExceeded"
            self.controller.soon(self.uid, left)
        if spent and len(spent | done) >= self.spec["completions"]:
            return "FailedIndexes"
        return None

    def failed_indexes(self) -> set[int]:
        assert self.per_index is not None
        spent = _indexes(self.status.get("failedIndexes"))
        for pod in self.pods:
            if _tracked(pod) and self.has_failed(pod):
                action = self.action(pod)
                if action == "FailIndex" or (action != "Ignore" and _annotated(pod, FAILURES) >= self.per_index):
                    spent.add(_index(pod))
        return spent

    def manage(
        self,
        active: list[Object],
        terminating: list[Object],
        succeeded: int,
        done: set[int],
        spent: set[int],
        wait: float,
    ) -> list[Object]:
        """Delete what is too many, or create what is missing once the pause is over; return what is active then."""
        parallelism, completions = self.spec["parallelism"], self.spec.get("completions")
        if self.spec["suspend"]:
            wanted = 0
        elif completions is None:
            wanted = len(active) if succeeded else parallelism
        else:
            wanted = max(0, min(parallelism, completions - succeeded))
        surplus = self.surplus(active, len(active) - wanted)
        if surplus:
            for pod in surplus:
                pod["metadata"]["finalizers"].remove(TRACKING)  # so it is not counted
                self.cluster.changed("Pod", pod)
                self.cluster.delete(pod)
            return [pod for pod in active if pod not in surplus]
        missing = wanted - len(active) - (len(terminating) if self.only_terminal else 0)
        if missing <= 0 or self.spec["suspend"]:
            return active
        if wait > 0:
            self.controller.soon(self.uid, wait + 0.001)
            return active
        if not self.indexed:
            return active + [self.create(None, None) for _ in range(missing)]
        taken = {_index(pod) for pod in active} | done | spent
        taken |= {_index(pod) for pod in terminating} if self.only_terminal else set()
        made = list(active)
        for index in [each for each in range(self.spec["completions"]) if each not in taken][:missing]:
            last = self.delayed(index) if self.per_index is not None else None
            pause = 0.0 if last is None else self.finished_at(last) + _pause(
                _annotated(last, FAILURES) + _annotated(last, IGNORED) + 1) - self.now  # fmt: skip
            if pause > 0:
                self.controller.soon(self.uid, pause + 0.001)
            else:
                made.append(self.create(index, last))
        return made

    def surplus(self, active: list[Object], at_least: int) -> list[Object]:
        """Pods of an index that has another, then those that have come the least far."""
        found: list[Object] = []
        by_progress = sorted(
            active, key=lambda pod: (_phase(pod) == "Running", -_seconds(pod["metadata"]["creationTimestamp"]))
        )
        if self.indexed:
            for pod in by_progress:
                same = [each for each in by_progress if _index(each) == _index(pod) and each not in found]
                if len(same) > 1:
                    found.append(pod)
        rest = [pod for pod in by_progress if pod not in found]
        return found + rest[: max(0, at_least - len(found))]

    def create(self, index: int | None, last: Object | None) -> Object:
        template, meta = deepcopy(self.spec["template"]), self.job["metadata"]
        given = template.get("metadata", {})
        annotations, labels = dict(given.get("annotations", {})), dict(given.get("labels", {}))
        prefix = f"{meta['name']}-"
        if index is not None:
            annotations[INDEX] = labels[INDEX] = str(index)
            template["spec"]["hostname"] = f"{meta['name']}-{index}"
            prefix = f"{meta['name']}-{index}-"
            field = {"fieldRef": {"fieldPath": f"metadata.labels['{INDEX}']"}}
            for container in template["spec"]["containers"]:
                container.setdefault("env", []).append({"name": "JOB_COMPLETION_INDEX", "valueFrom": field})
            if self.per_index is not None:
                counts = self.action(last) != "Ignore" if last is not None else False
                annotations[FAILURES] = str(_annotated(last, FAILURES) + counts)
                annotations[IGNORED] = str(_annotated(last, IGNORED) + (last is not None and not counts))
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": meta["name"], "uid": self.uid, "controller": True}
        pod = self.cluster.create_pod({
            "metadata": {
                "generateName": prefix, "namespace": meta["namespace"], "labels": labels, "annotations": annotations,
                "finalizers": [TRACKING], "ownerReferences": [owner],
            },
            "spec": template["spec"],
        })  # fmt: skip
        self.controller.created.append((self.now, pod["metadata"]["name"]))
        return pod

    def delayed(self, index: int) -> Object | None:
        """The failed pod of an index whose counts its replacement takes over."""
        failed = [pod for pod in self.pods if _tracked(pod) and self.has_failed(pod) and _index(pod) == index]
        return max(failed, key=lambda pod: (_annotated(pod, FAILURES), self.finished_at(pod)), default=None)

    def track(self, done: set[int], spent: set[int], *, ends: bool) -> None:
        """Note ends in the status, then take the finalizers away, then add to the counters."""
        held_back = {_index(pod) for pod in self.cluster.pods_of(self.job)} | done | spent
        released = [pod for pod in self.pods if _tracked(pod) and self.is_over(pod, held_back, ends=ends)]
        for pod in released:
            self.note(pod, ends=ends)
        if self.indexed:
            self.status["completedIndexes"] = ",".join(map(str, sorted(done)))
            self.status["succeeded"] = len(done)
            if self.per_index is not None:
                self.status["failedIndexes"] = ",".join(map(str, sorted(spent)))
        if self.status != self.before:
            self.cluster.changed("Job", self.job)
        for pod in released:
            pod["metadata"]["finalizers"].remove(TRACKING)
            self.cluster.changed("Pod", pod)
            self.cluster.collect(pod)
        for counter in ("succeeded", "failed"):
            self.status[counter] += len(self.uncounted.pop(counter, ()))

    def is_over(self, pod: Object, settled: set[int], *, ends: bool) -> bool:
        """Whether the pod can be let go: with a limit for each index, a failed one only once its index is settled."""
        if ends or _phase(pod) == "Succeeded":
            return True
        return self.has_failed(pod) and (self.per_index is None or _index(pod) in settled)

    def note(self, pod: Object, *, ends: bool) -> None:
        """Note a pod's end among those that are not in the counters yet."""
        if _phase(pod) == "Succeeded":
            if not self.indexed and self.is_new(pod, "succeeded"):
                self.uncounted.setdefault("succeeded", []).append(pod["metadata"]["uid"])
        elif (ends or self.has_failed(pod)) and self.is_new(pod, "failed") and self.action(pod) != "Ignore":
            self.uncounted.setdefault("failed", []).append(pod["metadata"]["uid"])

    def finish(self, reason: str | None, *, complete: bool) -> None:
        kind = "Failed" if reason is not None else "Complete"
        if reason is None and not complete:
            return
        interim = {"Failed": "FailureTarget", "Complete": "SuccessCriteriaMet"}[kind]
        if condition(self.job, interim) is None:
            self.status["conditions"].append({"type": interim, "status": "True", "reason": reason or ""})
        if not any(_deleted(pod) and not _terminal(pod) for pod in self.cluster.pods_of(self.job, active=False)):
            self.status["conditions"].append({"type": kind, "status": "True", "reason": reason or ""})


def _pause(failures: int) -> float:
    return min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(failures - 1, 10))


def _seconds(stamp: str) -> float:

    return (datetime.fromisoformat(stamp) - NOON).total_seconds()


def _phase(pod: Object) -> str:
    return str(pod["status"]["phase"])


def _terminal(pod: Object) -> bool:
    return _phase(pod) in {"Succeeded", "Failed"}


def _deleted(pod: Object) -> bool:
    return "deletionTimestamp" in pod["metadata"]


def _tracked(pod: Object) -> bool:
    return TRACKING in pod["metadata"].get("finalizers", ())


def _annotated(pod: Object | None, name: str) -> int:
    return 0 if pod is None else int(pod["metadata"].get("annotations", {}).get(name, "0"))


def _index(pod: Object) -> int:
    return int(pod["metadata"].get("annotations", {}).get(INDEX, "-1"))


def _indexes(text: str | None) -> set[int]:
    return {int(each) for each in (text or "").split(",") if each}
