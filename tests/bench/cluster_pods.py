"""What pods of a real cluster pay: a start without the variable, and the way to another node with all memory.

Run: ``make bench-cluster``, with ``KUBECONFIG`` and ``WOODFROG_E2E_CLUSTER`` as for ``make e2e``, on a cluster on which Woodfrog is
installed; by hand ``python tests/bench/cluster_pods.py [RUNS]``. Both kinds of pod take turns. Times are those of a watch on
the API server: from the request to the moment when the pod is ready.

*Start*: a pod of the runtime class without the variable, beside the same pod without a runtime class, on one node.
*Move*: a Deployment's pod is deleted on one node and its replacement is ready on the other: ours holds 64 MiB of memory that is
not compressible and resumes from there, the peer's holds nothing, ends at once and starts anew.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from kubernetes_asyncio import client, config, watch

from tests.bench.report import Row, overhead, publish, row

NAMESPACE = "default"
PYTHON_IMAGE = os.environ.get("WOODFROG_BENCH_IMAGE", "registry.local/woodfrog-controlplane:dev")
PLAIN_IMAGE = "registry.local/busybox:1"
LIMIT_SECONDS = 180.0
SETTLED_SECONDS = 3.0
"""How long a pod has run before it is moved. A kubelet takes up what is new of a pod only after it has looked at its containers again,
once a second: who deletes a pod that has just become ready measures that."""
_HOLD = "import os, time\nheld = os.urandom(64 << 20)\nwhile True: time.sleep(0.05)\n"


def _ready(pod: Any) -> bool:
    return any(each.type == "Ready" and each.status == "True" for each in pod.status.conditions or ())


class Pods:
    """The pods with one label, and when they become ready."""

    def __init__(self, core: client.CoreV1Api, app: str) -> None:
        self.core, self.app = core, app

    async def ready(self, *, but: str = "") -> Any:
        """Wait until a pod of this label is ready, another than ``but`` (a uid); return it."""
        stream = watch.Watch()
        async with asyncio.timeout(LIMIT_SECONDS), stream:
            async for event in stream.stream(
                self.core.list_namespaced_pod,
                NAMESPACE,
                label_selector=f"app={self.app}",
                timeout_seconds=int(LIMIT_SECONDS),
            ):
                pod = event["object"]
                if pod.metadata.uid != but and pod.metadata.deletion_timestamp is None and _ready(pod):
                    return pod
        raise TimeoutError(f"no pod of {self.app} became ready")


async def start_seconds(core: client.CoreV1Api, node: str, runtime_class: str | None, turn: int) -> float:
    """Start one pod on a node and end it; return how long its start took."""
    name = f"bench-start-{'ours' if runtime_class else 'peer'}-{turn}"
    spec: dict[str, Any] = {
        "nodeName": node, "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "main", "image": PLAIN_IMAGE, "command": ["sleep", "3600"]}],
    }  # fmt: skip
    if runtime_class:
        spec["runtimeClassName"] = runtime_class
    pods = Pods(core, name)
    watching = asyncio.create_task(pods.ready())
    await asyncio.sleep(0.1)
    began = time.monotonic()
    await core.create_namespaced_pod(NAMESPACE, {"metadata": {"name": name, "labels": {"app": name}}, "spec": spec})
    await watching
    took = time.monotonic() - began
    await core.delete_namespaced_pod(name, NAMESPACE, grace_period_seconds=0)
    return took


@asynccontextmanager
async def deployment(apps: client.AppsV1Api, app: str, pod_spec: dict[str, Any]) -> AsyncIterator[None]:
    """A Deployment of one pod."""
    template = {"metadata": {"labels": {"app": app}}, "spec": pod_spec}
    body = {"metadata": {"name": app}, "spec": {"selector": {"matchLabels": {"app": app}}, "template": template}}
    await apps.create_namespaced_deployment(NAMESPACE, body)
    try:
        yield
    finally:
        await apps.delete_namespaced_deployment(app, NAMESPACE)


async def move_seconds(core: client.CoreV1Api, pods: Pods) -> float:
    """Delete a pod that has run for a while, with its node cordoned; return how long it took until the next one was ready."""
    old = await pods.ready()
    await asyncio.sleep(SETTLED_SECONDS)
    node = old.spec.node_name
    await core.patch_node(node, {"spec": {"unschedulable": True}})
    try:
        watching = asyncio.create_task(pods.ready(but=old.metadata.uid))
        await asyncio.sleep(0.1)
        began = time.monotonic()
        await core.delete_namespaced_pod(old.metadata.name, NAMESPACE)
        new = await watching
        assert new.spec.node_name != node
        return time.monotonic() - began
    finally:
        await core.patch_node(node, {"spec": {"unschedulable": None}})


def protected() -> dict[str, Any]:
    """A pod that holds 64 MiB."""
    checkpoint_id = {"name": "CEDANA_CHECKPOINT", "value": f"bench-move-{int(time.time())}"}
    main = {
        "name": "main", "image": PYTHON_IMAGE, "command": ["python3", "-c", _HOLD], "env": [checkpoint_id],
        "securityContext": {"runAsUser": 0},  # other users' processes need CAP_SYS_RESOURCE, which not every machine has
    }  # fmt: skip
    return {"runtimeClassName": "cedana", "containers": [main]}


def plain() -> dict[str, Any]:
    """A pod that holds nothing and ends at once."""
    script = "trap 'exit 0' TERM; while :; do sleep 0.05; done"
    return {"containers": [{"name": "main", "image": PLAIN_IMAGE, "command": ["sh", "-c", script]}]}


async def measure(runs: int) -> list[Row]:
    """Measure both; the first turn of each warms up and does not count."""
    await config.load_kube_config()
    async with client.ApiClient() as api:
        core, apps = client.CoreV1Api(api), client.AppsV1Api(api)
        node = next(each.metadata.name for each in (await core.list_node()).items if not each.spec.unschedulable)
        ours: list[float] = []
        peer: list[float] = []
        for turn in range(runs * 2 + 1):
            ours.append(await start_seconds(core, node, "cedana", turn))
            peer.append(await start_seconds(core, node, None, turn))
        rows = [
            row("pod start without the variable", "s", ours[1:], peer[1:], peer_name="no runtime class", goal="<= 1.03")
        ]
        ours, peer = [], []
        async with deployment(apps, "bench-move-ours", protected()), deployment(apps, "bench-move-peer", plain()):
            mine, theirs = Pods(core, "bench-move-ours"), Pods(core, "bench-move-peer")
            for _ in range(runs + 1):
                ours.append(await move_seconds(core, mine))
                peer.append(await move_seconds(core, theirs))
        rows.append(
            overhead("64 MiB moved to another node, on top of", "s", ours[1:], peer[1:],
                     peer_name="a plain pod's replacement", goal="<= 1")
        )  # fmt: skip
        return rows


if __name__ == "__main__":
    publish("cluster_pods", asyncio.run(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 5)))
