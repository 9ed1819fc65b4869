"""Which pods are created in place of others, and what they look like."""

from __future__ import annotations

import pytest
from support.jobs import DELETED, KEPT, Log, Object, accounted, by_uid, indexed, job, job_object, job_pod

from controlplane.domain.captures import Capture
from controlplane.kube.jobs.ledger import Seen
from controlplane.kube.jobs.models import INDEX, INDEX_FAILURES, INDEX_IGNORED, TRACKING, Job
from controlplane.kube.jobs.replacement import replacement, to_replace

pytestmark = pytest.mark.timeout(10)

EXITED = {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}}


def chosen(about: Job, *pods: Seen, log: Log = KEPT, refused: tuple[str, ...] = ()) -> list[str]:
    return [each.view.uid for each in to_replace(about, by_uid(*pods), accounted(about, *pods, log=log), refused)]


def test_a_deleted_pod_is_replaced_while_its_dump_is_still_to_come() -> None:
    assert chosen(job(), job_pod("u1", "deleted"), log=Log(u1=Capture.OPEN)) == ["u1"]
    assert chosen(job(), job_pod("u1", "deleted"), log=Log(u1=Capture.LOST)) == []
    assert chosen(job(), job_pod("u1", "deleted"), refused=("u1",)) == []


@pytest.mark.parametrize("stage", ["running", "failed", "succeeded", "pending"])
def test_pods_that_were_not_ended_from_outside_are_not_replaced(stage: str) -> None:
    assert chosen(job(), job_pod("u1", stage)) == []


def test_a_pod_that_never_ran_is_left_to_the_job_controllers_pace() -> None:
    assert chosen(job(), job_pod("u1", "pending", meta=DELETED)) == []


def test_there_are_never_more_than_the_job_wants() -> None:
    two = job({"parallelism": 2, "completions": 5})
    deleted = [job_pod(f"u{number}", "deleted") for number in range(3)]
    assert chosen(two, *deleted) == ["u0", "u1"]
    assert chosen(two, *deleted, job_pod("u8"), job_pod("u9")) == []
    last = job({"parallelism": 2, "completions": 5}, {"succeeded": 4})
    assert chosen(last, *deleted) == ["u0"]
    assert chosen(job(status={"uncountedTerminatedPods": {"succeeded": ["u7"]}}), *deleted) == []


def test_a_work_queue_gets_no_pods_once_one_has_succeeded() -> None:
    queue = {"parallelism": 2, "completions": None}
    assert chosen(job(queue), job_pod("u1", "deleted")) == ["u1"]
    assert chosen(job(queue, {"succeeded": 1}), job_pod("u1", "deleted"), job_pod("u2")) == []


def test_a_success_that_is_not_in_the_status_yet_counts() -> None:
    queue = {"parallelism": 2, "completions": None}
    assert chosen(job(queue), job_pod("u1", "deleted"), job_pod("u2", "succeeded")) == []
    assert chosen(job({"parallelism": 2, "completions": 1}), job_pod("u1", "deleted"), job_pod("u2", "succeeded")) == []
    both = {"uncountedTerminatedPods": {"succeeded": ["u2"]}}
    two = job({"parallelism": 2, "completions": 2}, both)
    assert chosen(two, job_pod("u1", "deleted"), job_pod("u2", "succeeded")) == ["u1"]


def test_a_pod_that_was_deleted_because_the_jobs_time_is_up_is_not_replaced() -> None:
    """Deleted at 12:00:00, as its deletionTimestamp of 12:00:30 and its grace period of 30 s say."""
    began = {"startTime": "2026-11-23T11:50:00Z"}
    assert chosen(job({"activeDeadlineSeconds": 600}, began), job_pod("u1", "deleted")) == []
    assert chosen(job({"activeDeadlineSeconds": 601}, began), job_pod("u1", "deleted")) == ["u1"]


def test_a_pod_that_has_its_replacement_gets_no_second_one() -> None:
    other = job_pod("u2", meta={"annotations": {"woodfrog.io/replaces": "u1"}})
    two = job({"parallelism": 3, "completions": 3})
    assert chosen(two, job_pod("u1", "deleted"), other) == []


@pytest.mark.parametrize("spec", [{"podReplacementPolicy": "Failed"}, {"podFailurePolicy": {"rules": []}}])
def test_where_only_terminal_pods_are_replaced_those_that_still_end_count_as_there(spec: Object) -> None:
    one = job(spec)
    assert chosen(one, job_pod("u1", "deleted")) == []
    assert chosen(one, job_pod("u1", "stopped")) == ["u1"]
    assert chosen(one, job_pod("u1", "stopped"), job_pod("u2", "deleted")) == []


