"""Each scheduler of the examples takes its pods away and makes them again; every container goes on where it was.

The manifests are those of ``examples``, as they stand. The schedulers are played (:mod:`support.scheduler_scenarios`): each does with pods what
its code says it does, and the READMEs of the examples say which part was real. They act at the same time: first everything
runs on one node, then everybody takes away what they have there, and gives it back on the other.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
from kubernetes_asyncio import client
from support.install import Installation
from support.kube import Cluster, CommandFailedError, Object, until
from support.scheduler_scenarios import PLAYS, Play, Stage
from support.seed import broken_at

pytestmark = pytest.mark.timeout(420)


class Performance:
    """What became of each play: its pods before and after, by id, and how many steps each container had done."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.plays = {each: each(stage) for each in PLAYS}
        self.before = self._until_up({})
        self.done = {
            each: {name: until(lambda pod=pod: _steps(stage, pod, 20), 60, f"{name} works") for name, pod in pods.items()}
            for each, pods in self.before.items()
        }  # fmt: skip

    def interrupted(self) -> None:
        """Let every scheduler take its pods away and give them back."""
        for each, pods in self.before.items():
            self.done[each] = {name: _steps(self.stage, pod, 0) for name, pod in pods.items()}
            self.plays[each].interrupt()
        self.after = self._until_up(
            {each: {pod["metadata"]["uid"] for pod in pods.values()} for each, pods in self.before.items()}
        )

    def _until_up(self, but: dict[type[Play], set[str]]) -> dict[type[Play], dict[str, Object]]:
        """Tick until all run, or no more than 150 s; those that do not run by then are left out."""
        found: dict[type[Play], dict[str, Object]] = {}
        deadline = time.monotonic() + 150
        while len(found) < len(self.plays) and time.monotonic() < deadline:
            for each, play in self.plays.items():
                if each not in found:
                    try:
                        play.tick()
                        if pods := play.up(but.get(each, set())):
                            found[each] = pods
                    except (CommandFailedError, client.ApiException) as again:
                        print(again)  # a pod went meanwhile, or the like: controllers try again, too
        return found


def _steps(stage: Stage, pod: Object, least: int) -> int | None:
    steps = stage.log(pod).count("\n")
    return steps if steps >= least else None


def _gpus(count: int) -> str:
    return json.dumps({"status": {kind: {"nvidia.com/gpu": str(count)} for kind in ("capacity", "allocatable")}})


@pytest.fixture(scope="module")
def performance(cluster: Cluster, woodfrog: Installation) -> Iterator[Performance]:
    """The whole of it, once."""
    stage = Stage(cluster)
    for node in cluster.nodes():
        cluster.kubectl("patch", "node", node, "--subresource=status", "-p", _gpus(16))
        if node != stage.first:
            cluster.kubectl("cordon", node)
    try:
        made = Performance(stage)
        cluster.kubectl("uncordon", stage.second)
        cluster.kubectl("cordon", stage.first)
        made.interrupted()
        yield made
    finally:
        for node in cluster.nodes():
            cluster.kubectl("uncordon", node)
            cluster.kubectl("patch", "node", node, "--subresource=status", "-p", _gpus(1))
        cluster.kubectl("delete", "jobs,pods", "--all", "-n", stage.namespace, "--grace-period=1", "--wait=false")
        cluster.delete("namespace", stage.namespace)


@pytest.mark.parametrize("play", PLAYS, ids=lambda play: play.__name__)
def test_what_a_scheduler_takes_away_and_gives_back_goes_on(
    performance: Performance, woodfrog: Installation, play: type[Play]
) -> None:
    stage = performance.stage
    assert play in performance.before, "it never ran"
    assert play in performance.after, "its pods did not come back"
    for name, pod in performance.after[play].items():
        done = performance.done[play][name]
        until(lambda pod=pod, done=done: _steps(stage, pod, done + 10), 60, f"{name} goes on beyond step {done}")
        assert broken_at(stage.log(pod)) is None
        assert (performance.before[play][name]["spec"]["nodeName"], pod["spec"]["nodeName"]) == (
            stage.first,
            stage.second,
        )
        why = woodfrog.ask("why", name, "-n", stage.namespace)
        assert (why["choice"], why["incarnation"]) == ("restored", 2)
