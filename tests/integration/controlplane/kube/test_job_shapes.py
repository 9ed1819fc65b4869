"""Every kind of Job that Kubernetes has is preserved by its own rules, or left to whoever looks after it."""

from __future__ import annotations

import asyncio

import pytest
from support.fake_cluster import INDEX, condition
from support.job_stage import LEDGER, REPLACES, JobStage, indexed_job, ledger, replaced, seed_job, virtually

DISRUPTED = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}


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
async def test_a_replacement_has_what_newer_templates_hold_and_what_was_resized_in_place_is_the_templates() -> None:
    manifest = seed_job()
    spec = manifest["spec"]["template"]["spec"]
    spec["hostUsers"] = True
    spec["initContainers"].append({"name": "proxy", "image": "proxy:1", "restartPolicy": "Always", "startupProbe": {}})
    spec["resourceClaims"] = [{"name": "gpu", "resourceClaimTemplateName": "gpu"}]
    spec["volumes"] = [*spec.get("volumes", ()), {"name": "model", "image": {"reference": "registry.local/model:1"}}]
    main = spec["containers"][0]
    main["resources"] = {"claims": [{"name": "gpu"}], "limits": {"memory": "1Gi"}}
    main["resizePolicy"] = [{"resourceName": "memory", "restartPolicy": "NotRequired"}]
    stage = JobStage()
    async with stage.plane():
        job = await stage.job(manifest)
        (pod,) = stage.cluster.pods_of(job)
        pod["spec"]["containers"][0]["resources"]["limits"]["memory"] = "2Gi"
        stage.cluster.changed("Pod", pod)
        await stage.preempt(pod)
        made = await replaced(stage, job, pod)
    assert made["spec"] | {"nodeName": ""} == spec | {"nodeName": ""}
    assert made["spec"]["containers"][0]["resources"]["limits"]["memory"] == "1Gi"
    assert job["status"]["failed"] < job["spec"]["backoffLimit"]


@virtually
async def test_a_pod_behind_a_scheduling_gate_is_left_to_be_made_by_the_job_controller_but_costs_no_retry() -> None:
    manifest = seed_job()
    manifest["spec"]["template"]["spec"]["schedulingGates"] = [{"name": "team/quota"}]
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
async def test_a_job_of_a_jobset_is_a_job_like_any_other() -> None:
    manifest = seed_job(backoffLimit=0)
    manifest["metadata"]["ownerReferences"] = [
        {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "name": "set", "uid": "s1", "controller": True}
    ]
    manifest["spec"]["template"]["metadata"]["labels"]["jobset.sigs.k8s.io/restart-attempt"] = "0"
    stage = JobStage()
    async with stage.plane():
        job = await stage.job(manifest)
        (pod,) = stage.cluster.pods_of(job)
        await stage.preempt(pod)
        made = await replaced(stage, job, pod)
        assert made["metadata"]["labels"]["jobset.sigs.k8s.io/restart-attempt"] == "0"
        assert condition(job, "Failed") is None
