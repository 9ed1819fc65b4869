"""The played Job controller does what a real one was measured to do on Kubernetes 1.36.2, and what its documentation says."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from support.fake_cluster import Object, PlayedCluster, condition
from support.job_controller import JobController
from support.virtual_time import in_virtual_time

DISRUPTED = {"rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]}


class Plain:
    """A cluster without Woodfrog, and one Job on it."""

    def __init__(self, **spec: Any) -> None:
        self.cluster = PlayedCluster()
        self.controller = JobController(self.cluster)
        template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "main"}]}}
        manifest = {"metadata": {"name": "plain"}, "spec": {"completions": 1, "template": template, **spec}}
        self.job = self.cluster.create_job(manifest)

    @property
    def status(self) -> Object:
        return dict(self.job["status"])

    async def pod(self) -> Object:
        """The next pod, running."""
        for _ in range(7000):
            if found := self.cluster.pods_of(self.job):
                self.cluster.run(found[0])
                return found[0]
            await asyncio.sleep(0.1)
        raise AssertionError("no pod came")

    async def preempt(self, pod: Object, disruption: str = "") -> None:
        self.cluster.delete(pod, disruption)
        await asyncio.sleep(0.5)
        self.cluster.exit(pod, 137)
        self.cluster.leave(pod)

    def pauses(self) -> list[int]:
        return [round(later - earlier) for (earlier, _), (later, _) in pairwise(self.controller.created)]


def test_a_plain_job_is_replaced_after_10_20_40_and_80_seconds_and_every_deletion_is_a_failure() -> None:
    async def main() -> None:
        plain, failed = Plain(), []
        for _ in range(4):
            await plain.preempt(await plain.pod())
            failed.append(plain.status["failed"])
        await plain.pod()
        assert failed == [1, 2, 3, 4]
        assert plain.pauses() == [10, 20, 40, 80]

    in_virtual_time(main())


def test_a_backoff_limit_of_one_ends_the_job_at_the_second_deletion() -> None:
    async def main() -> None:
        plain = Plain(backoffLimit=1)
        await plain.preempt(await plain.pod())
        assert condition(plain.job, "Failed") is None
        await plain.preempt(await plain.pod())
        await asyncio.sleep(1)
        assert condition(plain.job, "Failed") == "BackoffLimitExceeded"

    in_virtual_time(main())


def test_a_policy_that_ignores_disruptions_counts_nothing_and_pauses_all_the_same() -> None:
    async def main() -> None:
        plain = Plain(podFailurePolicy=DISRUPTED)
        for _ in range(3):
            await plain.preempt(await plain.pod(), "EvictionByEvictionAPI")
        await plain.pod()
        assert plain.status["failed"] == 0
        assert plain.pauses() == pytest.approx([10, 20, 41], abs=1)

    in_virtual_time(main())


def test_suspending_and_resuming_resets_nothing() -> None:
    async def main() -> None:
        plain = Plain()
        for _ in range(3):
            await plain.preempt(await plain.pod())
            for suspend in (True, False):
                plain.job["spec"]["suspend"] = suspend
                plain.cluster.changed("Job", plain.job)
                await asyncio.sleep(1)
        await plain.pod()
        assert plain.pauses() == pytest.approx([10, 20, 40], abs=1)

    in_virtual_time(main())


def test_a_pod_of_the_jobs_own_template_is_adopted_and_the_limit_can_be_raised_while_it_runs() -> None:
    async def main() -> None:
        plain = Plain(backoffLimit=1)
        pod = await plain.pod()
        for deletion in range(1, 5):
            plain.job["spec"]["backoffLimit"] = 1 + deletion
            plain.cluster.changed("Job", plain.job)
            await asyncio.sleep(0.1)
            plain.cluster.delete(pod)
            template = plain.job["spec"]["template"]
            owner = {**pod["metadata"]["ownerReferences"][0]}
            made = plain.cluster.create_pod({
                "metadata": {
                    "generateName": "plain-", "namespace": "default", "labels": template["metadata"]["labels"],
                    "finalizers": ["batch.kubernetes.io/job-tracking"], "ownerReferences": [owner],
                },
                "spec": template["spec"],
            })  # fmt: skip
            await asyncio.sleep(0.5)
            plain.cluster.exit(pod, 137)
            plain.cluster.leave(pod)
            plain.cluster.run(made)
            await asyncio.sleep(100)
            assert (plain.status["failed"], plain.status["active"]) == (deletion, 1)
            pod = made
        assert len(plain.controller.created) == 1
        assert condition(plain.job, "Failed") is None
        plain.cluster.exit(pod, 0)
        await asyncio.sleep(1)
        assert condition(plain.job, "Complete") is not None

    in_virtual_time(main())


def test_the_pause_grows_to_ten_minutes_and_a_success_ends_it() -> None:
    async def main() -> None:
        plain = Plain(backoffLimit=100, completions=2)
        for _ in range(8):
            await plain.preempt(await plain.pod())
        plain.cluster.exit(await plain.pod(), 0)
        await plain.preempt(await plain.pod())
        await plain.pod()
        assert plain.pauses() == [10, 20, 40, 80, 160, 320, 600, 600, 0, 10]

    in_virtual_time(main())


def test_with_the_replacement_policy_failed_a_pod_counts_and_is_replaced_once_it_is_terminal() -> None:
    async def main() -> None:
        plain = Plain(podReplacementPolicy="Failed")
        pod = await plain.pod()
        plain.cluster.delete(pod)
        await asyncio.sleep(25)
        assert (plain.status["failed"], plain.cluster.pods_of(plain.job)) == (0, [])
        plain.cluster.exit(pod, 137)
        plain.cluster.leave(pod)
        await asyncio.sleep(1)
        assert plain.status["failed"] == 1
        await plain.pod()
        assert plain.pauses() == pytest.approx([35], abs=1)

    in_virtual_time(main())


def test_each_index_has_its_own_limit_and_pause_and_the_count_is_carried_on() -> None:
    async def main() -> None:
        plain = Plain(completionMode="Indexed", completions=2, parallelism=2, backoffLimitPerIndex=1)
        await asyncio.sleep(1)
        for pod in plain.cluster.pods_of(plain.job):
            plain.cluster.run(pod)
        first = plain.cluster.pods_of(plain.job)[0]
        assert (first["spec"]["hostname"], first["metadata"]["name"][:8]) == ("plain-0", "plain-0-")
        plain.cluster.exit(first, 1)
        await asyncio.sleep(11)
        again = plain.cluster.pods_of(plain.job)[-1]
        assert again["metadata"]["annotations"]["batch.kubernetes.io/job-index-failure-count"] == "1"
        plain.cluster.run(again)
        plain.cluster.exit(again, 1)
        await asyncio.sleep(100)
        assert plain.status["failedIndexes"] == "0"
        assert condition(plain.job, "Failed") is None
        plain.cluster.exit(plain.cluster.pods_of(plain.job)[0], 0)
        await asyncio.sleep(1)
        assert condition(plain.job, "Failed") == "FailedIndexes"

    in_virtual_time(main())


def test_pods_that_are_too_many_or_suspended_are_taken_away_without_being_counted() -> None:
    async def main() -> None:
        plain = Plain(completions=4, parallelism=3)
        await asyncio.sleep(1)
        plain.job["spec"]["parallelism"] = 1
        plain.cluster.changed("Job", plain.job)
        await asyncio.sleep(1)
        assert (len(plain.cluster.pods_of(plain.job)), plain.status["failed"]) == (1, 0)
        plain.job["spec"]["suspend"] = True
        plain.cluster.changed("Job", plain.job)
        await asyncio.sleep(1)
        assert (plain.cluster.pods_of(plain.job), plain.status["failed"]) == ([], 0)

    in_virtual_time(main())
