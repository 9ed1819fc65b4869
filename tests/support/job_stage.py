"""A played cluster with a Job controller, and beside it the part of the control plane that keeps Jobs going, in virtual time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any

import yaml

from controlplane.core.input_queue import InputResult
from controlplane.domain import Input, Policy, State, decide, evolve
from controlplane.kube.env_expansion import checkpoint_ids
from controlplane.kube.jobs.actions import JobActions
from controlplane.kube.jobs.reconciler import JobReconciler
from controlplane.kube.models import Pod
from controlplane.kube.object_cache import PodCache
from support.fake_cluster import NOON, Object, PlayedCluster
from support.job_controller import JobController
from support.seed import MANIFEST
from support.virtual_time import in_virtual_time
from support.world import stored_event
from woodfrog.protocol import wire
from woodfrog.protocol.events import (
    ContainerEnded,
    ContainerStarted,
    DumpFailed,
    DumpStage,
    DumpStarted,
    Event,
    IncarnationOpened,
    NodeLost,
    NodeRegistered,
    SnapshotCaptured,
    Trigger,
)
from woodfrog.protocol.facts import ContainerFacts, NodeFacts
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import CheckpointKey, ContainerId, IncarnationNumber, NodeName, SnapshotId, WorkerId

CLASSES = ("cedana",)
LEDGER = "woodfrog.io/job-retries"
REPLACES = "woodfrog.io/replaces"
BROKEN = Failure("criu-error", "CRIU could not dump the processes", "Look at its log.")


def seed_job(**spec: Any) -> Object:
    """The mission's Job, with what a test changes in its spec."""
    job: Object = yaml.safe_load(MANIFEST.read_text())
    job["spec"] |= spec
    return job


def indexed_job(completions: int, **spec: Any) -> Object:
    """An Indexed Job whose pods have an id for each index."""
    job = seed_job(completionMode="Indexed", completions=completions, parallelism=completions)
    del job["spec"]["backoffLimit"]
    job["spec"] |= spec
    container = job["spec"]["template"]["spec"]["containers"][0]
    container["env"] = [{"name": "CEDANA_CHECKPOINT", "value": "train-$(JOB_COMPLETION_INDEX)"}]
    return job


class WorkerReports:
    """What node workers say, folded as the control plane folds it. Satisfies :class:`controlplane.core.input_queue.InputQueue`."""

    def __init__(self) -> None:
        self.state = State()
        self.dumps = 0
        self.recorded: list[Event] = []
        """What the control plane has recorded about Jobs."""
        for node in ("a", "b"):
            self._say(NodeRegistered(node=NodeName(node), worker_id=WorkerId(node), boot_id="boot", facts=NodeFacts()))

    def _say(self, event: Event) -> None:
        evolve(self.state, event, NOON)

    def keys_of(self, pod: Object) -> list[CheckpointKey]:
        """The checkpoint keys of a pod."""
        read = wire.decode(json.dumps(pod), Pod)
        # The worker reads the container's own environment, in which the index is.
        return [CheckpointKey("lab", read.metadata.namespace, each) for each in checkpoint_ids(read).values()]

    def started(self, pod: Object, node: str = "a") -> None:
        """The pod's protected containers have started."""
        facts = ContainerFacts(pod=pod["metadata"]["name"], pod_uid=pod["metadata"]["uid"])
        for key in self.keys_of(pod):
            known = self.state.keys.get(key)
            number = IncarnationNumber((known.newest if known is not None else 0) + 1)
            about = {
                "key": key,
                "incarnation": number,
                "node": NodeName(node),
                "container_id": ContainerId(facts.pod_uid or ""),
            }
            self._say(IncarnationOpened(**about, container=facts))
            self._say(ContainerStarted(**about))

    def dumped(self, pod: Object, *, until: str = "stored", final: bool = True) -> None:
        """The pod's containers were dumped, as far as ``until``: begun, captured, stored or failed."""
        for key in self.keys_of(pod):
            start = self._start(key, pod)
            self.dumps += 1
            about: dict[str, Any] = {
                "key": key, "incarnation": start, "snapshot_id": SnapshotId(f"s{self.dumps}"), "node": NodeName("a"),
            }  # fmt: skip
            self._say(DumpStarted(**about, trigger=Trigger.STOP_SIGNAL, final=final))
            if until == "failed":
                self._say(DumpFailed(**about, stage=DumpStage.CAPTURE, failure=BROKEN))
            if until in {"captured", "stored"}:
                self._say(SnapshotCaptured(**about, freeze_seconds=0.1, raw_bytes=1000))
            if until == "stored":
                self._say(stored_event(**about))

    def ended(self, pod: Object) -> None:
        """The pod's containers are gone from their node."""
        for key in self.keys_of(pod):
            about = {"key": key, "incarnation": self._start(key, pod), "node": NodeName("a")}
            self._say(ContainerEnded(**about, container_id=ContainerId(pod["metadata"]["uid"]), exit_code=137))

    async def enqueue(self, given: Input, *, actor: str) -> asyncio.Future[InputResult]:
        """Decide, as the input loop does."""
        for event in decide(self.state, given, NOON, Policy()).events:
            self.recorded.append(event)
            self._say(event)
        done: asyncio.Future[InputResult] = asyncio.get_running_loop().create_future()
        done.set_result(InputResult())
        return done

    def lost(self, node: str = "a") -> None:
        """Nothing was heard of the node's worker for too long."""
        self._say(NodeLost(node=NodeName(node), worker_id=WorkerId(node), silent_seconds=15.0))

    def _start(self, key: CheckpointKey, pod: Object) -> IncarnationNumber:
        starts = self.state.keys[key].incarnations.values()
        return next(each.number for each in starts if each.container.pod_uid == pod["metadata"]["uid"])


