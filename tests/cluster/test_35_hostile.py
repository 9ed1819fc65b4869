"""Pods that mean harm, beside one that means well: it is stopped and started as before, and nothing of the node is touched or read.

How long the hand-over of the honest Job takes alone and beside them is written to build/bench/hostile.json, with what they had done meanwhile.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.install import FILES_LIMIT, NAMESPACE, Installation
from support.kube import Cluster, Object, until
from support.seed import SAMPLES, SeedJob
from support.time_scale import limit

pytestmark = pytest.mark.timeout(1200)

HOSTILE = "hostile"
FIGURES = Path(__file__).parents[2] / "build/bench/hostile.json"
DUMPED_FILES = FILES_LIMIT // 2
IMPATIENT = 30
LOOP = "i=0; while :; do i=$((i+1)); echo $i > /tmp/n; sleep 0.2; done"
CLEAN = "head -c 65536 /dev/zero | busybox tr '\\0' A > /work/clean"
SWAP = (
    "while [ ! -e /work/clean ]; do sleep 0.1; done; cd /work; names='0 1 2 3 4 5 6 7'; "
    "for n in $names; do cat clean > file$n; busybox mknod device$n c 1 9; done; "
    "while :; do for n in $names; do mv file$n other$n; mv device$n file$n; mv other$n device$n; done; done"
)
"""Files of a volume and /dev/urandom take each other's places, which another container of the pod does while the dumped one is frozen."""
STRANGE = "for each in /work/*; do [ ! -f $each ] || busybox cmp -s $each /work/clean || echo $each; done"


def making(files: int) -> str:
    return f"cd /work; busybox seq {files} | busybox xargs busybox touch; {LOOP}"


def pod(name: str, script: str, env: list[Object], annotations: dict[str, str] | None = None, **spec: object) -> Object:
    """A pod of the hostile namespace with one container, in which the id is the last of ``env``, or the pod's name."""
    container: Object = {"name": "main", "image": SAMPLES, "command": ["sh", "-c", script], "env": env}
    mounts = spec.pop("mounts", None)
    if mounts:
        container["volumeMounts"] = mounts
    return {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": HOSTILE, "annotations": annotations or {}},
        "spec": {"runtimeClassName": "cedana", "terminationGracePeriodSeconds": 5, "containers": [container], **spec},
    }  # fmt: skip


def swapping(name: str, beside: str) -> Object:
    """A pod whose volume two containers share: one has the id, the other does what is ``beside`` it."""
    mounts = [{"name": "work", "mountPath": "/work"}]
    made = pod(name, f"{CLEAN}; {LOOP}", called("swaps"), {"woodfrog.io/interval": "1s"}, mounts=mounts)
    other = {"name": "other", "image": SAMPLES, "command": ["sh", "-c", beside], "volumeMounts": mounts}
    made["spec"]["containers"].append(other)
    made["spec"]["volumes"] = [{"name": "work", "emptyDir": {}}]
    return made


def called(name: str) -> list[Object]:
    return [{"name": "CEDANA_CHECKPOINT", "value": name}]


def bomb(*, behind: bool) -> list[Object]:
    """Variables of which each doubles the one before; ``behind`` their user, the kubelet leaves them to others."""
    doubling = [{"name": "A0", "value": "xxxxxxxxxxxxxxxx"}]
    doubling += [{"name": f"A{n}", "value": f"$(A{n - 1})$(A{n - 1})"} for n in range(1, 32)]
    user = {"name": "CEDANA_CHECKPOINT", "value": "$(A31)"}
    return [user, *reversed(doubling)] if behind else [*doubling, user]


@pytest.fixture
def hostile(cluster: Cluster, woodfrog: Installation) -> Iterator[None]:
    """All of them, running as far as they are let."""
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": HOSTILE}})
    work = {"name": "work", "emptyDir": {}}
    etc = {"name": "etc", "hostPath": {"path": "/etc"}}
    cluster.apply(
        pod("bomb-nowhere", LOOP, bomb(behind=False), nodeSelector={"kubernetes.io/hostname": "nowhere"}),
        pod("bomb-behind", LOOP, bomb(behind=True)),
        pod("many-files", making(DUMPED_FILES), called("many"), {"woodfrog.io/interval": "2s"}, volumes=[work],
            mounts=[{"name": "work", "mountPath": "/work"}]),
        pod("too-many-files", making(FILES_LIMIT + 1), called("too-many"), {"woodfrog.io/interval": "2s"}, volumes=[work],
            mounts=[{"name": "work", "mountPath": "/work"}]),
        swapping("swaps", SWAP),
        pod("host-shm", LOOP, called("shm"), {"woodfrog.io/interval": "2s"}, volumes=[etc],
            mounts=[{"name": "etc", "mountPath": "/dev/shm", "readOnly": True}]),
        *(pod(f"impatient-{n}", LOOP, called(f"impatient-{n}"), {"woodfrog.io/interval": "1s"}) for n in range(IMPATIENT)),
    )  # fmt: skip
    meant = {"many-files", "too-many-files", "host-shm", "swaps", *(f"impatient-{n}" for n in range(IMPATIENT))}
    until(lambda: up(cluster) >= meant, 240, "those that can run do")
    yield
    cluster.kubectl("delete", "namespace", HOSTILE, "--wait=true", limit(240), check=False, seconds=260)


