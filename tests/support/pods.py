"""Pods and nodes as the API server gives them, cut down to what somebody might read."""

from __future__ import annotations

import json
from typing import Any

from controlplane.kube.models import Node, Pod
from controlplane.kube.pod_diff import PodView, view
from woodfrog.protocol import wire

Object = dict[str, Any]
CLASSES = ("cedana",)


def pod(uid: str = "u1", *, name: str = "train-1", version: str = "1", **changes: Any) -> Object:
    """A pod with a protected container; ``meta``, ``spec`` and ``status`` replace what it says there."""
    env = [{"name": "CEDANA_CHECKPOINT", "value": "trainer"}]
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": uid,
            "resourceVersion": version,
            "creationTimestamp": "2026-11-23T12:00:00Z",
            "managedFields": [{"manager": "kubectl"}],
            **changes.get("meta", {}),
        },
        "spec": {
            "runtimeClassName": "cedana",
            "containers": [{"name": "main", "image": "job:1", "env": env}],
            "terminationGracePeriodSeconds": 30,
            **changes.get("spec", {}),
        },
        "status": {"phase": "Pending", **changes.get("status", {})},
    }


def with_env(*env: Object, **changes: Any) -> Object:
    """A pod whose container has these variables."""
    return pod(spec={"containers": [{"name": "main", "env": list(env)}]}, **changes)


def status_of(container_id: str = "c1", **state: Object) -> Object:
    """The status of a pod whose container is in a state."""
    one = {"name": "main", "containerID": f"containerd://{container_id}", "state": state or {"running": {}}}
    return {"phase": "Running", "containerStatuses": [one]}


def read(written: Object) -> Pod:
    """Read a pod as the watcher does."""
    found: Pod = wire.decode(json.dumps(written), Pod)
    return found


def seen(written: Object, *cordoned: str) -> PodView:
    """See a pod as the watcher does; it has to be protected."""
    found = view(read(written), runtime_classes=CLASSES, cordoned=cordoned)
    assert found is not None
    return found


def node(name: str = "a", *taints: str, ready: str = "True", unschedulable: bool = False, version: str = "1") -> Object:
    """A node."""
    return {
        "metadata": {"name": name, "uid": f"uid-{name}", "resourceVersion": version},
        "spec": {"unschedulable": unschedulable, "taints": [{"key": key, "effect": "NoSchedule"} for key in taints]},
        "status": {"conditions": [{"type": "Ready", "status": ready, "reason": "Kubelet", "message": "posting"}]},
    }


def read_node(written: Object) -> Node:
    """Read a node as the watcher does."""
    found: Node = wire.decode(json.dumps(written), Node)
    return found
