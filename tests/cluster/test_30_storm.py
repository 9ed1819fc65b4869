"""Twenty Jobs on two nodes that are drained back and forth: every counter continuous, no pod stuck, the log sound."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest
from support.install import Installation
from support.kube import Cluster, running, until
from support.seed import SeedJob, broken_at
from support.time_scale import limit

SECONDS = float(os.environ.get("WOODFROG_E2E_STORM_SECONDS", "600"))
JOBS = 20

pytestmark = pytest.mark.timeout(SECONDS + 900)


@pytest.fixture
def jobs(cluster: Cluster, woodfrog: Installation) -> Iterator[list[SeedJob]]:
    made = [SeedJob(cluster, f"storm-{number}") for number in range(JOBS)]
    for job in made:
        del job.manifest["spec"]["template"]["spec"]["containers"][0][
            "resources"
        ]  # twenty GPUs are more than there are
        job.manifest["spec"]["backoffLimit"] = 1000
        job.apply()
    for job in made:
        job.runs(240)
    yield made
    for job in made:
        job.remove()


def test_drained_back_and_forth_no_counter_breaks(
    cluster: Cluster, woodfrog: Installation, jobs: list[SeedJob]
) -> None:
    nodes = cluster.nodes()[:2]
    steps = {job.name: 0 for job in jobs}
    until_time = time.monotonic() + SECONDS
    rounds = 0
    while time.monotonic() < until_time or rounds < 2:
        leaving, staying = nodes[rounds % 2], nodes[(rounds + 1) % 2]
        cluster.kubectl("uncordon", staying)
        cluster.kubectl("drain", leaving, "--ignore-daemonsets", "--delete-emptydir-data", "--force",
                        "--pod-selector", "job-name", limit(240), seconds=250)  # fmt: skip
        for job in jobs:
            job.runs(240)
            log = until(lambda job=job: _beyond(job, steps[job.name]), 120, f"{job.name} goes on")
            assert broken_at(log) is None, f"round {rounds}: {job.name}: {broken_at(log)}\n{job.told()}"
            steps[job.name] = log.count("\n")
            assert job.node == staying
        rounds += 1
    for job in jobs:
        assert len(running(job.pods())) == 1
        story = woodfrog.ask("why", job.name)
        assert story["choice"] == "restored"
        assert story["incarnation"] >= rounds
    assert "sound" in woodfrog.say("log", "verify", seconds=120)
    print(f"{rounds} rounds, {sum(steps.values())} steps")


def _beyond(job: SeedJob, steps: int) -> str | None:
    log = job.log()
    return log if log.count("\n") > steps else None
