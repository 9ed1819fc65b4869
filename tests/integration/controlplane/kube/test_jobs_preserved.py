"""A preemption costs a Job neither a retry nor a pause, and the program's own failures still end it at the user's number."""

from __future__ import annotations

import asyncio

import pytest
from support.fake_cluster import NOON, Object, condition
from support.job_stage import LEDGER, REPLACES, JobStage, ledger, replaced, seed_job, virtually

from controlplane.kube.api import ApiError
from controlplane.kube.jobs.actions import JobActions
from controlplane.kube.jobs.limit_reset import give_back
from woodfrog.protocol.events import event_type


@virtually
async def test_the_missions_job_survives_ten_preemptions_and_still_ends_at_its_second_own_failure() -> None:
    stage = JobStage()
    async with stage.plane():
        job = await stage.job(seed_job())
        (pod,) = stage.cluster.pods_of(job)
        for _ in range(10):
            stage.cluster.delete(pod, "PreemptionByScheduler")
            next_pod = asyncio.create_task(replaced(stage, job, pod))
            await stage.stop(pod)
            pod = await next_pod
            assert len(stage.cluster.pods_of(job)) == 1
        assert job["status"]["failed"] == 10
        assert len(stage.controller.created) == 1  # none but the first
        assert (ledger(job)["limit"], ledger(job)["captured"]) == (1, 10)
        assert job["spec"]["backoffLimit"] == 1 + 10 + 1
        stage.cluster.exit(pod, 1)
        await asyncio.sleep(3600)
        (pod,) = stage.cluster.pods_of(job)
        assert REPLACES not in pod["metadata"]["annotations"]
        stage.run(pod)
        await asyncio.sleep(1)
        stage.cluster.exit(pod, 1)
        await asyncio.sleep(5)
        assert condition(job, "Failed") == "BackoffLimitExceeded"
        assert job["spec"]["backoffLimit"] == 1 + 10
        assert stage.cluster.told(job).count("Replaced") == 10
        assert "RetriesUsedUp" in stage.cluster.told(job)


@virtually
async def test_failures_of_its_own_pause_as_they_did_before() -> None:
    stage = JobStage()
    async with stage.plane():
        job = await stage.job(seed_job(backoffLimit=2))
        for pause in (10, 20):
            failed_at = asyncio.get_running_loop().time()
            stage.cluster.exit(stage.cluster.pods_of(job)[0], 1)
            await asyncio.sleep(30)
            assert stage.controller.created[-1][0] - failed_at == pytest.approx(pause, abs=0.1)
            await stage.run_all(job)
        stage.cluster.exit(stage.cluster.pods_of(job)[0], 1)
        await asyncio.sleep(5)
        assert condition(job, "Failed") == "BackoffLimitExceeded"
        assert stage.cluster.told(job) == ["RetriesUsedUp"]
        assert job["status"]["failed"] == 3


@pytest.mark.parametrize(
    ("end", "counts"),
    [
        ("stored", False),
        ("captured", False),
        ("failed", True),
        ("never run", False),
    ],
)
@virtually
async def test_a_deletion_counts_as_the_programs_own_failure_only_if_its_work_is_lost(end: str, counts: bool) -> None:
    stage = JobStage()
    async with stage.plane():
        job = await stage.job(seed_job(backoffLimit=3), run=end != "never run")
        (pod,) = stage.cluster.pods_of(job)
        await stage.preempt(pod, until=end)
        await asyncio.sleep(5)
        assert ledger(job)["limit"] == 3
        assert ledger(job)["captured"] == (0 if counts else 1)
        assert ("NotCaptured" in stage.cluster.told(job)) == counts
        recorded = [event_type(event) for event in stage.workers.recorded]
        assert recorded == [] if end == "never run" else ["pod.replaced"] + ["pod.end-counted"] * counts
        # Never run: at the Job controller's pace, so that whatever deletes pods at once is not fought with.
        assert len(stage.cluster.pods_of(job)) == (0 if end == "never run" else 1)


@virtually
async def test_a_dump_that_fails_after_the_replacement_was_made_ends_a_job_without_retries() -> None:
    stage = JobStage()
    async with stage.plane():
        job = await stage.job(seed_job(backoffLimit=0))
        (pod,) = stage.cluster.pods_of(job)
        stage.cluster.delete(pod)
        await asyncio.sleep(1)
        assert len(stage.cluster.pods_of(job)) == 1
        await stage.stop(pod, until="failed")
        await asyncio.sleep(5)
        for left in stage.cluster.pods_of(job, active=False):
            stage.cluster.leave(left)
        await asyncio.sleep(5)
        assert condition(job, "Failed") == "BackoffLimitExceeded"


