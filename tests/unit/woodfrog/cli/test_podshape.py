"""Which pods can be moved, which pod takes over from another, and how one without an owner is made again."""

from __future__ import annotations

from typing import Any

import pytest

from woodfrog.cli.pod_eligibility import bare_copy, refusal_to_move, replaces

pytestmark = pytest.mark.timeout(5)

OWNER = {"kind": "Job", "name": "train", "uid": "job-1", "controller": True}


def pod(uid: str = "a", name: str = "train-x", **more: Any) -> dict[str, Any]:
    metadata = {
        "name": name, "namespace": "default", "uid": uid, "creationTimestamp": "2026-11-25T10:00:00Z", "labels": {"app": "train"},
        "resourceVersion": "7", "ownerReferences": [OWNER], **more.pop("metadata", {}),
    }  # fmt: skip
    spec = {
        "nodeName": "node1",
        "containers": [{
            "name": "main", "image": "i", "env": [{"name": "CEDANA_CHECKPOINT", "value": more.pop("id", "train")}],
            "volumeMounts": [
                {"name": "work", "mountPath": "/work"},
                {"name": "token-abc", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"},
            ],
        }],
        "volumes": [{"name": "work", "emptyDir": {}}, {"name": "token-abc", "projected": {}}],
    }  # fmt: skip
    return {"metadata": metadata, "spec": spec, "status": {"phase": "Running", **more.pop("status", {})}}


def node(name: str, *, ready: bool = True, cordoned: bool = False, labelled: bool = True) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "labels": {"woodfrog.io/ready": "true"} if labelled else {}},
        "spec": {"unschedulable": True} if cordoned else {},
        "status": {"conditions": [{"type": "Ready", "status": "True" if ready else "Unknown"}]},
    }


NODES = [
    node("node1"),
    node("node2"),
    node("down", ready=False),
    node("cordoned", cordoned=True),
    node("bare", labelled=False),
]


def test_a_running_protected_pod_can_go_to_any_other_fit_node() -> None:
    assert refusal_to_move(pod(), NODES, None) is None
    assert refusal_to_move(pod(), NODES, "node2") is None


@pytest.mark.parametrize("to", ["node1", "down", "cordoned", "bare", "nowhere"])
def test_a_node_that_cannot_take_it_is_refused_by_name(to: str) -> None:
    failure = refusal_to_move(pod(), NODES, to)
    assert failure is not None
    assert failure.code == "node-unfit"
    assert to in failure.cause


def test_without_another_node_nothing_is_begun() -> None:
    failure = refusal_to_move(pod(), [node("node1"), node("down", ready=False)], None)
    assert failure is not None
    assert failure.code == "node-unfit"


def test_what_has_no_id_is_not_moved() -> None:
    unprotected = pod()
    unprotected["spec"]["containers"][0]["env"] = []
    failure = refusal_to_move(unprotected, NODES, None)
    assert failure is not None
    assert failure.code == "pod-not-protected"


@pytest.mark.parametrize(
    "not_running", [pod(status={"phase": "Pending"}), pod(metadata={"deletionTimestamp": "2026-11-25T10:00:00Z"})]
)
def test_a_pod_that_does_not_run_is_not_moved(not_running: dict[str, Any]) -> None:
    failure = refusal_to_move(not_running, NODES, None)
    assert failure is not None
    assert failure.code == "pod-not-running"


def test_a_pod_of_a_daemonset_belongs_to_its_node() -> None:
    bound = pod(metadata={"ownerReferences": [{**OWNER, "kind": "DaemonSet"}]})
    failure = refusal_to_move(bound, NODES, None)
    assert failure is not None
    assert failure.code == "pod-bound"


def test_the_owners_next_pod_for_the_same_id_takes_over() -> None:
    assert replaces(pod("b", "train-y"), pod())


def test_the_same_name_takes_over_as_in_a_statefulset_or_without_an_owner() -> None:
    bare = pod(metadata={"ownerReferences": []})
    assert replaces(pod("b", metadata={"ownerReferences": []}), bare)


@pytest.mark.parametrize(
    "other",
    [
        pod(),  # itself
        pod("b", "train-y", metadata={"deletionTimestamp": "2026-11-25T10:00:09Z"}),
        pod("b", "train-y", id="train-2"),  # its sibling of another index
        pod("b", "train-y", metadata={"ownerReferences": [{**OWNER, "uid": "job-2"}]}),
        pod(
            "b", "train-y", metadata={"creationTimestamp": "2026-11-25T09:00:00Z"}
        ),  # its sibling that was there before
    ],
)
def test_no_other_pod_does(other: dict[str, Any]) -> None:
    assert not replaces(other, pod())


def test_a_pod_is_made_again_without_what_its_life_and_node_added() -> None:
    again = bare_copy(pod(metadata={"ownerReferences": []}))
    assert again["metadata"] == {"name": "train-x", "namespace": "default", "labels": {"app": "train"}}
    assert "nodeName" not in again["spec"]
    assert "status" not in again
    assert again["spec"]["volumes"] == [{"name": "work", "emptyDir": {}}]
    assert again["spec"]["containers"][0]["volumeMounts"] == [{"name": "work", "mountPath": "/work"}]
