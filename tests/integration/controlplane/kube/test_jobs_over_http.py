"""A whole control plane beside a played API server: what it does about Jobs over HTTP, and what it puts back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client
from support.fake_apiserver import cluster_over_http
from support.fake_cluster import Object, PlayedCluster
from support.job_controller import JobController
from support.job_stage import seed_job
from support.servers import ControlPlaneProcess
from support.worker import FACTS, Worker, ask, eventually, query

from woodfrog.protocol import subjects
from woodfrog.protocol.facts import ContainerFacts
from woodfrog.protocol.ids import CheckpointKey, ContainerId
from woodfrog.protocol.requests import Refusal, ResolveRequest, RestoreFrom, StartCold, WaitFor

pytestmark = [pytest.mark.nats, pytest.mark.timeout(90)]

KEY = CheckpointKey("local", "default", "job-preemption-test-3")
LEDGER = "woodfrog.io/job-retries"
ANSWERS = RestoreFrom | StartCold | WaitFor | Refusal
Plane = Callable[..., Awaitable[ControlPlaneProcess]]


class Scene:
    """A cluster, its Job controller, and a kubeconfig that leads there."""

    def __init__(self, kubeconfig: Path, cluster: PlayedCluster) -> None:
        self.kubeconfig, self.cluster = kubeconfig, cluster
        self.controller = JobController(cluster)

    async def job(self) -> tuple[Object, Object]:
        job = self.cluster.create_job(seed_job())

        async def kept_ahead() -> bool:
            return bool(job["spec"]["backoffLimit"] == 2)

        await eventually(kept_ahead, saying="backoffLimit is one ahead")
        return job, self.cluster.pods_of(job)[0]


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    cluster = PlayedCluster()
    async with cluster_over_http(cluster, tmp_path) as kubeconfig:
        yield Scene(kubeconfig, cluster)


async def start(make: Callable[..., ControlPlaneProcess], scene: Scene, **environment: str) -> ControlPlaneProcess:
    plane = make(WOODFROG_KUBERNETES="on", KUBECONFIG=str(scene.kubeconfig), **environment)
    await asyncio.to_thread(plane.start)
    return plane


async def run(worker: Worker, pod: Object) -> int:
    """Start the pod's container, as its node's worker does."""
    facts = ContainerFacts(pod=pod["metadata"]["name"], pod_uid=pod["metadata"]["uid"])
    container = ContainerId(pod["metadata"]["uid"])
    request = ResolveRequest(KEY, container, worker.node, worker.worker_id, FACTS, facts, worker.sequence)
    answer: Any = await ask(worker.client, subjects.resolve(worker.node), request, ANSWERS)
    assert isinstance(answer, StartCold | RestoreFrom), answer
    await worker.say(worker.started(container, answer.incarnation, KEY))
    await worker.taken_in()
    return int(answer.incarnation)


async def test_a_preempted_pod_is_replaced_in_less_than_a_second_and_costs_no_retry(
    make_control_plane: Callable[..., ControlPlaneProcess], client: Client, scene: Scene
) -> None:
    await start(make_control_plane, scene)
    worker = Worker(client, "a")
    await worker.register()
    job, pod = await scene.job()
    loop = asyncio.get_running_loop()
    for turn in range(1, 4):
        scene.cluster.run(pod)
        incarnation = await run(worker, pod)
        deleted_at = loop.time()
        scene.cluster.delete(pod, "PreemptionByScheduler")

        async def there() -> list[Object]:
            return scene.cluster.pods_of(job)

        (made,) = await eventually(there, saying="its replacement is there")
        assert loop.time() - deleted_at < 1
        key = {"incarnation": incarnation, "key": KEY}
        await worker.say(worker.dump_started(f"s{turn}", final=True, **key))
        await worker.say(worker.captured(f"s{turn}", **key), worker.stored(f"s{turn}", **key))
        scene.cluster.exit(pod, 137)
        scene.cluster.leave(pod)
        pod = made

    async def settled() -> bool:
        ledger = json.loads(job["metadata"]["annotations"][LEDGER])
        return bool((job["status"]["failed"], job["spec"]["backoffLimit"], len(ledger["open"])) == (3, 1 + 3 + 1, 1))

    await eventually(settled, saying="the ends are entered")
    assert len(scene.controller.created) == 1
    rows = [row for row in await query(client, "events", key=KEY) if row["type"] == "pod.replaced"]
    assert [(row["data"]["incarnation"], row["data"]["why"]) for row in rows] == [(n, "preempted") for n in (1, 2, 3)]
    told = [(each["reason"], each["regarding"]["kind"]) for each in scene.cluster.events]
    assert told.count(("Replaced", "Job")) == told.count(("Replaced", "Pod")) == 3


async def test_switched_off_it_puts_the_users_number_back(
    make_control_plane: Callable[..., ControlPlaneProcess], client: Client, scene: Scene
) -> None:
    plane = await start(make_control_plane, scene)
    job, pod = await scene.job()
    scene.cluster.run(pod)
    await asyncio.to_thread(plane.close)
    scene.cluster.delete(pod, grace_seconds=0)
    await asyncio.sleep(0.1)
    assert job["status"]["failed"] == 1
    await start(make_control_plane, scene, WOODFROG_PRESERVE_JOBS="off")

    async def put_back() -> bool:
        return LEDGER not in job["metadata"]["annotations"]

    await eventually(put_back, saying="the annotation is gone")
    assert job["spec"]["backoffLimit"] == 1 + 1
