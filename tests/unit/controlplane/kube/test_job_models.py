"""What is read of Jobs and their pods, and what a podFailurePolicy says about an end."""

from __future__ import annotations

import pytest
from support.jobs import OWNER, Object, job, job_pod
from support.pods import pod, seen

from controlplane.kube.jobs.failure_policy import action_for
from controlplane.kube.jobs.models import protected
from controlplane.kube.pod_diff import PodView

pytestmark = pytest.mark.timeout(10)

EXITED = {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}}
OTHERS = {"action": "Count", "onExitCodes": {"operator": "NotIn", "values": [1, 42], "containerName": "main"}}
DISRUPTED = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}


@pytest.mark.parametrize(
    ("code", "disrupted", "action"),
    [(42, True, "FailJob"), (7, True, "Count"), (1, True, "Ignore"), (1, False, "Count"), (0, False, "Count")],
)
def test_the_first_rule_of_a_policy_that_matches_decides(code: int, disrupted: bool, action: str) -> None:
    about = job({"podFailurePolicy": {"rules": [EXITED, OTHERS, DISRUPTED]}})
    conditions = [{"type": "DisruptionTarget", "status": str(disrupted)}]
    ended = job_pod("u1", "failed", code=code, status={"conditions": conditions})
    assert action_for(about.spec.pod_failure_policy, ended.job) == action


def test_a_rule_about_another_container_does_not_match() -> None:
    rule = {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [1], "containerName": "sidecar"}}
    about = job({"podFailurePolicy": {"rules": [rule]}})
    assert action_for(about.spec.pod_failure_policy, job_pod("u1", "failed").job) == "Count"
    assert action_for(None, job_pod("u1", "failed").job) == "Count"


@pytest.mark.parametrize(
    "owner",
    [
        {**OWNER, "apiVersion": "batch.volcano.sh/v1alpha1"},
        {**OWNER, "kind": "ReplicaSet", "apiVersion": "apps/v1"},
        {**OWNER, "controller": False},
    ],
    ids=["Volcano's Job", "ReplicaSet", "an owner that is not the controller"],
)
def test_only_pods_of_kubernetes_own_jobs_are_a_jobs_pods(owner: Object) -> None:
    found: PodView = seen(pod("u1", meta={"ownerReferences": [owner]}))
    assert found.job is None


def test_a_job_is_protected_as_its_pods_would_be() -> None:
    assert protected(job(), ("cedana",))
    assert not protected(job(), ("other",))
    plain = {"spec": {"runtimeClassName": "cedana", "containers": [{"name": "main"}]}}
    assert not protected(job({"template": plain}), ("cedana",))
    sidecar = [{"name": "side", "restartPolicy": "Always", "env": [{"name": "CEDANA_CHECKPOINT", "value": "x"}]}]
    with_sidecar = {"spec": {**plain["spec"], "initContainers": sidecar}}
    assert protected(job({"template": with_sidecar}), ("cedana",))