class Plane:
    """One control plane's eyes and hands on Jobs, between its start and its end."""

    def __init__(self, stage: JobStage) -> None:
        actions = JobActions(stage.cluster, runtime_classes=CLASSES, instance="test", clock=lambda: NOON)
        workers = stage.workers
        self.reconciler = JobReconciler(
            actions, workers, workers.state.keys.get, lambda: workers.state.nodes, cluster="lab", runtime_classes=CLASSES
        )  # fmt: skip
        self._pods = PodCache((), self._tell, runtime_classes=CLASSES, changed=self.reconciler.pod_changed)
        self._stage = stage
        self._changes: asyncio.Queue[tuple[str, Object, bool]] = asyncio.Queue()

    async def _tell(self, *_: object) -> None:
        pass

    async def run(self) -> None:
        """List and watch, and look after Jobs, until cancelled."""
        watch = lambda *change: self._changes.put_nowait(change)  # noqa: E731
        cluster = self._stage.cluster
        cluster.watching.append(watch)
        try:
            pods = [self._pods.keep(_json(pod)) for pod in cluster.pods.values()]
            await self._pods.replaced(dict(each for each in pods if each is not None))
            jobs = [self.reconciler.keep(_json(job)) for job in cluster.jobs.values()]
            await self.reconciler.replaced(dict(each for each in jobs if each is not None))
            async with asyncio.TaskGroup() as group:
                group.create_task(self.reconciler.run())
                group.create_task(self._watch())
        finally:
            cluster.watching.remove(watch)

    async def _watch(self) -> None:
        while True:
            kind, thing, gone = await self._changes.get()
            await asyncio.sleep(0.003)
            if kind == "Pod" and (pod := self._pods.keep(_json(thing))) is not None:
                await self._pods.changed(pod[0], None if gone else pod[1])
            elif kind == "Job" and (job := self.reconciler.keep(_json(thing))) is not None:
                await self.reconciler.changed(job[0], None if gone else job[1])


class JobStage:
    """Everything together."""

    def __init__(self) -> None:
        self.cluster = PlayedCluster()
        self.controller = JobController(self.cluster)
        self.workers = WorkerReports()

    @asynccontextmanager
    async def plane(self) -> AsyncIterator[Plane]:
        """A control plane that leads."""
        plane = Plane(self)
        task = asyncio.create_task(plane.run())
        try:
            yield plane
            assert not task.done(), task.result()
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def job(self, manifest: Object, *, run: bool = True) -> Object:
        """Create a Job and have its pods run."""
        job = self.cluster.create_job(manifest)
        await asyncio.sleep(1)
        if run:
            await self.run_all(job)
        return job

    async def run_all(self, job: Object) -> None:
        """Have those pods run that wait for it."""
        for pod in self.cluster.pods_of(job):
            if pod["status"]["phase"] == "Pending":
                self.run(pod)
        await asyncio.sleep(1)

    def run(self, pod: Object) -> None:
        """Start a pod's containers."""
        self.cluster.run(pod)
        self.workers.started(pod)

    async def preempt(self, pod: Object, *, until: str = "stored", seconds: float = 0.3) -> None:
        """Delete a pod as the scheduler does; its containers are dumped and end, and the kubelet says so."""
        self.cluster.delete(pod, "PreemptionByScheduler")
        await self.stop(pod, until=until, seconds=seconds)

    async def stop(self, pod: Object, *, until: str = "stored", seconds: float = 0.3) -> None:
        """End the containers of a pod that was deleted."""
        if pod["status"]["phase"] == "Running":
            await asyncio.sleep(seconds)
            self.workers.dumped(pod, until=until)
            self.workers.ended(pod)
            self.cluster.exit(pod, 137)
        await asyncio.sleep(0.1)
        self.cluster.leave(pod)


def _json(thing: Object) -> bytes:
    return json.dumps(thing).encode()


def virtually(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test in virtual time."""

    @wraps(test)
    def run(**parameters: Any) -> None:
        in_virtual_time(test(**parameters))

    return run


def ledger(job: Object) -> Object:
    """What stands in the Job's annotation, and how many failures are not the program's own."""
    found: Object = json.loads(job["metadata"]["annotations"][LEDGER])
    return {**found, "captured": job["status"]["failed"] - len(found.get("own", ()))}


async def replaced(stage: JobStage, job: Object, pod: Object, seconds: float = 1.0) -> Object:
    """The pod that took the place of ``pod``; it was there within ``seconds`` and runs now."""
    await asyncio.sleep(seconds)
    uid = pod["metadata"]["uid"]
    found = [each for each in stage.cluster.pods_of(job) if each["metadata"]["annotations"].get(REPLACES) == uid]
    assert len(found) == 1, stage.cluster.pods_of(job)
    stage.run(found[0])
    await asyncio.sleep(1)
    return found[0]