def up(cluster: Cluster) -> set[str]:
    """Names of the hostile pods whose container runs."""
    return {
        each["metadata"]["name"]
        for each in cluster.list("pods", "", HOSTILE)
        if any("running" in status["state"] for status in each["status"].get("containerStatuses", ()))
    }


def restarts(cluster: Cluster) -> dict[str, int]:
    """How often each of Woodfrog's containers was restarted."""
    return {
        f"{each['metadata']['name']}/{status['name']}": status["restartCount"]
        for each in cluster.list("pods", "", NAMESPACE)
        for status in each["status"].get("containerStatuses", ())
    }


def snapshots(woodfrog: Installation, name: str) -> list[Object]:
    """All that is known of an id of theirs."""
    found: list[Object] = woodfrog.ask("get", "snapshots", name, "--namespace", HOSTILE)
    return found


def hand_over_seconds(cluster: Cluster, job: SeedJob) -> float:
    """Delete the Job's pod; return after how many seconds another one has gone on beyond it."""
    left, done = job.pod, job.steps()
    began = time.monotonic()
    cluster.kubectl("delete", "pod", job.pod_name, "--wait=false")
    job.goes_on(done, but=left["metadata"]["uid"], seconds=150)
    return time.monotonic() - began


def events(cluster: Cluster, name: str) -> str:
    """What the cluster says of a pod."""
    return cluster.kubectl("get", "events", "-n", HOSTILE, "--field-selector", f"involvedObject.name={name}")


def strange_files(cluster: Cluster, woodfrog: Installation) -> str:
    """Restore the pod whose files were swapped for a device; return the names of those that hold anything else than they did."""
    until(lambda: len(snapshots(woodfrog, "swaps")) > 3, 120, "it is dumped while files and devices change places")
    cluster.kubectl("delete", "pod", "swaps", "-n", HOSTILE, "--wait=true", seconds=120)
    cluster.apply(swapping("swapped", "sleep 1000000"))
    until(lambda: cluster.events_of("swapped", "Restored", HOSTILE), 120, "its snapshot is restored")
    return cluster.execute("swapped", "sh", "-c", STRANGE, namespace=HOSTILE)


def test_hostile_pods_hinder_nobody_and_reach_nothing(
    cluster: Cluster, woodfrog: Installation, request: pytest.FixtureRequest
) -> None:
    job = SeedJob(cluster, f"honest-{int(time.time()) % 10**5}")
    job.apply()
    job.runs()
    job.does(20)
    nodes = cluster.nodes()
    etc = {
        node: cluster.on(node, "sh", "-c", "find /etc -type f | sort | xargs sha256sum | sha256sum") for node in nodes
    }
    try:
        alone = [hand_over_seconds(cluster, job) for _ in range(2)]
        before = restarts(cluster)
        request.getfixturevalue("hostile")
        beside = [hand_over_seconds(cluster, job) for _ in range(3)]
        assert restarts(cluster) == before, "a part of Woodfrog was restarted"
        assert "bomb-behind" not in up(cluster), "an id of gigabytes is refused"
        assert "(invalid-id)" in events(cluster, "bomb-behind")
        dumped = {name: len(snapshots(woodfrog, name)) for name in ("many", "impatient-0", "swaps")}
        seconds = {"alone": alone, "beside_hostile_pods": beside}
        FIGURES.parent.mkdir(parents=True, exist_ok=True)
        FIGURES.write_text(
            json.dumps({"hand_over_seconds": seconds, "impatient_pods": IMPATIENT, "snapshots": dumped}, indent=1)
        )
        until(lambda: snapshots(woodfrog, "shm"), 60, "the one with /etc is dumped")
        until(
            lambda: f"more than {FILES_LIMIT} files" in events(cluster, "too-many-files"),
            300,
            "one with more files is refused",
        )
        assert not strange_files(cluster, woodfrog), "a device's bytes are in a snapshot"
        now = {
            node: cluster.on(node, "sh", "-c", "find /etc -type f | sort | xargs sha256sum | sha256sum")
            for node in nodes
        }
        assert now == etc, "a file of a node was changed"
    finally:
        job.remove()
