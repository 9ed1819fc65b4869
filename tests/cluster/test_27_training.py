"""Distributed training in one pod continues over two moves, its ranks connected by the pod's own name: every loss is that of a run without interruption.

The pod's name and address are others after each move. Nothing sets MASTER_ADDR: torchrun gives its ranks the name of the host.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest
from matrix.images import image_of
from matrix.on_cluster import load
from matrix.place import environment, words
from matrix.programs import PROGRAMS
from matrix.roots import prepared
from support.install import Installation
from support.kube import Cluster, Object, until
from support.seed import SeedJob
from support.time_scale import limit

pytestmark = [
    pytest.mark.timeout(1500),
    pytest.mark.skipif(os.environ.get("WOODFROG_E2E_TORCH") == "off", reason="WOODFROG_E2E_TORCH=off: it installs PyTorch"),
]  # fmt: skip

PROGRAM = next(program for program in PROGRAMS if program.name == "torchrun")
STEPS = 120


class Training(SeedJob):
    """A Job that trains; a step of it is a line with the loss."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        super().__init__(cluster, name)
        container: Object = {
            "name": "main", "image": image_of(PROGRAM), "command": words(PROGRAM),
            "env": [
                {"name": key, "value": value}
                for key, value in {**environment(PROGRAM, all_root=False), "CEDANA_CHECKPOINT": name}.items()
            ],
        }  # fmt: skip
        pod: Object = {
            "runtimeClassName": "cedana", "restartPolicy": "Never", "terminationGracePeriodSeconds": 120, "containers": [container],
        }  # fmt: skip
        self.manifest = {
            "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
            "spec": {"backoffLimit": 5, "template": {"metadata": {"labels": {"job-name": name}}, "spec": pod}},
        }  # fmt: skip

    def log(self) -> str:
        return self.cluster.execute(self.pod_name, "cat", "/out", check=False)

    def result(self) -> str:
        """The digest of the weights, once they are written."""
        return self.cluster.execute(self.pod_name, "sha256sum", "/result", check=False)

    def address(self) -> str:
        """MASTER_ADDR as the ranks have it."""
        found = self.cluster.execute(
            self.pod_name, "sh", "-c", "cat /proc/[0-9]*/environ | tr '\\0' '\\n' | grep ^MASTER_ADDR= | sort -u"
        )
        return found.strip().removeprefix("MASTER_ADDR=")

    def inner_connections(self) -> int:
        """How many ends of connections there are whose two ends have the pod's own address."""
        address = "".join(f"{int(part):02X}" for part in reversed(self.pod["status"]["podIP"].split(".")))
        rows = [
            line.split()[1:4] for line in self.cluster.execute(self.pod_name, "cat", "/proc/net/tcp").splitlines()[1:]
        ]
        return sum(
            local.startswith(address) and remote.startswith(address) and state == "01" for local, remote, state in rows
        )


@pytest.fixture
def trainings(cluster: Cluster, woodfrog: Installation) -> Iterator[tuple[Training, Training]]:
    """One that is moved, and one that is left alone."""
    load(cluster, [PROGRAM], prepared([PROGRAM]))
    stamp = int(time.time()) % 10**5
    made = Training(cluster, f"training-{stamp}"), Training(cluster, f"training-whole-{stamp}")
    for each in made:
        each.apply()
    yield made
    for each in made:
        each.remove()


def test_ranks_that_know_each_other_by_the_pods_name_train_on_over_two_moves(
    cluster: Cluster, woodfrog: Installation, trainings: tuple[Training, Training]
) -> None:
    moved, whole = trainings
    moved.runs()
    done = moved.does(10, 240)
    first = moved.pod_name
    assert moved.address() == first
    connections = moved.inner_connections()
    assert connections >= 2
    nodes = [moved.node]
    for leave in (_delete, _drain):
        was = moved.pod
        leave(cluster, moved)
        moved.runs(240, but=was["metadata"]["uid"])
        done = moved.does(done + 10, 120)
        nodes.append(moved.node)
        assert moved.pod["status"]["podIP"] != was["status"]["podIP"]
        assert moved.address() == first
        assert moved.inner_connections() == connections
        assert done < STEPS, "it was over before it was moved"
        cluster.kubectl("uncordon", was["spec"]["nodeName"])
    assert nodes == [nodes[0], nodes[1], nodes[0]]
    assert nodes[0] != nodes[1]
    whole.runs()
    results = [until(each.result, 240, f"{each.name} is trained") for each in trainings]
    assert results[0] == results[1]
    losses = [each.log().splitlines() for each in trainings]
    assert losses[0] == losses[1]
    assert [line.split()[0] for line in losses[0]] == [str(number) for number in range(1, STEPS + 1)]
    assert woodfrog.ask("why", moved.name)["incarnation"] == 3


def _delete(cluster: Cluster, job: Training) -> None:
    cluster.kubectl("cordon", job.node)
    cluster.kubectl("delete", "pod", job.pod_name, "--wait=false")


def _drain(cluster: Cluster, job: Training) -> None:
    cluster.kubectl("drain", job.node, "--ignore-daemonsets", "--delete-emptydir-data", "--force",
                    "--pod-selector", f"job-name={job.name}", limit(180), seconds=200)  # fmt: skip