def test_a_suspended_job_or_one_that_others_admit_gets_none() -> None:
    gated = job_object()["spec"]["template"]["spec"] | {"schedulingGates": [{"name": "team/quota"}]}
    grouped = job_object()["spec"]["template"]["spec"] | {"schedulingGroup": {"podGroupName": "g"}}
    deleted = job_pod("u1", "deleted")
    assert chosen(job({"suspend": True}), deleted) == []
    assert chosen(job(labels={"kueue.x-k8s.io/queue-name": "q"}), deleted) == []
    assert chosen(job({"template": {"spec": gated}}), deleted) == []
    assert chosen(job({"template": {"spec": grouped}}), deleted) == []
    assert chosen(job(), job_pod("u1", "deleted", spec={"schedulingGroup": {"podGroupName": "g"}})) == []


def test_an_end_that_fails_the_job_by_its_policy_is_not_replaced() -> None:
    about = job({"podFailurePolicy": {"rules": [EXITED]}})
    assert chosen(about, job_pod("u1", "stopped", code=42)) == []
    assert chosen(about, job_pod("u1", "stopped", code=137)) == ["u1"]


def test_an_index_is_replaced_once_and_not_when_it_is_settled() -> None:
    four = {"completionMode": "Indexed", "completions": 4, "parallelism": 4}
    pods = [indexed(index, f"u{index}", "deleted") for index in range(5)]
    assert chosen(job(four), *pods) == ["u0", "u1", "u2", "u3"]
    assert chosen(job(four), *pods, indexed(2, "u9", "running")) == ["u0", "u1", "u3"]
    assert chosen(job(four, {"succeeded": 2, "completedIndexes": "0-1"}), *pods) == ["u2", "u3"]
    assert chosen(job(four, {"failedIndexes": "0,2-3"}), *pods) == ["u1"]
    assert chosen(job(four), indexed(1, "u1", "deleted"), indexed(1, "u7", "deleted")) == ["u1"]
    assert chosen(job(four), job_pod("u5", "deleted")) == []  # a pod without an index


def test_the_last_try_of_an_index_is_not_replaced() -> None:
    limited = {"completionMode": "Indexed", "completions": 1, "backoffLimitPerIndex": 1, "backoffLimit": None}
    assert chosen(job(limited), indexed(0, "u1", "deleted", **{INDEX_FAILURES: "0"})) == ["u1"]
    assert chosen(job(limited), indexed(0, "u1", "deleted", **{INDEX_FAILURES: "1"})) == []


def test_a_replacement_carries_the_index_and_its_counts() -> None:
    about = job_object({"completionMode": "Indexed", "completions": 3, "backoffLimitPerIndex": 2})
    about["metadata"]["name"] = "a-name-that-is-much-longer-than-the-names-of-pods-may-be-in-all"
    made = replacement(about, indexed(2, "u1", "deleted", **{INDEX_FAILURES: "1", INDEX_IGNORED: "4"}))
    meta = made["metadata"]
    assert meta["annotations"] == {INDEX: "2", INDEX_FAILURES: "1", INDEX_IGNORED: "4", "woodfrog.io/replaces": "u1"}
    assert meta["labels"] == {INDEX: "2"}
    assert len(meta["name"]) == 63
    assert meta["name"][:-5].endswith("-2-")
    assert made["spec"]["hostname"] == f"{about['metadata']['name']}-2"
    assert [each["name"] for each in made["spec"]["containers"][0]["env"]] == [
        "CEDANA_CHECKPOINT",
        "JOB_COMPLETION_INDEX",
    ]
    assert "hostname" not in about["spec"]["template"]["spec"]


def test_a_variable_of_the_users_own_with_the_indexs_name_stays() -> None:
    about = job_object({"completionMode": "Indexed", "completions": 3})
    own = {"name": "JOB_COMPLETION_INDEX", "value": "mine"}
    about["spec"]["template"]["spec"]["containers"][0]["env"] = [own]
    assert replacement(about, indexed(2, "u1", "deleted"))["spec"]["containers"][0]["env"] == [own]


def test_the_name_follows_from_the_pod_that_is_replaced() -> None:
    names = {replacement(job_object(), job_pod(uid, "deleted"))["metadata"]["name"] for uid in ("u1", "u2", "u1")}
    assert len(names) == 2
    template = {
        "metadata": {"finalizers": ["example.com/own", TRACKING], "labels": {"app": "x"}},
        "spec": {"containers": []},
    }
    made = replacement(job_object({"template": template}), job_pod())["metadata"]
    assert (made["finalizers"], made["labels"]) == (["example.com/own", TRACKING], {"app": "x"})
