"""Whatever ends a Job's pods and in whatever order: it ends when its own failures exceed the user's number, and at no other time."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from support.fake_cluster import Object, condition, is_active
from support.job_stage import JobStage, indexed_job, seed_job
from support.virtual_time import in_virtual_time

from controlplane.kube.jobs.models import LEDGER

STEPS = st.lists(
    st.sampled_from(["preempted", "preempted", "evicted", "forced", "lost", "fails", "restart", "away", "back", "second", "waits"]),
    max_size=14,
)  # fmt: skip


class Run:
    """A Job, what was done to it, and what has to hold."""

    def __init__(self, manifest: Object) -> None:
        self.stage = JobStage()
        self.manifest = manifest
        self.limit: int = manifest["spec"]["backoffLimit"]
        self.most: int = manifest["spec"]["parallelism"]
        self.own = 0
        self.planes: list[AsyncExitStack] = []
        self.ends_unseen = 0
        self.problems: list[str] = []

    async def go(self, steps: list[str]) -> None:
        """Do everything, and check after each step."""
        self.stage.cluster.watching.append(self.check)
        await self.start_plane()
        self.job = await self.stage.job(self.manifest)
        for number, step in enumerate(steps):
            await self.do(step, number)
            await asyncio.sleep(3)
            assert not self.problems
            if self.is_over():
                break
        if not self.planes:
            await self.start_plane()
        await asyncio.sleep(3)
        assert self.is_over() == (self.own > self.limit)
        if not self.is_over():
            await self.until_all_run()
            assert len(self.stage.cluster.pods_of(self.job)) == self.most
        assert not self.problems
        await self.stop_planes()

    def check(self, kind: str, thing: Object, gone: bool) -> None:
        """Note what must never be, however briefly."""
        if kind == "Pod" and not gone and sum(map(is_active, self.stage.cluster.pods.values())) > self.most:
            self.problems.append("more pods are active than the Job wants")
        if kind == "Job" and condition(thing, "FailureTarget") is not None and self.own <= self.limit:
            self.problems.append("it ended before its own failures exceeded the user's number")

    def is_over(self) -> bool:
        return condition(self.job, "FailureTarget") is not None

    async def start_plane(self) -> None:
        plane = AsyncExitStack()
        await plane.enter_async_context(self.stage.plane())
        self.planes.append(plane)
        self.ends_unseen = 0

    async def stop_planes(self) -> None:
        while self.planes:
            await self.planes.pop().aclose()

    async def until_all_run(self) -> None:
        """Let the Job controller's pauses pass, and have every pod run."""
        for _ in range(650):
            if self.is_over() or len(self.stage.cluster.pods_of(self.job)) == self.most:
                break
            await asyncio.sleep(1)
        await self.stage.run_all(self.job)

    async def do(self, step: str, number: int) -> None:
        if step in {"away", "restart"}:
            await self.stop_planes()
        if (step in {"restart", "back"} and not self.planes) or (step == "second" and len(self.planes) == 1):
            await self.start_plane()
        if step in {"away", "restart", "back", "second"}:
            return
        await self.until_all_run()
        if step == "waits" or self.is_over():
            return
        if not self.planes:
            # The lead outlasts one end of each pod that runs; what comes after that while nobody is there is not promised.
            if self.ends_unseen:
                return
            self.ends_unseen += 1
        pods = self.stage.cluster.pods_of(self.job)
        await self.end(pods[number % len(pods)], step)

    async def end(self, pod: Object, step: str) -> None:
        cluster, workers = self.stage.cluster, self.stage.workers
        if step == "fails":
            self.own += 1
            workers.ended(pod)
            cluster.exit(pod, 1)
        elif step == "lost":
            if any(
                each.manifest_digest
                for key in workers.keys_of(pod)
                for each in workers.state.keys[key].snapshots.values()
            ):
                return  # there is an earlier snapshot, so its work would not be lost
            # Of a pod that came and was deleted while no control plane ran, nobody can know why: it gets the benefit of the doubt.
            self.own += pod["metadata"]["uid"] in json.loads(self.job["metadata"]["annotations"][LEDGER]).get(
                "open", {}
            )
            await self.stage.preempt(pod, until="failed")
        elif step == "evicted":
            workers.dumped(pod)
            workers.ended(pod)
            pod["status"]["reason"] = "Evicted"
            cluster.exit(pod, 137)
        elif step == "forced":
            workers.dumped(pod, final=False)
            cluster.delete(pod, grace_seconds=0)
            await asyncio.sleep(0.1)
            if pod["metadata"]["uid"] in cluster.pods:  # the Job controller waits for its being terminal
                cluster.exit(pod, 137)
                cluster.leave(pod)
        else:
            await self.stage.preempt(pod)


@settings(deadline=None, max_examples=150)
@given(
    steps=STEPS,
    limit=st.integers(0, 2),
    pods=st.integers(1, 3),
    policy=st.sampled_from(["TerminatingOrFailed", "Failed"]),
)
def test_a_job_ends_exactly_when_its_own_failures_exceed_the_users_number(
    steps: list[str], limit: int, pods: int, policy: str
) -> None:
    spec: dict[str, Any] = {"backoffLimit": limit, "podReplacementPolicy": policy}
    manifest = seed_job(**spec) if pods == 1 else indexed_job(pods, **spec)
    in_virtual_time(Run(manifest).go(steps))
