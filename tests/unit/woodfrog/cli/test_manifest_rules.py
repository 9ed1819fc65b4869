"""What of a manifest will not work is found before anything runs, with the field that it is about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from woodfrog.cli.manifest_rules import RUNTIME_CLASS, findings

pytestmark = pytest.mark.timeout(10)

ROOT = Path(__file__).parents[4]
ID = {"name": "CEDANA_CHECKPOINT", "value": "train"}


def pod(spec: dict[str, Any] | None = None, container: dict[str, Any] | None = None, **metadata: Any) -> dict[str, Any]:
    one = {"name": "main", "image": "x", "env": [ID], **(container or {})}
    whole = {"runtimeClassName": RUNTIME_CLASS, "containers": [one], **(spec or {})}
    return {"kind": "Pod", "metadata": {"name": "p", **metadata}, "spec": whole}


def owned(kind: str, template: dict[str, Any], **spec: Any) -> dict[str, Any]:
    inner = {"template": {"metadata": template["metadata"], "spec": template["spec"]}, **spec}
    if kind == "CronJob":
        inner = {"schedule": "@daily", "jobTemplate": {"spec": inner}}
    return {"kind": kind, "metadata": {"name": "o"}, "spec": inner}


def said(*documents: Any) -> list[tuple[str, str, str]]:
    return [(each.severity, each.code, each.field) for each in findings(documents)]


def test_a_pod_with_the_two_lines_is_fine() -> None:
    assert said(pod()) == []


@pytest.mark.parametrize("kind", ["Job", "Deployment", "StatefulSet", "ReplicaSet", "DaemonSet", "CronJob"])
def test_the_template_of_any_owner_is_looked_at(kind: str) -> None:
    assert said(owned(kind, pod())) == []
    path = "spec.jobTemplate.spec.template." if kind == "CronJob" else "spec.template."
    assert said(owned(kind, pod({"hostUsers": False}))) == [("error", "user-namespace", f"{path}spec.hostUsers")]


def test_a_list_several_documents_and_other_kinds_are_read_through() -> None:
    service = {"kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 1}]}}
    several = {"kind": "List", "items": [service, pod({"hostIPC": True})]}
    assert said(service, None, several, pod()) == [("error", "host-ipc", "spec.hostIPC")]
    replicated = {"kind": "JobSet", "metadata": {"name": "j"}, "spec": {"replicatedJobs": [{"template": {"spec": {"template": pod({"hostPID": True})}}}]}}  # fmt: skip
    assert said(replicated) == [("error", "pid-taken", "spec.replicatedJobs[0].template.spec.template.spec.hostPID")]


def test_a_file_in_which_nothing_is_protected_would_not_work() -> None:
    assert said({"kind": "Service"}) == [("error", "pod-not-protected", "")]
    assert said(pod(container={"env": []}, spec={"runtimeClassName": None})) == [("error", "pod-not-protected", "")]


def test_one_of_the_two_lines_alone_is_found() -> None:
    assert said(pod({"runtimeClassName": None})) == [("error", "runtime-class-missing", "spec.runtimeClassName")]
    assert said(pod({"runtimeClassName": "gvisor"})) == [("error", "runtime-class-missing", "spec.runtimeClassName")]
    assert said(pod(container={"env": []})) == [("error", "id-missing", "spec.containers")]


def test_a_host_path_that_can_be_written_is_found_and_one_for_reading_is_not() -> None:
    volumes = {"volumes": [{"name": "v", "hostPath": {"path": "/data"}}, {"name": "e", "emptyDir": {}}]}
    written = {"volumeMounts": [{"name": "e", "mountPath": "/e"}, {"name": "v", "mountPath": "/v"}]}
    assert said(pod(volumes, written)) == [("error", "host-path", "spec.containers[0].volumeMounts[1]")]
    read = {"volumeMounts": [{"name": "v", "mountPath": "/v", "readOnly": True}]}
    assert said(pod(volumes, read)) == []
    unprotected = {"containers": [{"name": "main", "env": [ID]}, {"name": "side", **written}]}
    assert said(pod({**volumes, **unprotected})) == []


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"hostPID": True}, ("error", "pid-taken", "spec.hostPID")),
        ({"hostNetwork": True}, ("warning", "address-taken", "spec.hostNetwork")),
        ({"shareProcessNamespace": True}, ("warning", "pid-taken", "spec.shareProcessNamespace")),
        ({"os": {"name": "windows"}}, ("error", "not-linux", "spec.os")),
        ({"terminationGracePeriodSeconds": 0}, ("error", "grace-too-short", "spec.terminationGracePeriodSeconds")),
        ({"volumes": [{"name": "e", "emptyDir": {"sizeLimit": "20Gi"}}]}, ("warning", "volumes-too-large", "spec.volumes")),
        ({"containers": "none"}, ("error", "id-missing", "spec.containers")),
    ],
)  # fmt: skip
def test_what_the_pod_shares_or_lacks_is_found(spec: dict[str, Any], expected: tuple[str, str, str]) -> None:
    assert said(pod(spec)) == [expected]


@pytest.mark.parametrize(
    ("resource", "severity", "code"),
    [
        ("nvidia.com/gpu", "warning", "gpu-means-missing"),
        ("nvidia.com/mig-1g.5gb", "error", "gpu-mig"),
        ("amd.com/gpu", "error", "gpu-unsupported"),
    ],
)
def test_gpus_are_looked_at(resource: str, severity: str, code: str) -> None:
    where = f"spec.containers[0].resources.limits[{resource}]"
    assert said(pod(container={"resources": {"limits": {resource: 1}}})) == [(severity, code, where)]
    assert said(pod(container={"resources": {"limits": {resource: "0", "memory": "1Gi"}}})) == []


def test_annotations_are_read_as_a_worker_reads_them() -> None:
    def about(name: str) -> str:
        return f"metadata.annotations[woodfrog.io/{name}]"

    wrong = {"woodfrog.io/interval": "10", "woodfrog.io/intervall": "10s", "woodfrog.io/shm": "yes", "other.io/x": "y"}
    assert said(pod(annotations=wrong)) == [
        ("error", "invalid-annotation", about("interval")),
        ("error", "annotation-unknown", about("intervall")),
        ("error", "invalid-annotation", about("shm")),
    ]
    fine = {"woodfrog.io/interval": "10m", "woodfrog.io/checkpoint": "now", "woodfrog.io/volumes": "none"}
    assert said(pod(annotations=fine)) == []
    assert said(pod(annotations={"woodfrog.io/volumes": "data,/cache"})) == [
        ("error", "volume-unknown", about("volumes"))
    ]
    assert said(pod(annotations={"woodfrog.io/io-uring": "allow"})) == [("warning", "io-uring", about("io-uring"))]
    misplaced = owned("Job", pod())
    misplaced["metadata"]["annotations"] = {"woodfrog.io/interval": "10m"}
    assert said(misplaced) == [("error", "annotation-misplaced", about("interval"))]


def test_ids_are_those_that_the_kubelet_will_make_and_no_two_the_same() -> None:
    where = "spec.containers[0].env[CEDANA_CHECKPOINT]"
    assert said(pod(container={"env": [{**ID, "value": "a b"}]})) == [("error", "invalid-id", where)]
    twice = {"containers": [{"name": "a", "env": [ID]}, {"name": "b", "env": [ID]}]}
    assert said(pod(twice)) == [("error", "id-shared", "spec.containers[1].env[CEDANA_CHECKPOINT]")]
    for kind, count in (("Deployment", {"replicas": 2}), ("Job", {"parallelism": 2, "completions": 3})):
        assert said(owned(kind, pod(), **count)) == [("error", "id-shared", f"spec.template.{where}")]
    assert said(owned("Job", pod(), parallelism=4, completions=1)) == []
    name = {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    own = pod(container={"env": [name, {**ID, "value": "train-$(POD)"}]})
    assert said(owned("StatefulSet", own, replicas=3)) == []
    elsewhere = {"name": "CEDANA_CHECKPOINT", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "id"}}}
    assert said(pod(container={"env": [elsewhere]})) == []


@pytest.mark.parametrize("document", [None, 7, [], "text", {"spec": 3}, {"kind": "Pod", "spec": {"containers": [7]}}])
def test_what_is_no_manifest_is_no_fault_of_the_verb(document: Any) -> None:
    assert said(document) == [("error", "pod-not-protected", "")]


def test_what_is_no_pod_is_said() -> None:
    (found,) = findings(
        [pod({"initContainers": [{"name": 3}], "containers": [{"name": "a", "env": [{**ID, "value": {}}]}]})]
    )
    assert found.code == "malformed-manifest"


@pytest.mark.parametrize("manifest", sorted((ROOT / "examples").rglob("*.yaml")), ids=lambda path: path.parent.name)
def test_nothing_speaks_against_the_examples(manifest: Path) -> None:
    found = findings(list(yaml.safe_load_all(manifest.read_text())))
    assert [each for each in found if each.severity == "error" and each.code != "pod-not-protected"] == []
