"""No restore loop: what ends badly after each restore is begun anew after the second time, and says why."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from support.install import Installation
from support.kube import Cluster, Object, running, until

pytestmark = pytest.mark.timeout(300)

COUNT = "i=0; while [ ! -e /v/end ]; do i=$((i+1)); echo $i >>/v/count; sleep 0.1; done; exit 3"


class Ending:
    """Pods of one id, one after the other, on one node; each ends by itself once its volume says so."""

    def __init__(self, cluster: Cluster, woodfrog: Installation) -> None:
        self.cluster, self.woodfrog = cluster, woodfrog
        self.node = cluster.nodes()[0]
        self.id = f"ending-{int(time.time()):x}"
        self.folder = f"/run/{self.id}"
        self.pods: list[str] = []

    def start(self) -> None:
        """Make the next pod."""
        self.pods.append(f"{self.id}-{len(self.pods)}")
        self.cluster.apply(self._manifest(self.pods[-1]))

    def ended(self) -> bool:
        """Whether all pods have ended by themselves, and the log has it."""
        pod = self.cluster.get("pod", self.pods[-1])
        return pod["status"].get("phase") == "Failed" and len(self.events("container.ended")) == len(self.pods)

    def events(self, kind: str) -> list[Object]:
        """What the log has of the id."""
        return [row["data"] for row in self.woodfrog.ask("history", self.id) if row["type"] == kind]

    def counted(self) -> list[int]:
        """What all containers have counted."""
        return [int(line) for line in self.cluster.on(self.node, "cat", f"{self.folder}/count").split()]

    def _manifest(self, name: str) -> Object:
        container: Object = {
            "name": "main", "image": "registry.local/woodfrog-node:dev", "command": ["sh", "-c", COUNT],
            "env": [{"name": "CEDANA_CHECKPOINT", "value": self.id}], "volumeMounts": [{"name": "v", "mountPath": "/v"}],
        }  # fmt: skip
        spec: Object = {
            "runtimeClassName": "cedana", "restartPolicy": "Never", "containers": [container],
            "nodeSelector": {"kubernetes.io/hostname": self.node},
            "volumes": [{"name": "v", "hostPath": {"path": self.folder, "type": "DirectoryOrCreate"}}],
        }  # fmt: skip
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


@pytest.fixture
def ending(cluster: Cluster, woodfrog: Installation) -> Iterator[Ending]:
    made = Ending(cluster, woodfrog)
    yield made
    cluster.delete("pod", *made.pods)
    cluster.on(made.node, "rm", "-rf", made.folder)


def test_a_pod_that_fails_soon_after_each_restore_is_begun_anew_after_the_second_time(
    cluster: Cluster, woodfrog: Installation, ending: Ending
) -> None:
    ending.start()
    until(lambda: len(ending.counted()) > 5, 60, "it counts")
    woodfrog.say("checkpoint", ending.id, seconds=120)
    cluster.on(ending.node, "touch", f"{ending.folder}/end")
    until(ending.ended, 60, "the first has ended")
    for _ in range(2):
        ending.start()
        until(ending.ended, 60, "it was restored, and has ended")
    (stored,) = ending.events("snapshot.stored")
    assert [each["restored_from"] for each in ending.events("container.started")[1:]] == [stored["snapshot_id"]] * 2
    cluster.on(ending.node, "rm", f"{ending.folder}/end")
    ending.start()
    until(lambda: running([cluster.get("pod", ending.pods[-1])]), 60, "the fourth runs")
    until(lambda: ending.counted().count(1) == 2, 30, "it begins anew")
    why = " ".join(woodfrog.say("why", ending.id).split())
    assert "the last 2 containers that resumed from it ended by themselves" in why
    assert "exit code 3" in why
