"""What is read of Jobs and of their pods: the fields of batch/v1 on which the Job controller's decisions depend.

Sources: the API reference of batch/v1 and ``pkg/controller/job`` of Kubernetes 1.36. A field that an older release lacks is ``None``.
Of a Job's template only what says whether Woodfrog has anything to do with it is kept; the whole is fetched when a pod is made.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Final

import msgspec

from controlplane.kube.env_expansion import VARIABLE
from controlplane.kube.models import Condition, Meta, Pod, PodSpec

TRACKING: Final = "batch.kubernetes.io/job-tracking"
"""Finalizer: the Job controller has not yet taken the pod's end into the Job's status."""
INDEX: Final = "batch.kubernetes.io/job-completion-index"
INDEX_FAILURES: Final = "batch.kubernetes.io/job-index-failure-count"
INDEX_IGNORED: Final = "batch.kubernetes.io/job-index-ignored-failure-count"
LEDGER: Final = "woodfrog.io/job-retries"
"""Annotation of a Job: the user's backoffLimit and what was added to it (:class:`~controlplane.kube.jobs.ledger.Ledger`)."""
REPLACES: Final = "woodfrog.io/replaces"
"""Annotation of a pod: the uid of the pod that it was created in place of."""
JOB_CONTROLLER: Final = "kubernetes.io/job-controller"
_TERMINAL: Final = frozenset({"Succeeded", "Failed"})
_ENDING: Final = frozenset({"Complete", "Failed", "FailureTarget", "SuccessCriteriaMet"})


class _Shape(msgspec.Struct, frozen=True, gc=False, rename="camel", omit_defaults=True):
    pass


class OnExitCodes(_Shape, frozen=True):
    """batch/v1 PodFailurePolicyOnExitCodesRequirement."""

    operator: str = ""
    values: list[int] = []
    container_name: str | None = None


class OnPodCondition(_Shape, frozen=True):
    """batch/v1 PodFailurePolicyOnPodConditionsPattern."""

    type: str = ""
    status: str = "True"


class Rule(_Shape, frozen=True):
    """batch/v1 PodFailurePolicyRule."""

    action: str = ""
    on_exit_codes: OnExitCodes | None = None
    on_pod_conditions: list[OnPodCondition] | None = None


class PodFailurePolicy(_Shape, frozen=True):
    """batch/v1 PodFailurePolicy."""

    rules: list[Rule] = []


class Template(_Shape, frozen=True):
    """core/v1 PodTemplateSpec."""

    metadata: Meta = Meta()
    spec: PodSpec = PodSpec()


class Selector(_Shape, frozen=True):
    """metav1.LabelSelector."""

    match_labels: dict[str, str] | None = None


class JobSpec(_Shape, frozen=True):
    """batch/v1 JobSpec."""

    template: Template = Template()
    selector: Selector | None = None
    parallelism: int | None = None
    completions: int | None = None
    completion_mode: str | None = None
    backoff_limit: int | None = None
    backoff_limit_per_index: int | None = None
    pod_failure_policy: PodFailurePolicy | None = None
    pod_replacement_policy: str | None = None
    managed_by: str | None = None
    active_deadline_seconds: int | None = None
    suspend: bool | None = None


class Uncounted(_Shape, frozen=True):
    """batch/v1 UncountedTerminatedPods: ends that the Job controller has seen and not yet added to its counters."""

    succeeded: list[str] | None = None
    failed: list[str] | None = None


class JobStatus(_Shape, frozen=True):
    """batch/v1 JobStatus."""

    start_time: datetime | None = None
    failed: int | None = None
    succeeded: int | None = None
    completed_indexes: str | None = None
    failed_indexes: str | None = None
    uncounted_terminated_pods: Uncounted | None = None
    conditions: list[Condition] | None = None


