"""Pods of every shape, made by every controller, go on after their node was drained: each from its own id's snapshot."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import pytest
from support.install import Installation
from support.kube import Cluster, Object, running, until
from support.seed import LOG, SAMPLES, broken_at
from support.time_scale import limit

pytestmark = pytest.mark.timeout(600)

POD_NAME = {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}


def container(checkpoint_id: str, name: str = "main", **more: object) -> Object:
    """A container that computes the chain into the pod's volume, below a directory of its own."""
    return {
        "name": name, "image": SAMPLES, "command": ["gpu_smr/vector_add"],
        "env": [POD_NAME, {"name": "CEDANA_CHECKPOINT", "value": checkpoint_id}],
        "volumeMounts": [{"name": "work", "mountPath": "/workspace", "subPath": name}], **more,
    }  # fmt: skip


def template(app: str, *containers: Object, **more: object) -> Object:
    return {
        "metadata": {"labels": {"app": app}},
        "spec": {
            "runtimeClassName": "cedana", "containers": list(containers), "terminationGracePeriodSeconds": 60,
            "volumes": [{"name": "work", "emptyDir": {}}], **more,
        },
    }  # fmt: skip


def controlled(kind: str, app: str, pod: Object, **more: object) -> Object:
    return {
        "apiVersion": "apps/v1", "kind": kind, "metadata": {"name": app},
        "spec": {"selector": {"matchLabels": {"app": app}}, "template": pod, **more},
    }  # fmt: skip


class Workload:
    """Pods with one label, and what each of their containers has done so far."""

    def __init__(self, cluster: Cluster, app: str, count: int = 1, names: tuple[str, ...] = ("main",)) -> None:
        self.cluster, self.app, self.count, self.names = cluster, app, count, names

    def pods(self) -> list[Object]:
        return self.cluster.list("pods", f"app={self.app}")

    def run(self, but: set[str], seconds: float = 120) -> list[Object]:
        def those() -> list[Object] | None:
            found = running(self.pods(), sorted(but))
            return found if len(found) == self.count else None

        found: list[Object] = until(those, seconds, f"{self.count} pods of {self.app} run")
        return found

    def logs(self, pods: list[Object]) -> dict[str, str]:
        """What each container wrote, by pod name (without what a Deployment appends) and container."""
        found = {}
        for pod in pods:
            name = pod["metadata"]["name"]
            for each in self.names:
                text = self.cluster.kubectl("exec", name, "-c", each, "--", "cat", LOG, check=False)
                found[f"{name if self.app == 'web' else self.app}/{each}"] = text
        return found


@pytest.fixture
def workloads(cluster: Cluster, woodfrog: Installation) -> Iterator[list[Workload]]:
    """One of each kind, all on the first node."""
    _, *others = cluster.nodes()
    for other in others:
        cluster.kubectl("cordon", other)
    stamp = int(time.time()) % 10**5
    restricted = {
        "readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False,
    }  # fmt: skip
    cluster.apply(
        controlled("Deployment", "web-server", template("web-server", container(f"deployment-{stamp}")), replicas=1),
        controlled("StatefulSet", "web", template("web", container(f"$(POD_NAME)-{stamp}")), replicas=2,
                   serviceName="web", podManagementPolicy="Parallel"),
        controlled("Deployment", "two-ids",
                   template("two-ids", container(f"left-{stamp}", "left"), container(f"right-{stamp}", "right")), replicas=1),
        controlled("Deployment", "read-only", template(
            "read-only", container(f"read-only-{stamp}", securityContext=restricted),
            securityContext={"fsGroup": 1000}), replicas=1),
        controlled("Deployment", "host-network", template(
            "host-network", container(f"host-network-{stamp}"), hostNetwork=True), replicas=1),
    )  # fmt: skip
    made = [
        Workload(cluster, "web-server"),
        Workload(cluster, "web", 2),
        Workload(cluster, "two-ids", names=("left", "right")),
        Workload(cluster, "read-only"),
        Workload(cluster, "host-network"),
    ]
    for each in made:
        each.run(set(), 180)
    for other in others:
        cluster.kubectl("uncordon", other)
    yield made
    cluster.delete("deployment", "web-server", "two-ids", "read-only", "host-network")
    cluster.delete("statefulset", "web")
    for each in made:
        cluster.kubectl("delete", "pods", "-l", f"app={each.app}", "--grace-period=1", "--wait=false", check=False)


def test_each_goes_on_from_its_own_snapshot(
    cluster: Cluster, woodfrog: Installation, workloads: list[Workload]
) -> None:
    was = {each.app: each.run(set()) for each in workloads}
    for each in workloads:
        until(
            lambda each=each: all(log.count("\n") > 20 for log in each.logs(was[each.app]).values()),
            60,
            "all have worked",
        )
    done = {each.app: {name: log.count("\n") for name, log in each.logs(was[each.app]).items()} for each in workloads}
    node = next(iter(was.values()))[0]["spec"]["nodeName"]
    selector = f"app in ({','.join(each.app for each in workloads)})"
    cluster.kubectl("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force",
                    "--pod-selector", selector, limit(120), seconds=130)  # fmt: skip
    for each in workloads:
        pods = each.run({pod["metadata"]["uid"] for pod in was[each.app]}, 180)
        assert node not in {pod["spec"]["nodeName"] for pod in pods}
        for name, steps in done[each.app].items():
            log = until(partial(_more, each, pods, name, steps), 60, f"{name} goes on")
            assert broken_at(log) is None, f"{name}: {broken_at(log)}"


def _more(workload: Workload, pods: list[Object], name: str, steps: int) -> str | None:
    log = workload.logs(pods).get(name, "")
    return log if log.count("\n") > steps + 10 else None
