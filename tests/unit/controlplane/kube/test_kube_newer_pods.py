"""Pods as Kubernetes 1.29 to 1.36 write them: sidecars, user namespaces, resizes in place, gates, claims, disruptions."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from support.pods import pod, read, seen

from controlplane.kube.env_expansion import checkpoint_ids
from controlplane.kube.pod_diff import happened
from woodfrog.protocol.pods import Ended, EndedBecause, Scheduled, Terminating, Why

pytestmark = pytest.mark.timeout(5)

Object = dict[str, Any]
DELETED = {"deletionTimestamp": "2026-11-23T12:00:30Z", "deletionGracePeriodSeconds": 30}


def env(value: str) -> list[Object]:
    return [{"name": "CEDANA_CHECKPOINT", "value": value}]


def modern(**changes: Any) -> Object:
    """A running pod with everything that 1.20 did not know."""
    spec = {
        "nodeName": "a",
        "hostUsers": False,
        "restartPolicy": "Never",
        "initContainers": [
            {"name": "setup", "env": env("setup")},
            {"name": "proxy", "restartPolicy": "Always", "env": env("proxy"), "startupProbe": {}},
        ],
        "containers": [
            {
                "name": "main",
                "env": env("trainer"),
                "resizePolicy": [{"resourceName": "cpu", "restartPolicy": "NotRequired"}],
                "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}],
                "resources": {"claims": [{"name": "gpu"}]},
            }
        ],
        "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "gpu"}],
        "volumes": [{"name": "model", "image": {"reference": "registry.local/model:1", "pullPolicy": "IfNotPresent"}}],
        "resources": {"limits": {"memory": "1Gi"}},
        **changes.get("spec", {}),
    }
    status = {
        "phase": "Running",
        "observedGeneration": 3,
        "conditions": [{"type": "PodReadyToStartContainers", "status": "True"}, {"type": "Ready", "status": "True"}],
        "resourceClaimStatuses": [{"name": "gpu", "resourceClaimName": "gpu-x"}],
        "initContainerStatuses": [
            {
                "name": "setup",
                "containerID": "containerd://s1",
                "state": {"terminated": {"exitCode": 0, "containerID": "containerd://s1"}},
            },
            {"name": "proxy", "containerID": "containerd://p1", "started": True, "state": {"running": {}}},
        ],
        "containerStatuses": [
            {
                "name": "main",
                "containerID": "containerd://c1",
                "state": {"running": {}},
                "allocatedResources": {"cpu": "1"},
                "user": {"linux": {"uid": 1000, "gid": 1000}},
                "stopSignal": "SIGTERM",
                "volumeMounts": [{"name": "model", "mountPath": "/model", "readOnly": True}],
            }
        ],
        **changes.get("status", {}),
    }
    return pod(spec=spec, status=status, meta=changes.get("meta", {}))


def test_sidecars_and_init_containers_have_their_ids_beside_the_main_one() -> None:
    assert checkpoint_ids(read(modern())) == {"main": "trainer", "setup": "setup", "proxy": "proxy"}
    found = {each.name: each.container_id for each in seen(modern()).containers}
    assert found == {"main": "c1", "setup": "s1", "proxy": "p1"}


def test_a_sidecar_that_restarts_has_ended_once_and_runs_again() -> None:
    before, written = seen(modern()), modern()
    ended = {"terminated": {"exitCode": 2, "reason": "Error", "containerID": "containerd://p1"}}
    proxy = written["status"]["initContainerStatuses"][1]
    proxy |= {"containerID": "containerd://p2", "restartCount": 1, "lastState": ended}
    after = seen(written)
    (what,) = happened(before, after)
    assert isinstance(what, Ended)
    assert (what.container, what.container_id, what.because) == ("proxy", "p1", EndedBecause.ERROR)
    assert {each.name: each.container_id for each in after.containers}["proxy"] == "p2"
    assert list(happened(after, after)) == []


def test_a_resize_in_place_is_no_news() -> None:
    written = modern()
    written["spec"]["containers"][0]["resources"]["limits"] = {"cpu": "2"}
    for condition in ("PodResizePending", "PodResizeInProgress"):
        resizing = deepcopy(written)
        resizing["status"]["conditions"].append({"type": condition, "status": "True", "reason": "Deferred"})
        assert list(happened(seen(modern()), seen(resizing))) == []


def test_a_pod_behind_a_gate_waits_for_its_node_like_any_other() -> None:
    gated = {
        "phase": "Pending",
        "conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}],
        "containerStatuses": None,
        "initContainerStatuses": None,
    }
    waiting = seen(modern(spec={"nodeName": None, "schedulingGates": [{"name": "team/quota"}]}, status=gated))
    assert (waiting.node, waiting.has_run, waiting.terminating) == (None, False, None)
    assert list(happened(waiting, seen(modern(spec={"schedulingGates": None}, status=gated)))) == [Scheduled()]


@pytest.mark.parametrize(
    ("reason", "why"),
    [
        ("PreemptionByScheduler", Why.PREEMPTED),
        ("DeletionByTaintManager", Why.TAINTED),
        ("EvictionByEvictionAPI", Why.EVICTED),
        ("DeletionByPodGC", Why.COLLECTED),
        ("TerminationByKubelet", Why.EVICTED),
    ],
)
def test_a_disruption_is_known_before_the_deletion_and_is_one_end_with_it(reason: str, why: Why) -> None:
    announced = modern()
    announced["status"]["conditions"].append({"type": "DisruptionTarget", "status": "True", "reason": reason})
    deleted = deepcopy(announced)
    deleted["metadata"] |= DELETED
    (what,) = happened(seen(modern()), seen(announced))
    assert isinstance(what, Terminating)
    assert what.why is why
    assert list(happened(seen(announced), seen(deleted))) == []


def test_a_disruption_that_was_called_off_is_no_reason_of_an_end() -> None:
    spared = modern()
    spared["status"]["conditions"].append(
        {"type": "DisruptionTarget", "status": "False", "reason": "EvictionByEvictionAPI"}
    )
    assert seen(spared).terminating is None


@pytest.mark.parametrize("reason", ["DeadlineExceeded", "UnexpectedAdmissionError", "OutOfcpu", "NodeAffinity"])
def test_what_fails_by_its_own_deadline_or_at_the_kubelets_door_was_not_ended_from_outside(reason: str) -> None:
    assert seen(modern(status={"phase": "Failed", "reason": reason})).terminating is None
