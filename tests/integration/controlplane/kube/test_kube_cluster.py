"""The watcher, the Lease and Events against the API server that KUBECONFIG names; nothing of Woodfrog need be installed there."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from nats.aio.client import Client
from support.servers import ControlPlaneProcess
from support.worker import FACTS, Worker, ask, eventually, query

from controlplane.kube.api import ApiError, kubernetes
from controlplane.kube.jobs.actions import JobActions
from controlplane.kube.jobs.ledger import Ledger, Seen, read_ledger
from controlplane.kube.jobs.limit_reset import give_back
from controlplane.kube.jobs.models import Job, JobPod
from controlplane.kube.jobs.replacement import replacement
from controlplane.kube.pod_diff import PodView
from controlplane.log.records import utc_now
from woodfrog.protocol import subjects
from woodfrog.protocol.facts import ContainerFacts
from woodfrog.protocol.ids import CheckpointKey, ContainerId
from woodfrog.protocol.requests import Refusal, ResolveRequest, RestoreFrom, StartCold, WaitFor

pytestmark = [pytest.mark.cluster, pytest.mark.nats, pytest.mark.timeout(180)]

KUBECTL = Path(sys.executable).parent / "kubectl"
TAKEOVER_SECONDS = 15.0


def kubectl(*arguments: str, stdin: str | None = None) -> str:
    return subprocess.run(
        [KUBECTL, *arguments], input=stdin, capture_output=True, text=True, timeout=60, check=True
    ).stdout  # fmt: skip


def pod(namespace: str) -> dict[str, Any]:
    env = [{"name": "JOB", "value": "train"}, {"name": "CEDANA_CHECKPOINT", "value": "$(JOB)-1"}]
    main = {"name": "main", "image": "registry.local/busybox:1", "command": ["sleep", "1000"], "env": env}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "train", "namespace": namespace},
        "spec": {"runtimeClassName": namespace, "terminationGracePeriodSeconds": 2, "containers": [main]},
    }


@pytest.fixture
def namespace() -> Iterator[str]:
    """A namespace, and a RuntimeClass by the same name that is plain runc."""
    name = f"watch-{uuid.uuid4().hex[:8]}"
    kubectl("create", "namespace", name)
    runtime = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": name}, "handler": "runc"}
    kubectl("apply", "-f", "-", stdin=json.dumps(runtime))
    try:
        yield name
    finally:
        kubectl("delete", "namespace", name, "--wait=false")
        kubectl("delete", "runtimeclass", name)


async def test_a_pods_life_is_recorded_and_what_became_of_it_is_told_on_it(
    make_control_plane: Callable[..., ControlPlaneProcess], client: Client, namespace: str
) -> None:
    plane = make_control_plane(
        WOODFROG_KUBERNETES="on", WOODFROG_RUNTIME_CLASSES=namespace, WOODFROG_LEASE="kubernetes",
        WOODFROG_POD_NAMESPACE=namespace, WOODFROG_CLUSTER="lab",
    )  # fmt: skip
    plane.start()
    await asyncio.to_thread(plane.wait_for, "watching")
    await asyncio.to_thread(kubectl, "apply", "-f", "-", stdin=json.dumps(pod(namespace)))
    key = CheckpointKey("lab", namespace, "train-1")

    async def types(wanted: str) -> bool:
        return wanted in [row["type"] for row in await query(client, "events", key=key)]

    await eventually(lambda: types("pod.scheduled"), saying="it is given a node", seconds=60)
    paths = "jsonpath={.metadata.uid} {.spec.nodeName}"
    uid, node = (await asyncio.to_thread(kubectl, "-n", namespace, "get", "pod", "train", "-o", paths)).split()
    worker = Worker(client, node=node)
    await worker.register()
    facts = ContainerFacts(pod="train", pod_uid=uid)
    request = ResolveRequest(key, ContainerId("c1"), worker.node, worker.worker_id, FACTS, facts, worker.sequence)
    kinds = RestoreFrom | StartCold | WaitFor | Refusal
    answer = await ask(client, subjects.resolve(worker.node), request, kinds)
    assert isinstance(answer, StartCold)

    async def told() -> bool:
        events = await asyncio.to_thread(kubectl, "-n", namespace, "get", "events", "-o", "json")
        return any(
            item["reason"] == "ColdStarted" and item["involvedObject"]["uid"] == uid
            for item in json.loads(events)["items"]
        )

    await eventually(told, saying="the pod is told that it starts cold", seconds=30)
    await asyncio.to_thread(kubectl, "-n", namespace, "delete", "pod", "train", "--wait=false")
    await eventually(lambda: types("pod.terminating"), saying="it ends", seconds=30)
    await eventually(lambda: types("pod.gone"), saying="it is gone", seconds=90)


async def test_a_standby_takes_the_lead_by_the_lease_when_the_leader_falls_silent(
    make_control_plane: Callable[..., ControlPlaneProcess], database_url: str, namespace: str
) -> None:
    def make(name: str) -> ControlPlaneProcess:
        return make_control_plane(
            WOODFROG_DATABASE_URL=database_url, WOODFROG_INSTANCE=name,
            WOODFROG_LEASE="kubernetes", WOODFROG_POD_NAMESPACE=namespace,
        )  # fmt: skip

    leader, standby = make("one"), make("two")
    leader.start()
    standby.spawn()
    await asyncio.to_thread(standby.wait_for, "standing by")
    leader.signal(signal.SIGSTOP)  # a dead neighbour would be noticed at once; a silent one has to be waited for
    began = time.monotonic()
    await asyncio.to_thread(standby.wait_for, "leading", seconds=30)
    assert time.monotonic() - began <= TAKEOVER_SECONDS
    lease = json.loads(kubectl("-n", namespace, "get", "lease", "woodfrog-controlplane", "-o", "json"))
    assert lease["spec"]["holderIdentity"].startswith("two/")
    assert lease["spec"]["leaseTransitions"] == 2
    leader.signal(signal.SIGCONT)
    assert await asyncio.to_thread(leader.wait) != 0


async def test_what_is_asked_about_a_job_is_what_a_real_api_server_takes(namespace: str) -> None:
    """The patch on condition of a version, the pod from the Job's own template, and the Events."""
    env = [{"name": "CEDANA_CHECKPOINT", "value": "x"}]
    template = {
        "metadata": {"labels": {"own": "label"}},
        "spec": {
            "runtimeClassName": namespace,
            "restartPolicy": "Never",
            "nodeSelector": {"nowhere": "at-all"},
            "containers": [{"name": "main", "image": "registry.local/busybox:1", "env": env}],
        },
    }
    made = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "train", "namespace": namespace},
        "spec": {"backoffLimit": 1, "parallelism": 1, "template": template},
    }
    kubectl("apply", "-f", "-", stdin=json.dumps(made))
    async with kubernetes() as api:
        actions = JobActions(api, runtime_classes=(namespace,), instance="test", clock=utc_now)
        raw: dict[str, Any] = await api.ask("GET", f"/apis/batch/v1/namespaces/{namespace}/jobs/train", dict)
        job = msgspec.convert(raw, Job)
        patched = await actions.patch(job, 4, Ledger(limit=1, set=4))
        assert (patched.backoff_limit, read_ledger(patched)) == (4, Ledger(limit=1, set=4))
        with pytest.raises(ApiError) as refused:
            await actions.patch(job, 5, None)
        assert refused.value.status == 409
        found = await actions.fetch(job)
        assert found is not None
        pod = JobPod(
            phase="Failed", deleted=True, tracked=True, index=None, index_failures=0, index_ignored=0, replaces="",
            conditions=(), exit_codes=(), restarts=0, grouped=False,
        )  # fmt: skip
        view = PodView(namespace, "train-old", "u1", "1", None, None, (), {}, None, (), pod)
        wanted = replacement(found[0], Seen(view, pod))
        for _ in range(2):  # the second time it is there
            await actions.create_pod(namespace, wanted)
        there = await actions.protected_pods(found[1])
        ours = [each for each in there.values() if each.name == wanted["metadata"]["name"]]
        assert [each.job.replaces for each in ours if each.job is not None] == ["u1"]
        for _ in range(2):
            await actions.create_event(found[1], "Replaced", "a note", pod=ours[0], once="u1")
        events = json.loads(kubectl("-n", namespace, "get", "events", "-o", "json"))["items"]
        kinds = [each["involvedObject"]["kind"] for each in events if each["reason"] == "Replaced"]
        assert sorted(kinds) == ["Job", "Pod"]
        assert await give_back(api, actions) == 1
        after = await actions.fetch(job)
        assert after is not None
        assert (after[1].backoff_limit, read_ledger(after[1])) == (1, None)
        pods = json.loads(kubectl("-n", namespace, "get", "pods", "-o", "json"))["items"]
        for each in pods:  # where nobody but the Job controller would take it off
            name = each["metadata"]["name"]
            kubectl("-n", namespace, "patch", "pod", name, "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
