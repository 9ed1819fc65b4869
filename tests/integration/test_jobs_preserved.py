"""A preemption costs a Job neither a retry nor a pause, and the program's own failures still end it at the user's number."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any

import pytest
from support.job_stage import JobStage, indexed_job, seed_job
from support.played_cluster import INDEX, NOON, Object, condition
from support.virtual_time import in_virtual_time

from controlplane.kube.api import ApiError
from controlplane.kube.jobs.actions import JobActions
from controlplane.kube.jobs.giving_back import give_back
from protocol.events import event_type

LEDGER = "woodfrog.io/job-retries"
REPLACES = "woodfrog.io/replaces"
DISRUPTED = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}


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
async def test_a_replacement_is_what_the_job_controller_would_have_made() -> None:
    stage = JobStage()
    async with stage.plane():
        job = await stage.job(seed_job())
        (pod,) = stage.cluster.pods_of(job)
        await stage.preempt(pod)
        made = await replaced(stage, job, pod)
    template, meta = job["spec"]["template"], made["metadata"]
    assert meta["labels"] == template["metadata"]["labels"]
    assert made["spec"] | {"nodeName": ""} == template["spec"] | {"nodeName": ""}
    assert meta["finalizers"] == ["batch.kubernetes.io/job-tracking"]
    assert meta["ownerReferences"] == [{
        "apiVersion": "batch/v1", "kind": "Job", "name": job["metadata"]["name"], "uid": job["metadata"]["uid"],
        "controller": True, "blockOwnerDeletion": True,
    }]  # fmt: skip
    assert meta["name"].startswith(f"{job['metadata']['name']}-")
    assert len(meta["name"]) == len(job["metadata"]["name"]) + 6


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
async def test_the_replacement_policy_failed_is_respected() -> None:
    stage = JobStage()
    async with stage.plane():
        job = await stage.job(seed_job(podReplacementPolicy="Failed"))
        (pod,) = stage.cluster.pods_of(job)
        stage.cluster.delete(pod)
        await asyncio.sleep(20)
        assert stage.cluster.pods_of(job) == []
        await stage.stop(pod)
        await replaced(stage, job, pod)
        assert ledger(job)["captured"] == 1


@virtually
async def test_an_end_that_a_policy_ignores_is_replaced_at_once_and_entered_nowhere() -> None:
    stage = JobStage()
    async with stage.plane():
        job = await stage.job(seed_job(podFailurePolicy={"rules": [DISRUPTED]}))
        for _ in range(3):
            (pod,) = stage.cluster.pods_of(job)
            await stage.preempt(pod)
            await replaced(stage, job, pod)
        assert job["status"]["failed"] == 0
        assert (ledger(job)["captured"], job["spec"]["backoffLimit"]) == (0, 2)
        (pod,) = stage.cluster.pods_of(job)
        stage.cluster.delete(pod)  # by a person: no DisruptionTarget, so the policy has it counted
        await stage.stop(pod)
        await replaced(stage, job, pod)
        assert (job["status"]["failed"], ledger(job)["captured"]) == (1, 1)


@virtually
async def test_a_policy_that_fails_the_job_is_respected() -> None:
    rule = {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [137]}}
    stage = JobStage()
    async with stage.plane():
        job = await stage.job(seed_job(podFailurePolicy={"rules": [rule]}))
        (pod,) = stage.cluster.pods_of(job)
        await stage.preempt(pod)
        await asyncio.sleep(5)
        assert condition(job, "Failed") == "PodFailurePolicy"
        assert stage.cluster.pods_of(job) == []


@virtually
async def test_each_index_is_replaced_as_itself() -> None:
    stage = JobStage()
    async with stage.plane():
        job = await stage.job(indexed_job(3, backoffLimit=1))
        assert job["spec"]["backoffLimit"] == 1 + 3
        pods = stage.cluster.pods_of(job)
        stage.cluster.exit(pods[0], 0)
        await asyncio.sleep(1)
        for pod in pods[1:]:
            stage.cluster.delete(pod)
        for pod in pods[1:]:
            await stage.stop(pod)
        made = [await replaced(stage, job, pod) for pod in pods[1:]]
        assert len(stage.cluster.pods_of(job)) == 2
        for index, pod in enumerate(made, start=1):
            meta = pod["metadata"]
            assert (meta["annotations"][INDEX], meta["labels"][INDEX]) == (str(index), str(index))
            assert meta["name"].startswith(f"{job['metadata']['name']}-{index}-")
            assert pod["spec"]["hostname"] == f"{job['metadata']['name']}-{index}"
            variable = pod["spec"]["containers"][0]["env"][-1]
            assert variable["name"] == "JOB_COMPLETION_INDEX"
            assert INDEX in variable["valueFrom"]["fieldRef"]["fieldPath"]
        assert (ledger(job)["captured"], condition(job, "Failed")) == (2, None)
        for pod in made:
            stage.cluster.exit(pod, 0)
        await asyncio.sleep(1)
        assert condition(job, "Complete") is not None


@virtually
async def test_an_index_keeps_its_count_of_failures_and_its_last_try_cannot_be_preserved() -> None:
    failures = "batch.kubernetes.io/job-index-failure-count"
    stage = JobStage()
    async with stage.plane():
        job = await stage.job(indexed_job(2, backoffLimitPerIndex=1))
        assert LEDGER not in job["metadata"].get("annotations", {})  # there is no limit for the whole Job
        pod = stage.cluster.pods_of(job)[0]
        for _ in range(3):
            await stage.preempt(pod)
            pod = await replaced(stage, job, pod)
            assert pod["metadata"]["annotations"][failures] == "0"
        stage.cluster.exit(pod, 1)
        await asyncio.sleep(15)
        pod = next(each for each in stage.cluster.pods_of(job) if each["status"]["phase"] == "Pending")
        assert pod["metadata"]["annotations"][failures] == "1"
        stage.run(pod)
        await asyncio.sleep(1)
        await stage.preempt(pod)
        await asyncio.sleep(30)
        assert job["status"]["failedIndexes"] == "0"
        assert len(stage.cluster.pods_of(job)) == 1
        assert stage.cluster.told(job)[-1] == "IndexNotPreserved"


@virtually
async def test_an_index_whose_disruptions_a_policy_ignores_survives_on_its_last_try() -> None:
    stage = JobStage()
    async with stage.plane():
        manifest = indexed_job(1, backoffLimitPerIndex=0, podFailurePolicy={"rules": [DISRUPTED]})
        job = await stage.job(manifest)
        for _ in range(3):
            (pod,) = stage.cluster.pods_of(job)
            await stage.preempt(pod)
            await replaced(stage, job, pod)
        assert job["status"]["failedIndexes"] == ""


@virtually
async def test_restarts_in_place_still_end_a_job_at_the_users_number() -> None:
    manifest = seed_job(backoffLimit=2)
    manifest["spec"]["template"]["spec"]["restartPolicy"] = "OnFailure"
    stage = JobStage()
    async with stage.plane():
        job = await stage.job(manifest)
        for _ in range(3):
            (pod,) = stage.cluster.pods_of(job)
            await stage.preempt(pod)
            pod = await replaced(stage, job, pod)
        stage.cluster.restart(pod)
        await asyncio.sleep(5)
        assert condition(job, "FailureTarget") is None
        stage.cluster.restart(pod)
        await asyncio.sleep(5)
        assert condition(job, "FailureTarget") == "BackoffLimitExceeded"


@virtually
async def test_a_job_that_is_suspended_gets_no_pods_and_its_pods_are_not_held_against_it() -> None:
    stage = JobStage()
    async with stage.plane():
        job = await stage.job(seed_job())
        (pod,) = stage.cluster.pods_of(job)
        job["spec"]["suspend"] = True
        stage.cluster.changed("Job", job)
        await asyncio.sleep(0.1)
        await stage.stop(pod)
        await asyncio.sleep(60)
        assert stage.cluster.pods_of(job) == []
        assert (job["status"]["failed"], ledger(job)["captured"]) == (0, 0)
        job["spec"]["suspend"] = False
        stage.cluster.changed("Job", job)
        await asyncio.sleep(1)
        (pod,) = stage.cluster.pods_of(job)
        assert REPLACES not in pod["metadata"]["annotations"]


@virtually
async def test_a_pod_of_kueues_job_is_left_to_be_made_by_the_job_controller_but_costs_no_retry() -> None:
    manifest = seed_job()
    manifest["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "team-a"}
    stage = JobStage()
    async with stage.plane():
        job = await stage.job(manifest)
        (pod,) = stage.cluster.pods_of(job)
        await stage.preempt(pod)
        await asyncio.sleep(5)
        assert stage.cluster.pods_of(job) == []
        await asyncio.sleep(10)
        assert len(stage.controller.created) == 2
        assert ledger(job)["captured"] == 1


@pytest.mark.parametrize("how", ["managed elsewhere", "unprotected", "not tracked"])
@virtually
async def test_a_job_that_is_not_ours_to_keep_is_left_as_it_is(how: str) -> None:
    manifest = seed_job()
    if how == "managed elsewhere":
        manifest["spec"]["managedBy"] = "kueue.x-k8s.io/multikueue"
    if how == "unprotected":
        del manifest["spec"]["template"]["spec"]["runtimeClassName"]
    stage = JobStage()
    async with stage.plane():
        job = await stage.job(manifest, run=False)
        if how == "not tracked":  # as before Kubernetes 1.26
            for pod in stage.cluster.pods_of(job):
                pod["metadata"]["finalizers"] = []
                stage.cluster.changed("Pod", pod)
            job["metadata"].pop("annotations", None)
            job["spec"]["backoffLimit"] = 1
            stage.cluster.changed("Job", job)
            await asyncio.sleep(5)
        assert LEDGER not in job["metadata"].get("annotations", {})
        assert job["spec"]["backoffLimit"] == 1


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
async def test_a_job_that_is_over_or_being_deleted_gets_nothing() -> None:
    stage = JobStage()
    async with stage.plane():
        job = await stage.job(seed_job())
        (pod,) = stage.cluster.pods_of(job)
        job["metadata"]["deletionTimestamp"] = stage.cluster.stamp()
        stage.cluster.changed("Job", job)
        await stage.preempt(pod)
        await asyncio.sleep(60)
        assert stage.cluster.pods_of(job) == []
        done = await stage.job(seed_job(backoffLimit=4) | {"metadata": {"name": "done"}})
        stage.cluster.exit(stage.cluster.pods_of(done)[0], 0)
        await asyncio.sleep(60)
        assert condition(done, "Complete") is not None
        before = len(stage.cluster.requests)
        await asyncio.sleep(3600)
        assert len(stage.cluster.requests) == before


@virtually
async def test_a_job_whose_time_is_up_ends_and_its_pods_are_not_replaced() -> None:
    stage = JobStage()
    async with stage.plane():
        job = await stage.job(seed_job(activeDeadlineSeconds=60))
        (pod,) = stage.cluster.pods_of(job)
        await stage.preempt(pod)
        pod = await replaced(stage, job, pod)
        await asyncio.sleep(60)
        await stage.stop(pod)
        await asyncio.sleep(5)
        assert condition(job, "Failed") == "DeadlineExceeded"
        assert stage.cluster.told(job) == ["Replaced"]


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
