"""``woodfrog migrate``: a pod moves to the node that was named, and is what it was."""

from __future__ import annotations

import json
import time

import pytest
from support.install import Installation
from support.kube import BIN, Cluster, command, running, until
from support.seed import LOG, SAMPLES, SeedJob, broken_at

pytestmark = pytest.mark.timeout(420)


def test_an_owned_pod_moves_there_and_back_by_its_owner(cluster: Cluster, woodfrog: Installation) -> None:
    job = SeedJob(cluster, f"move-{int(time.time()) % 10**5}")
    job.manifest["spec"]["backoffLimit"] = 5
    job.apply()
    try:
        job.runs()
        done = job.does(20)
        for _ in range(2):
            node, pod = job.node, job.pod
            other = next(each for each in cluster.nodes() if each != node)
            moved = json.loads(woodfrog.say("migrate", job.pod_name, "--to", other, "-o", "json", seconds=200))
            assert (moved["from_node"], moved["to_node"]) == (node, other)
            assert moved["snapshots"]
            done = job.goes_on(done, but=pod["metadata"]["uid"])
            assert job.node == other
        nodes = json.loads(cluster.kubectl("get", "nodes", "-o", "json"))["items"]
        assert not [node for node in nodes if node["spec"].get("unschedulable")], "a node stayed cordoned"
    finally:
        job.remove()


def test_a_pod_without_an_owner_is_made_again(cluster: Cluster, woodfrog: Installation) -> None:
    name = f"bare-{int(time.time()) % 10**5}"
    cluster.apply({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"kept": "yes"}},
        "spec": {
            "runtimeClassName": "cedana", "volumes": [{"name": "work", "emptyDir": {}}],
            "containers": [{
                "name": "main", "image": SAMPLES, "command": ["gpu_smr/vector_add"],
                "env": [{"name": "CEDANA_CHECKPOINT", "value": name}],
                "volumeMounts": [{"name": "work", "mountPath": "/workspace"}],
            }],
        },
    })  # fmt: skip
    try:
        pod = until(lambda: running([cluster.get("pod", name)]), 60, "the pod runs")[0]
        until(lambda: cluster.execute(name, "cat", LOG, check=False).count("\n") > 20, 60, "it has worked")
        done = cluster.execute(name, "cat", LOG).count("\n")
        woodfrog.say("migrate", name, seconds=200)
        now = cluster.get("pod", name)
        assert now["metadata"]["uid"] != pod["metadata"]["uid"]
        assert now["spec"]["nodeName"] != pod["spec"]["nodeName"]
        assert now["metadata"]["labels"] == {"kept": "yes"}
        log = until(lambda: _beyond(cluster, name, done), 60, "it goes on")
        assert broken_at(log) is None
    finally:
        cluster.delete("pod", name)


def test_what_cannot_be_moved_is_left_alone(cluster: Cluster, woodfrog: Installation) -> None:
    name = f"plain-{int(time.time()) % 10**5}"
    cluster.apply({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "main", "image": SAMPLES, "command": ["sleep", "3600"]}], "terminationGracePeriodSeconds": 1},
    })  # fmt: skip
    try:
        pod = until(lambda: running([cluster.get("pod", name)]), 60, "the pod runs")[0]
        with pytest.raises(AssertionError, match="pod-not-protected"):
            command(BIN / "woodfrog", "migrate", name)
        assert cluster.get("pod", name)["metadata"]["uid"] == pod["metadata"]["uid"]
    finally:
        cluster.delete("pod", name)


def _beyond(cluster: Cluster, name: str, steps: int) -> str | None:
    log = cluster.execute(name, "cat", LOG, check=False)
    return log if log.count("\n") > steps + 10 else None