@virtually
async def test_a_lost_node_is_no_failure_if_an_earlier_snapshot_is_there() -> None:
    stage = JobStage()
    async with stage.plane():
        job = await stage.job(seed_job())
        (pod,) = stage.cluster.pods_of(job)
        stage.workers.dumped(pod, final=False)
        stage.workers.lost()
        stage.cluster.delete(pod, "DeletionByTaintManager")
        made = await replaced(stage, job, pod)
        stage.cluster.leave(pod)  # days later, by whoever cleans up
        await asyncio.sleep(1)
        assert ledger(job)["captured"] == 1
        stage.workers.lost()
        assert stage.cluster.pods_of(job) == [made]


@virtually
async def test_a_pod_deleted_by_force_is_replaced_although_it_is_gone_at_once() -> None:
    stage = JobStage()
    async with stage.plane():
        job = await stage.job(seed_job())
        (pod,) = stage.cluster.pods_of(job)
        stage.workers.dumped(pod, final=False)
        stage.cluster.delete(pod, grace_seconds=0)
        await replaced(stage, job, pod)
        assert pod["metadata"]["uid"] not in stage.cluster.pods
        assert ledger(job)["captured"] == 1


@virtually
async def test_a_pod_that_the_kubelet_evicts_is_replaced_without_having_been_deleted() -> None:
    stage = JobStage()
    async with stage.plane():
        job = await stage.job(seed_job())
        (pod,) = stage.cluster.pods_of(job)
        stage.workers.dumped(pod)
        stage.workers.ended(pod)
        pod["status"]["reason"] = "Evicted"
        stage.cluster.exit(pod, 137)
        await replaced(stage, job, pod)
        assert ledger(job)["captured"] == 1


@virtually
async def test_a_control_plane_that_is_away_costs_the_pause_and_nothing_else() -> None:
    stage = JobStage()
    async with stage.plane():
        job = await stage.job(seed_job())
    for _ in range(2):
        (pod,) = stage.cluster.pods_of(job)
        await stage.preempt(pod)
        await asyncio.sleep(30)
        assert condition(job, "Failed") is None
        assert len(stage.cluster.pods_of(job)) == 1  # the Job controller's own
        await stage.run_all(job)
        async with stage.plane():
            await asyncio.sleep(5)
    assert (ledger(job)["captured"], job["spec"]["backoffLimit"]) == (2, 1 + 2 + 1)
    assert len(stage.controller.created) == 3


@virtually
async def test_a_control_plane_that_comes_back_during_the_pause_replaces_at_once() -> None:
    stage = JobStage()
    async with stage.plane():
        job = await stage.job(seed_job())
        (pod,) = stage.cluster.pods_of(job)
    stage.cluster.delete(pod)
    await asyncio.sleep(4)
    async with stage.plane():
        await replaced(stage, job, pod)


@virtually
async def test_an_own_failure_while_the_control_plane_is_away_is_counted_when_it_is_back() -> None:
    stage = JobStage()
    async with stage.plane():
        job = await stage.job(seed_job(backoffLimit=0))
    (pod,) = stage.cluster.pods_of(job)
    stage.cluster.exit(pod, 1)
    await asyncio.sleep(60)
    await stage.run_all(job)
    assert condition(job, "Failed") is None
    async with stage.plane():
        await asyncio.sleep(5)
        for left in stage.cluster.pods_of(job, active=False):
            stage.cluster.leave(left)
        await asyncio.sleep(5)
    assert condition(job, "Failed") == "BackoffLimitExceeded"


@virtually
async def test_two_control_planes_at_once_make_one_replacement_and_enter_an_end_once() -> None:
    stage = JobStage()
    async with stage.plane(), stage.plane():
        job = await stage.job(seed_job())
        (pod,) = stage.cluster.pods_of(job)
        for turn in range(1, 4):
            stage.cluster.delete(pod)
            next_pod = asyncio.create_task(replaced(stage, job, pod))
            await stage.stop(pod)
            pod = await next_pod
            await asyncio.sleep(2)
            assert (job["status"]["failed"], ledger(job)["captured"]) == (turn, turn)
            assert len(stage.cluster.pods_of(job, active=False)) == 1


