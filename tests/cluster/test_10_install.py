"""What ``helm install`` leaves on a cluster, before anybody uses it."""

from __future__ import annotations

import pytest
from support.install import NAMESPACE, Installation
from support.kube import Cluster, running, until
from support.time_scale import limit

pytestmark = pytest.mark.timeout(420)


def test_every_node_has_a_worker_and_is_labelled_ready(cluster: Cluster, woodfrog: Installation) -> None:
    for name in cluster.nodes():
        until(
            lambda name=name: cluster.get("node", name)["metadata"]["labels"].get("woodfrog.io/ready") == "true",
            30,
            f"the control plane has labelled {name}",
        )


def test_the_command_line_answers_from_outside_the_cluster(cluster: Cluster, woodfrog: Installation) -> None:
    nodes = woodfrog.ask("get", "nodes")
    assert {row["node"] for row in nodes} == set(cluster.nodes())
    assert all(row["criu_version"] and row["runc_version"] for row in nodes)


def test_a_pod_without_the_variable_runs_under_the_runtime_class_as_under_none(
    cluster: Cluster, woodfrog: Installation
) -> None:
    for number, node in enumerate(cluster.nodes()):
        pod = {
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"plain-{number}"},
            "spec": {
                "runtimeClassName": "cedana", "nodeName": node, "terminationGracePeriodSeconds": 1,
                "containers": [
                    {"name": "main", "image": "registry.local/busybox:1", "command": ["sh", "-c", "echo here; exec sleep 3600"]}
                ],
            },
        }  # fmt: skip
        cluster.apply(pod)
        until(lambda number=number: running([cluster.get("pod", f"plain-{number}")]), 60, "the pod runs")
        assert cluster.kubectl("logs", f"plain-{number}") == "here\n"
        cluster.delete("pod", f"plain-{number}")


def test_helm_test_passes(cluster: Cluster, woodfrog: Installation) -> None:
    assert woodfrog.cluster is cluster
    woodfrog._helm("test", "woodfrog", limit(120), seconds=150)


def test_installing_again_restarts_no_containerd(cluster: Cluster, woodfrog: Installation) -> None:
    def containerd(node: str) -> str:
        return cluster.on(node, "sh", "-c", "pgrep -x containerd | sort | head -1")

    pids = {node: containerd(node) for node in cluster.nodes()}
    cluster.kubectl("rollout", "restart", "daemonset/woodfrog-node", "-n", NAMESPACE)
    cluster.kubectl("rollout", "status", "daemonset/woodfrog-node", "-n", NAMESPACE, limit(180), seconds=190)
    until(woodfrog.nodes_ready, 60, "the workers are back")
    assert {node: containerd(node) for node in cluster.nodes()} == pids
