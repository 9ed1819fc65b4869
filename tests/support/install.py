"""Woodfrog on a cluster, by helm: installed, asked, broken and removed."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from support.kube import BIN, Cluster, command, until
from support.time_scale import limit, scaled

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "build" / "images"
NAMESPACE = "woodfrog-system"
RELEASE = "woodfrog"
FILES_LIMIT = 100_000
"""A tenth of the default: to make a million files takes a pod minutes, and it is the same bound."""


def footprint(cluster: Cluster, node: str) -> str:
    """Every file that an installation could touch on a node, with its mode and digest."""
    script = (
        "cd / && for place in etc/containerd etc/crio etc/woodfrog opt/woodfrog usr/local/bin usr/local/sbin; do "
        "[ -e $place ] && find $place -printf '%y %m %U:%G %p %l\\n' && find $place -type f -exec sha256sum {} +; done | sort; "
        "ls -d run/woodfrog run/woodfrog-self-test 2>/dev/null; true"
    )
    return cluster.on(node, "sh", "-c", script)


class Installation:
    """One release of the chart."""

    def __init__(self, cluster: Cluster, chart: Path) -> None:
        self.cluster, self.chart = cluster, chart
        self.home = cluster.nodes()[0]
        """Where the control plane and the only NATS server run: a test that takes a node's power takes another's."""
        self.there = False

    def _helm(self, *arguments: str | Path, seconds: float = 400) -> str:
        return command(BIN / "helm", *arguments, "--namespace", NAMESPACE, seconds=seconds)

    def values(self) -> dict[str, Any]:
        """Values of this test's installation: the images made here, and what the cluster needs."""
        of_cluster: dict[str, Any] = yaml.safe_load(self.cluster.adapt("values"))
        at_home = {"nodeSelector": {"kubernetes.io/hostname": self.home}}
        return {
            "controlplane": at_home,
            "nats": at_home,
            "node": {"limits": {"files": FILES_LIMIT}},
            "uninstall": {"timeoutSeconds": int(scaled(120))},
            "images": {
                "controlplane": {"repository": "registry.local/woodfrog-controlplane", "tag": "dev"},
                "node": {"repository": "registry.local/woodfrog-node", "tag": "dev"},
            },
            **of_cluster,
        }

    def install(self, **more: Any) -> None:
        """``helm upgrade --install``, and wait until every part is ready."""
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump({**self.values(), **more}, file)
            file.flush()
            self._helm(
                "upgrade",
                "--install",
                RELEASE,
                self.chart,
                "--create-namespace",
                "-f",
                file.name,
                "--wait",
                limit(300),
            )
        self.there = True
        until(self.nodes_ready, 120, "every node has a worker that the control plane knows")

    def uninstall(self) -> None:
        """``helm uninstall``."""
        self._helm("uninstall", RELEASE, "--wait", limit(300))
        self.there = False

    def nodes_ready(self) -> bool:
        """Whether the control plane hears of every node's worker."""
        ready = {row["node"] for row in self.ask("get", "nodes") if row["status"] == "ready"}
        return ready >= set(self.cluster.nodes())

    def ask(self, *verb: str) -> Any:
        """Ask ``woodfrog`` from outside the cluster and return its JSON."""
        return json.loads(command(BIN / "woodfrog", *verb, "-o", "json", seconds=60))

    def say(self, *verb: str, seconds: float = 60) -> str:
        """Ask ``woodfrog`` from outside the cluster."""
        return command(BIN / "woodfrog", *verb, seconds=seconds)

    def scale(self, replicas: int) -> None:
        """Take the control plane away, or bring it back."""
        name = f"deployment/{RELEASE}-controlplane"
        self.cluster.kubectl("scale", name, f"--replicas={replicas}", "-n", NAMESPACE)
        selector = "app.kubernetes.io/component=controlplane"
        if replicas == 0:
            until(lambda: not self.cluster.list("pods", selector, NAMESPACE), 90, "the control plane is gone")
        else:
            self.cluster.kubectl("rollout", "status", name, "-n", NAMESPACE, limit(90), seconds=100)


@contextmanager
def installed(cluster: Cluster) -> Iterator[Installation]:
    """Woodfrog on a cluster, from the images of ``make images``; uninstalled at the end if it is still there."""
    archives = [IMAGES / f"woodfrog-{part}.tar" for part in ("controlplane", "node")]
    assert all(archive.exists() for archive in archives), "no images: run `make images` first"
    for archive in archives:
        cluster.adapt("load", archive)
    found = Installation(cluster, ROOT / "helm" / "woodfrog")
    found.install()
    try:
        yield found
    finally:
        if found.there:
            found.uninstall()