@virtually
async def test_the_number_that_a_user_sets_meanwhile_is_the_users_number() -> None:
    stage = JobStage()
    async with stage.plane():
        job = await stage.job(seed_job())
        (pod,) = stage.cluster.pods_of(job)
        await stage.preempt(pod)
        await replaced(stage, job, pod)
        assert job["spec"]["backoffLimit"] == 3
        job["spec"]["backoffLimit"] = 5
        stage.cluster.changed("Job", job)
        await asyncio.sleep(2)
        assert (ledger(job)["limit"], job["spec"]["backoffLimit"]) == (5, 5 + 1 + 1)


@virtually
async def test_a_refused_pod_is_tried_twice_and_then_left_to_the_job_controller() -> None:
    stage = JobStage()
    stage.cluster.admission = lambda _pod: ApiError(403, "exceeded quota: gpus", reason="Forbidden")
    async with stage.plane():
        job = await stage.job(seed_job())
        (pod,) = stage.cluster.pods_of(job)
        stage.cluster.delete(pod)
        await asyncio.sleep(5)
        await stage.stop(pod)
        await asyncio.sleep(20)
        asked = [each for each in stage.cluster.requests if each == ("POST", "/api/v1/namespaces/default/pods")]
        assert len(asked) == 2  # while the old pod still took up the quota, and after
        assert stage.cluster.told(job) == ["ReplacementRefused"] * 2
        assert len(stage.controller.created) == 2
        assert ledger(job)["captured"] == 1
        told = [each for each in stage.cluster.events if each["regarding"]["kind"] == "Pod"]
        assert "exceeded quota" in told[0]["note"]


@virtually
async def test_an_api_server_that_is_away_for_a_moment_is_asked_again() -> None:
    stage = JobStage()
    async with stage.plane():
        job = await stage.job(seed_job())
        (pod,) = stage.cluster.pods_of(job)
        stage.cluster.away = True
        stage.cluster.delete(pod)
        await asyncio.sleep(4)
        stage.cluster.away = False
        await replaced(stage, job, pod, seconds=2)
        assert len(stage.controller.created) == 1


@virtually
async def test_the_users_numbers_are_put_back_with_what_was_not_their_programs_failure() -> None:
    stage = JobStage()
    async with stage.plane():
        over = await stage.job(seed_job() | {"metadata": {"name": "over"}})
        stage.cluster.exit(stage.cluster.pods_of(over)[0], 0)
        untouched = await stage.job(seed_job(managedBy="example.com/own") | {"metadata": {"name": "untouched"}})
        job = await stage.job(seed_job())
        (pod,) = stage.cluster.pods_of(job)
        await stage.preempt(pod)
        pod = await replaced(stage, job, pod)
        await asyncio.sleep(2)
    actions = JobActions(stage.cluster, runtime_classes=(), instance="test", clock=lambda: NOON)
    changing = asyncio.create_task(give_back(stage.cluster, actions))
    await asyncio.sleep(0.012)  # listed and not yet patched: the first try meets a newer version
    stage.cluster.changed("Job", job)
    assert await changing == 1
    assert (job["spec"]["backoffLimit"], LEDGER in job["metadata"]["annotations"]) == (1 + 1, False)
    assert over["spec"]["backoffLimit"] == 2
    assert untouched["spec"]["backoffLimit"] == 1
    assert [each for each in stage.cluster.requests if each[0] == "PATCH"][-2:] == [
        ("PATCH", "/apis/batch/v1/namespaces/default/jobs/cuda-vector-add-job")
    ] * 2
    stage.cluster.exit(pod, 1)
    await asyncio.sleep(3600)
    assert condition(job, "Failed") is None  # one own failure is allowed, as it was


@virtually
async def test_a_pod_that_the_job_controller_creates_at_the_same_moment_is_one_too_many_and_counts_nowhere() -> None:
    stage = JobStage()
    async with stage.plane():
        job = await stage.job(seed_job())
        (pod,) = stage.cluster.pods_of(job)

        def meanwhile(made: Object) -> None:
            stage.cluster.admission = lambda _: None
            meta = {name: value for name, value in made["metadata"].items() if name not in {"name", "annotations"}}
            stage.cluster.create_pod({**made, "metadata": {**meta, "generateName": "x-", "annotations": {}}})

        stage.cluster.admission = meanwhile
        await stage.preempt(pod)
        await asyncio.sleep(5)
        (left,) = stage.cluster.pods_of(job)
        assert (job["status"]["failed"], ledger(job).get("own")) == (1, None)
        stage.run(left)
        await asyncio.sleep(60)
        assert stage.cluster.pods_of(job) == [left]
        assert job["spec"]["backoffLimit"] == 1 + 1 + 1
