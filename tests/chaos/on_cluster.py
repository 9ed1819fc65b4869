"""A chaos run on a cluster: pods without an owner, on nodes that can lose their power.

Each start is a pod of its own. What a program has written is read on its node, from the container's root, because an exec session for
each look would be a trouble of its own. Disks are filled if the adapter has small ones for it: a node's own may be everybody's.
"""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any, Final

import msgspec
import yaml
from support.install import NAMESPACE, Installation, installed
from support.kube import BIN, Cluster, CommandFailedError, Object, running, until

from woodfrog.protocol.events import AnyEvent, Event, KeyEvent

from .disks import WORKER, fill, small_disks
from .place import Ended, Live, Place
from .programs import RECORD, VOLUME, Program

_IMAGE: Final = "registry.local/woodfrog-node:dev"
"""Brings a shell and Python, and is on every node already."""
_TASKS: Final = "/run/containerd/io.containerd.runtime.v2.task/k8s.io"
_WORKER: Final = "python.* -m nodeworker$"
_PARTS: Final = ("controlplane", "nats")
_UNREACHABLE: Final = (CommandFailedError, subprocess.TimeoutExpired, ValueError)
_DUMPED_WHILE_FULL: Final = 2
_OTHERS: Final = "find . -mindepth 1 -maxdepth 1 ! -name .away -exec"
_LOSE: Final = f'cd "$0" && mkdir .away && {_OTHERS} mv -t .away {{}} +; true'
_FIND: Final = (
    f'cd "$0" && {_OTHERS} rm -rf {{}} +; for each in $(ls -A .away); do mv -T ".away/$each" "$each"; done; rmdir .away'
)


