"""Two nodes of a cluster: each container of a program is a pod without an owner, pinned to a node and deleted there.

The next pod of the id has another name, so another host name, as the pods of a Deployment have. The root filesystems get to the nodes as images.
"""

from __future__ import annotations

import itertools
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from matrix.images import image_of, pack
from matrix.place import Place, dumps_other_users, environment, snippet, words
from matrix.program import Program
from matrix.roots import BUILD
from support.install import Installation, installed
from support.kube import BIN, Cluster, CommandFailedError, Object, running, until

_TASKS: Final = "/run/containerd/io.containerd.runtime.v2.task/k8s.io"
_START_SECONDS: Final = 300
_SNIPPET_SECONDS: Final = 120
_STOP_SECONDS: Final = 120
_LOAD_SECONDS: Final = 900
_LABEL: Final = "woodfrog-matrix"


class OnCluster:
    """The cluster with Woodfrog installed, and the images on its nodes."""

    moves = (1,)

    def __init__(self, cluster: Cluster, woodfrog: Installation) -> None:
        self._cluster = cluster
        self._woodfrog = woodfrog
        self._nodes = cluster.nodes()
        self._numbers = itertools.count(1)
        self._run = f"{int(time.time()):x}"
        """Makes ids that no earlier run on this cluster had."""
        self._all_root = not dumps_other_users(cluster.on(self._nodes[0], "cat", "/proc/self/status"))

    def start(self, name: str, program: Program, node: int) -> _Pod:
        pod = f"{name}-{self._run}-{next(self._numbers)}"
        variables = {**environment(program, all_root=self._all_root), "CEDANA_CHECKPOINT": self._id(name)}
        container: Object = {
            "name": "main", "image": image_of(program), "command": words(program),
            "env": [{"name": variable, "value": value} for variable, value in variables.items()],
        }  # fmt: skip
        self._cluster.apply({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod, "labels": {_LABEL: name}},
            "spec": {
                "runtimeClassName": "cedana", "restartPolicy": "Never", "nodeName": self._nodes[node],
                "terminationGracePeriodSeconds": _STOP_SECONDS, "containers": [container],
            },
        })  # fmt: skip
        found = until(lambda: _settled(self._cluster.get("pod", pod)), _START_SECONDS, f"{pod} runs")
        assert running([found]), f"{pod} ended: {found['status']}"
        container_id = str(found["status"]["containerStatuses"][0]["containerID"]).split("//")[1]
        started = until(lambda: self._started(name, container_id), 60, f"the start of {pod} is recorded")
        return _Pod(self._cluster, found, container_id, started.get("restored_from"))

    def history(self, name: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._woodfrog.ask("history", self._id(name))
        return found

    def clear(self) -> None:
        """Remove what is left of the run."""
        self._cluster.kubectl(
            "delete", "pods", "-l", _LABEL, "--grace-period=1", "--wait=true", check=False, seconds=180
        )

    def _id(self, name: str) -> str:
        return f"{name}-{self._run}"

    def _started(self, name: str, container: str) -> dict[str, Any] | None:
        for event in self.history(name):
            data: dict[str, Any] = event["data"]
            if event["type"] == "container.started" and data["container_id"] == container:
                return data
        return None


class _Pod:
    """A pod as ``Live``."""

    def __init__(self, cluster: Cluster, pod: Object, container: str, restored_from: str | None) -> None:
        self._cluster = cluster
        self._name = str(pod["metadata"]["name"])
        self._node = str(pod["spec"]["nodeName"])
        self.container = container
        self.restored_from = restored_from

    def runs(self) -> bool:
        return self._on_node("kill -0") is not None

    def shell(self, text: str) -> subprocess.CompletedProcess[str]:
        done = self._exec("sh", "-c", snippet(text))
        said = _text(done.stderr).removesuffix(f"command terminated with exit code {done.returncode}\n")
        return subprocess.CompletedProcess(done.args, done.returncode, _text(done.stdout), said)

    def read(self, path: str) -> bytes | None:
        done = self._exec("cat", path)
        return done.stdout if done.returncode == 0 else None

    def stop(self) -> None:
        self._cluster.delete("pod", self._name)
        with suppress(AssertionError):
            until(lambda: not self.runs(), _STOP_SECONDS, f"{self._name} has stopped")

    def said(self) -> str:
        log = self._cluster.kubectl("logs", self._name, "--tail=30", check=False)
        events = self._cluster.kubectl(
            "get", "events", "--field-selector", f"involvedObject.name={self._name}", check=False
        )
        return f"{log[-1500:]}\n{events[-1500:]}"

    def end(self) -> None:
        self._on_node("kill -9")
        self._cluster.kubectl("delete", "pod", self._name, "--grace-period=1", "--wait=false", check=False)

    def _exec(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        command = [BIN / "kubectl", "exec", self._name, "--", *arguments]
        return subprocess.run(command, check=False, capture_output=True, timeout=_SNIPPET_SECONDS)

    def _on_node(self, signalling: str) -> str | None:
        try:
            return self._cluster.on(self._node, "sh", "-c", f"{signalling} $(cat {_TASKS}/{self.container}/init.pid)")
        except CommandFailedError:
            return None


def _text(said: bytes) -> str:
    return said.decode(errors="replace")


def _settled(pod: Object) -> Object | None:
    return pod if running([pod]) or pod["status"].get("phase") in {"Failed", "Succeeded"} else None


def load(cluster: Cluster, programs: Sequence[Program], lowers: dict[str, Path]) -> None:
    """Make the images of programs known to every node."""
    for suite, root in lowers.items():
        with tempfile.TemporaryDirectory(dir=BUILD) as folder:
            here = [program for program in programs if program.suite == suite]
            cluster.adapt("load", pack(here, root, Path(folder) / f"{suite}.tar"), seconds=_LOAD_SECONDS)


@contextmanager
def on_cluster(programs: Sequence[Program], lowers: dict[str, Path]) -> Iterator[Place]:
    """Woodfrog on the cluster of ``KUBECONFIG`` and ``WOODFROG_E2E_CLUSTER``, removed at the end."""
    cluster = Cluster()
    load(cluster, programs, lowers)
    with installed(cluster) as woodfrog:
        place = OnCluster(cluster, woodfrog)
        try:
            yield place
        finally:
            place.clear()