class Job(_Shape, frozen=True):
    """batch/v1 Job."""

    metadata: Meta
    spec: JobSpec = JobSpec()
    status: JobStatus = JobStatus()

    @property
    def uid(self) -> str:
        """The Job's uid."""
        return self.metadata.uid

    @property
    def backoff_limit(self) -> int:
        """The number that is set now; the API server fills in 6 where a manifest says nothing."""
        return 6 if self.spec.backoff_limit is None else self.spec.backoff_limit

    @property
    def uncounted(self) -> Uncounted:
        """Ends seen and not yet in the counters."""
        return self.status.uncounted_terminated_pods or Uncounted()

    @property
    def failed(self) -> int:
        """How many failures the Job controller holds against ``backoffLimit``."""
        return (self.status.failed or 0) + len(self.uncounted.failed or ())

    @property
    def ending(self) -> bool:
        """Whether the Job has ended, or it is decided that it will."""
        ending = any(each.type in _ENDING and each.status == "True" for each in self.status.conditions or ())
        return ending or self.metadata.deletion_timestamp is not None

    @property
    def managed_elsewhere(self) -> bool:
        """Whether another controller than Kubernetes' own looks after the Job (KEP-4368)."""
        return self.spec.managed_by not in {None, JOB_CONTROLLER}

    @property
    def deadline(self) -> datetime | None:
        """When the Job controller ends the Job, whatever it has done by then. Times in objects are cut to seconds."""
        seconds, began = self.spec.active_deadline_seconds, self.status.start_time
        return None if seconds is None or began is None else began + timedelta(seconds=seconds)

    @property
    def indexed(self) -> bool:
        """Whether each pod stands for one index."""
        return self.spec.completion_mode == "Indexed"

    @property
    def replaces_only_terminal(self) -> bool:
        """Whether a pod is counted and replaced when it is terminal, rather than at its deletion.

        So it is with ``podReplacementPolicy: Failed``, and with any podFailurePolicy (job_controller.go, onlyReplaceFailedPods).
        """
        return self.spec.pod_replacement_policy == "Failed" or self.spec.pod_failure_policy is not None

    @property
    def admitted_elsewhere(self) -> bool:
        """Whether something else than the Job controller decides when the Job's pods may run.

        That is Kueue, or whoever sets scheduling gates or groups pods for the scheduler: a pod that it does not expect would
        bypass its admission.
        """
        pod, template = self.spec.template.spec, self.spec.template.metadata
        labels = {**(template.labels or {}), **(self.metadata.labels or {})}
        return any(name.startswith("kueue.x-k8s.io/") for name in labels) or bool(
            pod.scheduling_gates or pod.scheduling_group or pod.workload_ref
        )


class JobPod(msgspec.Struct, frozen=True, gc=False):
    """What the Job controller's decisions about one of its pods depend on, beyond what is kept of every pod."""

    phase: str
    deleted: bool
    """Whether it has a deletionTimestamp."""
    tracked: bool
    """Whether the Job controller still has its finalizer on it."""
    index: int | None
    index_failures: int
    index_ignored: int
    replaces: str
    conditions: tuple[tuple[str, str], ...]
    exit_codes: tuple[tuple[str, int], ...]
    """Of the containers that have ended, those of ``containers`` before those of ``initContainers``."""
    restarts: int
    grouped: bool
    """Whether it belongs to a group for the scheduler, or waits behind a gate."""

    @property
    def terminal(self) -> bool:
        """Whether all of its containers have ended for good."""
        return self.phase in _TERMINAL

    @property
    def active(self) -> bool:
        """Whether the Job controller counts it as active (controller_utils.go, IsPodActive)."""
        return not self.terminal and not self.deleted


def protected(job: Job, runtime_classes: Collection[str]) -> bool:
    """Whether the Job's pods have protected containers."""
    spec = job.spec.template.spec
    if spec.runtime_class_name not in runtime_classes:
        return False
    containers = (*(spec.containers or ()), *(spec.init_containers or ()))
    return any(each.name == VARIABLE for container in containers for each in container.env or ())


def job_pod(pod: Pod) -> JobPod | None:
    """Return what matters of a Job's pod; ``None`` for any other pod.

    Volcano's own Jobs are of kind ``Job``, too; they are of another API group.
    """
    meta, status = pod.metadata, pod.status
    owner = next((each for each in meta.owner_references or () if each.controller), None)
    if owner is None or owner.kind != "Job" or not owner.api_version.startswith("batch/"):
        return None
    annotations = meta.annotations or {}
    statuses = (*(status.container_statuses or ()), *(status.init_container_statuses or ()))
    ended = ((each.name, each.state.terminated) for each in statuses if each.state is not None)
    index = annotations.get(INDEX, "")
    return JobPod(
        phase=status.phase or "",
        deleted=meta.deletion_timestamp is not None,
        tracked=TRACKING in (meta.finalizers or ()),
        index=int(index) if index.isdecimal() else None,
        index_failures=_count(annotations.get(INDEX_FAILURES, "")),
        index_ignored=_count(annotations.get(INDEX_IGNORED, "")),
        replaces=annotations.get(REPLACES, ""),
        conditions=tuple((each.type, each.status) for each in status.conditions or ()),
        exit_codes=tuple((name, end.exit_code) for name, end in ended if end is not None),
        restarts=sum(each.restart_count or 0 for each in statuses),
        grouped=bool(pod.spec.scheduling_gates or pod.spec.scheduling_group or pod.spec.workload_ref),
    )


def _count(text: str) -> int:
    """Read a counter as the Job controller does: anything but a number counts as 0."""
    return int(text) if text.isdecimal() else 0