class OnCluster:
    """The cluster with Woodfrog installed."""

    def __init__(self, cluster: Cluster, woodfrog: Installation, store: str, *, fills: bool) -> None:
        """``store`` is the folder that all nodes share, or empty; ``fills`` says whether it and the workers' have small disks."""
        self._cluster = cluster
        self._woodfrog = woodfrog
        self._store = store
        self._fills = fills
        self._nodes = cluster.nodes()
        self._numbers = itertools.count(1)
        self._run = f"{int(time.time()):x}"
        """Makes ids that no earlier run on this cluster had."""
        self._chance = random.Random(1)  # which node is harmed; the run's own seed decides everything else

    def start(self, name: str, program: Program) -> Live:
        self._cluster.kubectl("delete", "pods", "-l", f"chaos={name}", "--wait=true", seconds=180)
        pod = f"{name}-{next(self._numbers)}"
        self._cluster.apply(_pod(pod, name, self._id(name), program))
        found = until(
            lambda: running([self._cluster.get("pod", pod)]) or _ended(self._cluster.get("pod", pod)),
            120,
            f"{pod} runs",
        )
        assert running(found), f"{pod} ended: {found[0]['status']}"
        container = str(found[0]["status"]["containerStatuses"][0]["containerID"]).split("//")[1]
        started = until(lambda: self._started(name, container), 60, f"the start of {pod} is recorded", 1.0)
        return _Pod(self._cluster, name, found[0], container, started.get("restored_from"))

    def stop(self, live: Live) -> Ended:
        assert isinstance(live, _Pod)
        before = {row["snapshot_id"] for row in self._snapshots(live.name)}
        try:
            self._cluster.delete("pod", live.pod)
            until(lambda: live.pod not in self._pods(live.name), 180, f"{live.pod} is gone")
            made = until(lambda: self._dumped(live.name, before), 30, "its final snapshot is recorded", 1.0)
        except (AssertionError, *_UNREACHABLE) as problem:  # such as a pod whose node had lost its power
            return self._waiting(live.name, before) or Ended(False, str(problem))
        return Ended(made["status"] == "valid", str(made), made["snapshot_id"])

    def crash(self, live: Live) -> None:
        """Kill it, unless a node that lost its power has done so."""
        assert isinstance(live, _Pod)
        with suppress(AssertionError, *_UNREACHABLE):
            live.on_node("sh", "-c", f"kill -9 $(cat {_TASKS}/{live.container}/init.pid)")
            until(lambda: _ended(self._cluster.get("pod", live.pod)), 60, f"{live.pod} has ended")

    def checkpoint(self, name: str) -> bool:
        try:
            self._woodfrog.say("checkpoint", self._id(name), seconds=120)
        except _UNREACHABLE:
            return False
        return True

    def newest_stored(self, name: str) -> str | None:
        stored = [row["snapshot_id"] for row in self._snapshots(name) if row["status"] == "valid"]
        return str(stored[-1]) if stored else None

    def why(self, name: str) -> str:
        return self._woodfrog.say("why", self._id(name))

    def harms(self) -> dict[str, Callable[[], Callable[[], None]]]:
        found: dict[str, Callable[[], Callable[[], None]]] = {
            "kill nodeworker": self._kill_worker,
            "pause nodeworker": self._pause_worker,
            "take a node's power": self._kill_node,
            **{f"kill {part}": lambda part=part: self._kill(part) for part in _PARTS},
        }
        if self._fills:
            found["fill a node's disk"] = lambda: self._fill(self._node(), WORKER)
        if self._store:
            found["lose the store"] = self._lose
        if self._store and self._fills:
            found["fill the store's disk"] = lambda: self._fill(self._node(), self._store)
        return found

    def trouble(self, live: Live) -> str:
        assert isinstance(live, _Pod)
        if live.has_volume:
            text = f"echo {next(self._numbers)} >{VOLUME}/fresh && mv {VOLUME}/fresh {VOLUME}/said"
            self._cluster.execute(live.pod, "sh", "-c", text, check=False)
            return "change the volume"
        subprocess.Popen(
            [BIN / "kubectl", "exec", live.pod, "--", "sleep", "20"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return "open an exec session"

    def log(self) -> list[tuple[AnyEvent, datetime]]:
        """Those of this run's ids and of nodes: of an older version's events a rule may not know what they left out."""
        rows = self._woodfrog.ask("get", "events", "--limit", "1000000")
        found: list[tuple[AnyEvent, datetime]] = []
        for row in rows:
            with suppress(msgspec.ValidationError):
                data = row["data"] if isinstance(row["data"], str) else msgspec.json.encode(row["data"])
                event = msgspec.json.decode(data, type=Event)
                if not isinstance(event, KeyEvent) or event.key.id.endswith(f"-{self._run}"):
                    found.append((event, datetime.fromisoformat(row["occurred_at"])))
        return found

    def healthy(self) -> bool:
        try:
            return set(self._cluster.nodes()) >= set(self._nodes) and self._woodfrog.nodes_ready()
        except _UNREACHABLE:
            return False

    def clear(self) -> None:
        """Remove what is left of the run."""
        self._cluster.kubectl(
            "delete", "pods", "-l", "chaos", "--grace-period=1", "--wait=true", check=False, seconds=120
        )

    def _id(self, name: str) -> str:
        return f"{name}-{self._run}"

    def _pods(self, name: str) -> list[str]:
        return [pod["metadata"]["name"] for pod in self._cluster.list("pods", f"chaos={name}")]

    def _snapshots(self, name: str) -> list[Object]:
        try:
            found: list[Object] = self._woodfrog.ask("get", "snapshots", self._id(name))
        except _UNREACHABLE:
            return []
        return found

    def _dumped(self, name: str, before: set[str]) -> Object | None:
        rows = [row for row in self._snapshots(name) if row["snapshot_id"] not in before]
        return rows[-1] if rows and rows[-1]["status"] in {"valid", "failed"} else None

    def _waiting(self, name: str, before: set[str]) -> Ended | None:
        """What a stop came to whose capture waits on its node, which can be seen."""
        rows = [row for row in self._snapshots(name) if row["snapshot_id"] not in before]
        if not rows or rows[-1]["status"] != "captured":
            return None
        return Ended(True, f"not stored {rows[-1]['not_stored'] or 'yet'}", rows[-1]["snapshot_id"])

    def _started(self, name: str, container: str) -> Any:
        for row in self._woodfrog.ask("history", self._id(name)):
            data = row["data"]
            if row["type"] == "container.started" and data["container_id"] == container:
                return data
        return None

    def _node(self) -> str:
        return self._chance.choice(self._nodes)

    def _kill_worker(self) -> Callable[[], None]:
        self._cluster.on(self._node(), "pkill", "-9", "-f", _WORKER, check=False)
        return lambda: None

    def _pause_worker(self) -> Callable[[], None]:
        node = self._node()
        self._cluster.on(node, "pkill", "-STOP", "-f", _WORKER, check=False)

        def end() -> None:
            self._cluster.on(node, "pkill", "-CONT", "-f", _WORKER, check=False)

        return end

    def _kill(self, part: str) -> Callable[[], None]:
        where = ("-n", NAMESPACE, "-l", f"app.kubernetes.io/component={part}")
        self._cluster.kubectl("delete", "pods", *where, "--grace-period=0", "--force", "--wait=false", check=False)
        return lambda: None

    def _kill_node(self) -> Callable[[], None]:
        """Take the power of a node on which no part of the control plane runs, and give it back."""
        node = self._chance.choice([each for each in self._nodes if each != self._woodfrog.home])
        self._cluster.adapt("kill", node)

        def end() -> None:
            self._cluster.adapt("start", node)
            until(self.healthy, 180, f"{node} is back")

        return end

    def _fill(self, node: str, folder: str) -> Callable[[], None]:
        """Fill a disk, and have something on that node dumped that does not fit there."""
        end = fill(self._cluster, node, folder)
        here = [pod for pod in running(self._cluster.list("pods", "chaos")) if pod["spec"]["nodeName"] == node]
        for pod in here[:_DUMPED_WHILE_FULL]:
            words = [BIN / "woodfrog", "checkpoint", self._id(pod["metadata"]["labels"]["chaos"])]
            path = {"PATH": f"{BIN}:{os.environ['PATH']}"}
            subprocess.Popen(words, env={**os.environ, **path}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return end

    def _lose(self) -> Callable[[], None]:
        self._cluster.on(self._nodes[0], "sh", "-c", _LOSE, self._store)

        def end() -> None:
            self._cluster.on(self._nodes[0], "sh", "-c", _FIND, self._store)

        return end


class _Pod:
    """A pod as ``Live``."""

    def __init__(self, cluster: Cluster, name: str, pod: Object, container: str, restored_from: str | None) -> None:
        self.name = name
        self.pod = str(pod["metadata"]["name"])
        self.container = container
        self.restored_from = restored_from
        self.has_volume = any(volume["name"] == "v" for volume in pod["spec"].get("volumes", ()))
        self._cluster = cluster
        self._node = str(pod["spec"]["nodeName"])
        self._seen: list[str] = []

    def on_node(self, *arguments: str) -> str:
        return self._cluster.on(self._node, *arguments)

    def record(self) -> list[str]:
        """The lines as they are now, or as they were last seen if the container is gone."""
        with suppress(*_UNREACHABLE):
            text = self.on_node("cat", f"{_TASKS}/{self.container}/rootfs{RECORD}")
            self._seen = text[: text.rfind("\n") + 1].splitlines()
        return self._seen

    def runs(self) -> bool:
        try:
            self.on_node("sh", "-c", f"kill -0 $(cat {_TASKS}/{self.container}/init.pid)")
        except _UNREACHABLE:
            return False
        return True


def _pod(pod: str, name: str, checkpoint_id: str, program: Program) -> Object:
    words = ["python3" if word == sys.executable else word for word in program.command]
    container: Object = {
        "name": "main",
        "image": _IMAGE,
        "command": words,
        "env": [{"name": "CEDANA_CHECKPOINT", "value": checkpoint_id}],
    }
    spec: Object = {"runtimeClassName": "cedana", "restartPolicy": "Never", "containers": [container]}
    if program.volume:
        spec["volumes"] = [{"name": "v", "emptyDir": {}}]
        container["volumeMounts"] = [{"name": "v", "mountPath": VOLUME}]
    meta = {"name": pod, "labels": {"chaos": name}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


def _ended(pod: Object) -> list[Object]:
    return [pod] if pod["status"].get("phase") in {"Failed", "Succeeded"} else []


@contextmanager
def cluster() -> Iterator[Place]:
    """Woodfrog on the cluster of ``KUBECONFIG`` and ``WOODFROG_E2E_CLUSTER``, removed at the end."""
    found = Cluster()
    values = yaml.safe_load(found.adapt("values")).get("store", {})
    store = str(values["hostPath"]["path"]) if values.get("type") == "hostPath" else ""
    with small_disks(found, store) as fills, installed(found) as woodfrog:
        place = OnCluster(found, woodfrog, store, fills=fills)
        try:
            yield place
        finally:
            place.clear()
