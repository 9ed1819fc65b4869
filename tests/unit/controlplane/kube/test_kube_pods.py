"""What is concluded from a pod, from a node and from Events, each as releases from 1.20 on write them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from support.pods import CLASSES, node, pod, read, read_node, seen, status_of, with_env

from controlplane.kube import node_conditions
from controlplane.kube.env_expansion import checkpoint_ids, expand
from controlplane.kube.eviction_causes import cause_in
from controlplane.kube.models import Event, Involved
from controlplane.kube.pod_diff import happened, told, view
from woodfrog.protocol.pods import CheckpointWanted, Ended, EndedBecause, Gone, Owner, Scheduled, Terminating, Why

pytestmark = pytest.mark.timeout(5)

DELETED = {"deletionTimestamp": "2026-11-23T12:00:30Z", "deletionGracePeriodSeconds": 30}


def ids(*env: dict[str, Any], **changes: Any) -> dict[str, str]:
    return checkpoint_ids(read(with_env(*env, **changes)))


def target(reason: str, message: str = "") -> dict[str, Any]:
    condition = {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message}
    return {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}, condition]}


def why(written: dict[str, Any], *cordoned: str) -> Why:
    terminating = seen(written, *cordoned).terminating
    assert terminating is not None
    return terminating.why


class TestCheckpointIds:
    def test_a_plain_value_is_the_id(self) -> None:
        assert ids({"name": "CEDANA_CHECKPOINT", "value": "train-7"}) == {"main": "train-7"}

    def test_a_container_without_the_variable_or_with_an_empty_one_has_none(self) -> None:
        assert ids({"name": "OTHER", "value": "x"}) == {}
        assert ids({"name": "CEDANA_CHECKPOINT"}) == {}

    def test_variables_that_came_before_are_put_in_as_the_kubelet_does(self) -> None:
        env = ({"name": "JOB", "value": "a"}, {"name": "CEDANA_CHECKPOINT", "value": "$(JOB)-x"})
        assert ids(*env) == {"main": "a-x"}

    def test_the_index_of_an_indexed_job_is_put_in_though_it_is_declared_behind(self) -> None:
        index = {
            "name": "JOB_COMPLETION_INDEX",
            "valueFrom": {
                "fieldRef": {"fieldPath": "metadata.annotations['batch.kubernetes.io/job-completion-index']"}
            },
        }
        assert ids(
            {"name": "CEDANA_CHECKPOINT", "value": "train-$(JOB_COMPLETION_INDEX)"},
            index,
            meta={"annotations": {"batch.kubernetes.io/job-completion-index": "3"}},
        ) == {"main": "train-3"}

    @pytest.mark.parametrize(
        ("path", "value"), [("metadata.name", "train-1"), ("metadata.namespace", "default"), ("metadata.uid", "u1")]
    )
    def test_fields_of_the_pod_are_known(self, path: str, value: str) -> None:
        assert ids({"name": "CEDANA_CHECKPOINT", "valueFrom": {"fieldRef": {"fieldPath": path}}}) == {"main": value}

    def test_an_id_that_depends_on_what_is_not_known_is_not_guessed(self) -> None:
        secret = {"name": "JOB", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
        assert ids(secret, {"name": "CEDANA_CHECKPOINT", "value": "x-$(JOB)"}) == {}

    def test_each_container_has_its_own(self) -> None:
        env = lambda value: [{"name": "CEDANA_CHECKPOINT", "value": value}]  # noqa: E731
        written = pod(
            spec={
                "containers": [
                    {"name": "web", "env": env("web-1")},
                    {"name": "log"},
                    {"name": "db", "env": env("web-10")},
                ],
                "initContainers": [{"name": "sidecar", "env": env("side")}],
            }
        )
        assert checkpoint_ids(read(written)) == {"web": "web-1", "db": "web-10", "sidecar": "side"}

    @pytest.mark.parametrize(
        ("text", "expanded"),
        [
            ("$(A)", "1"),
            ("$$(A)", "$(A)"),
            ("$(B)", "$(B)"),
            ("$(A", "$(A"),
            ("$A", "$A"),
            ("$$$(A)", "$1"),
            ("$(A)$(A)", "11"),
            ("a$", "a$"),
        ],
    )
    def test_expansion_follows_the_kubelets(self, text: str, expanded: str) -> None:
        assert expand(text, {"A": "1"}) == expanded


class TestWhatConcernsUs:
    def test_a_pod_of_another_runtime_class_does_not(self) -> None:
        assert view(read(pod(spec={"runtimeClassName": "gvisor"})), runtime_classes=CLASSES, cordoned=()) is None

    def test_a_pod_without_ids_does_not(self) -> None:
        assert view(read(pod(spec={"containers": [{"name": "main"}]})), runtime_classes=CLASSES, cordoned=()) is None

    def test_of_the_annotations_only_ours_are_kept(self) -> None:
        found = seen(pod(meta={"annotations": {"woodfrog.io/interval": "1m", "secret": "x"}}))
        assert found.annotations == {"woodfrog.io/interval": "1m"}

    def test_the_owner_is_the_controller(self) -> None:
        owners = [
            {"kind": "Other", "name": "o", "uid": "1"},
            {"kind": "Job", "name": "train", "uid": "2", "controller": True},
        ]
        assert seen(pod(meta={"ownerReferences": owners})).owner == Owner("Job", "train", "2")

    def test_a_field_that_is_null_is_as_one_that_is_not_there(self) -> None:
        nothing = dict.fromkeys(("labels", "annotations", "ownerReferences"))
        assert seen(pod(meta=nothing, status={"conditions": None, "containerStatuses": None})).containers


class TestWhyItEnds:
    @pytest.mark.parametrize(
        ("reason", "expected"),
        [
            ("PreemptionByScheduler", Why.PREEMPTED),
            ("PreemptionByKubeScheduler", Why.PREEMPTED),
            ("DeletionByTaintManager", Why.TAINTED),
            ("EvictionByEvictionAPI", Why.EVICTED),
            ("DeletionByPodGC", Why.COLLECTED),
            ("TerminationByKubelet", Why.EVICTED),
            ("SomethingNew", Why.DELETED),
        ],
    )
    def test_the_condition_of_newer_releases_tells(self, reason: str, expected: Why) -> None:
        assert why(pod(meta=DELETED, status=target(reason))) is expected

    def test_a_plain_deletion(self) -> None:
        assert why(pod(meta=DELETED)) is Why.DELETED

    def test_one_from_a_node_that_takes_no_new_pods_is_a_drain(self) -> None:
        written = pod(meta=DELETED, spec={"nodeName": "a"})
        assert (why(written, "a"), why(written, "b")) == (Why.DRAINED, Why.DELETED)

    def test_one_that_the_kubelet_evicted_ends_without_being_deleted(self) -> None:
        written = pod(status={"phase": "Failed", "reason": "Evicted", "message": "low on memory"})
        terminating = seen(written).terminating
        assert terminating is not None
        assert (terminating.why, terminating.by) == (Why.EVICTED, "low on memory")

    @pytest.mark.parametrize("reason", ["NodeShutdown", "Shutdown", "Terminated"])
    def test_a_node_that_shuts_down(self, reason: str) -> None:
        assert why(pod(status={"phase": "Failed", "reason": reason})) is Why.NODE_SHUTDOWN

    def test_the_grace_period_is_the_deletions(self) -> None:
        terminating = seen(pod(meta={**DELETED, "deletionGracePeriodSeconds": 5})).terminating
        assert terminating is not None
        assert (terminating.grace_seconds, terminating.deadline) == (5.0, datetime(2026, 11, 23, 12, 0, 30, tzinfo=UTC))

    def test_events_name_the_preemptor(self) -> None:
        by_text = Event(reason="Preempted", message="Preempted by prod/urgent on node a")
        assert cause_in([Event(reason="Killing"), by_text]) == (Why.PREEMPTED, "prod/urgent")
        by_uid = Event(reason="Preempted", message="Preempted by pod 6f1c on node a")
        assert cause_in([by_uid]) == (Why.PREEMPTED, "6f1c")
        related = Event(reason="Preempted", message="?", related=Involved("Pod", "prod", "urgent"))
        assert cause_in([related]) == (Why.PREEMPTED, "prod/urgent")

    def test_events_name_a_taint(self) -> None:
        assert cause_in([Event(reason="TaintManagerEviction")]) == (Why.TAINTED, "")
        assert cause_in([Event(reason="Killing")]) is None


class TestWhatHappened:
    def test_being_given_a_node(self) -> None:
        placed = seen(pod(spec={"nodeName": "a"}))
        assert list(happened(seen(pod()), placed)) == [Scheduled()]
        assert list(happened(placed, placed)) == []

    def test_everything_at_once_when_it_is_seen_for_the_first_time(self) -> None:
        written = pod(
            meta=DELETED, spec={"nodeName": "a"}, status=status_of(terminated={"exitCode": 0, "reason": "Completed"})
        )
        kinds = [type(one) for one in happened(None, seen(written))]
        assert kinds == [Scheduled, Terminating, Ended]

    def test_a_wish_counts_when_it_is_new_and_there_is_something_to_dump(self) -> None:
        marked = {"annotations": {"woodfrog.io/checkpoint": "1"}}
        fresh, running = seen(pod(meta=marked)), seen(pod(meta=marked, status=status_of()))
        assert list(happened(None, fresh)) == []
        assert list(happened(fresh, running)) == []
        assert list(happened(seen(pod(status=status_of())), running)) == [CheckpointWanted(value="1")]
        assert list(happened(None, running)) == [CheckpointWanted(value="1")]

    @pytest.mark.parametrize(
        ("terminated", "because"),
        [
            ({"exitCode": 0, "reason": "Completed"}, EndedBecause.COMPLETED),
            ({"exitCode": 137, "reason": "OOMKilled"}, EndedBecause.OOM_KILLED),
            ({"exitCode": 1, "reason": "Error"}, EndedBecause.ERROR),
            ({"exitCode": 128, "reason": "ContainerCannotRun"}, EndedBecause.OTHER),
        ],
    )
    def test_how_a_container_ended_is_told_apart(self, terminated: dict[str, Any], because: EndedBecause) -> None:
        one = {**terminated, "containerID": "containerd://c1", "message": "password=hunter2"}
        (ended,) = happened(seen(pod(status=status_of())), seen(pod(status=status_of(terminated=one))))
        assert isinstance(ended, Ended)
        assert ended.detail == terminated["reason"], "what the container wrote stays on the pod"
        assert (ended.because, ended.exit_code, ended.container_id) == (because, terminated["exitCode"], "c1")

    def test_a_container_that_is_started_again_has_ended_once(self) -> None:
        one = {"terminated": {"exitCode": 1, "reason": "Error", "containerID": "containerd://c1"}}
        status = status_of("c2")
        status["containerStatuses"][0]["lastState"] = one
        ended = seen(pod(status=status_of(**one)))
        assert list(happened(ended, seen(pod(status=status)))) == []

    def test_going_away(self) -> None:
        assert list(happened(seen(pod()), None)) == [Gone()]
        assert list(happened(None, None)) == []

    def test_a_thing_bears_the_same_name_whoever_tells_it_and_whenever(self) -> None:
        first, later = seen(pod(meta=DELETED, version="5")), seen(pod(meta=DELETED, version="9"))
        names = set()
        for one in (first, later):
            (what,) = happened(None, one)
            names.add(told(one, what, cluster="lab", at=datetime.now(UTC)).source)
        assert len(names) == 1


class TestNodes:
    @pytest.mark.parametrize("taint", ["node.kubernetes.io/out-of-service", "ToBeDeletedByClusterAutoscaler"])
    def test_a_taint_announces_the_end(self, taint: str) -> None:
        assert node_conditions.view(read_node(node("a", "other", taint))).ending == taint

    def test_a_node_without_one_does_not_end(self) -> None:
        found = node_conditions.view(read_node(node("a", "node.kubernetes.io/not-ready", ready="Unknown")))
        assert (found.ending, found.cordoned) == (None, False)
        assert found.not_ready == "Kubelet: posting"

    def test_the_list_is_a_setting(self) -> None:
        assert node_conditions.view(read_node(node("a", "our/notice")), ["our/notice"]).ending == "our/notice"
        assert node_conditions.view(read_node(node("a", "ToBeDeletedByClusterAutoscaler")), []).ending is None
