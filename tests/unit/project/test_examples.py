"""The examples are what their schedulers take, and each container gets the id that its manifest means."""

from __future__ import annotations

import copy
import json
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from support.scheduler_fakes import EXAMPLES, admitted, armada_pods, example, job_pods, jobset_jobs, vcjob_pods
from support.scheduler_scenarios import PLAYS

from controlplane.kube.env_expansion import checkpoint_ids, expand
from controlplane.kube.models import Pod
from nodeworker.runtime.container import variable
from woodfrog.protocol import wire
from woodfrog.protocol.ids import check_id

pytestmark = pytest.mark.timeout(30)

Object = dict[str, Any]
FOLDERS = sorted(folder.name for folder in EXAMPLES.iterdir() if folder.is_dir())
MANIFESTS = sorted(path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.glob("*/*.yaml"))
RELEASES = [f"1.{minor}.0" for minor in range(29, 37)]
BUILT_IN = {"v1", "batch/v1", "apiextensions.k8s.io/v1"}


def templates(thing: Any) -> Iterator[Object]:
    """Every pod template below, whatever kind of object it is in; Armada's jobs have a bare pod spec."""
    if isinstance(thing, list):
        for each in thing:
            yield from templates(each)
    elif isinstance(thing, dict):
        for name, value in thing.items():
            if name == "template" and "containers" in value.get("spec", {}):
                yield value
            elif name == "podSpec":
                yield {"spec": value}
            else:
                yield from templates(value)


def pod_of(template: Object) -> Object:
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "any", **template.get("metadata", {})}, "spec": template["spec"],
    }  # fmt: skip


def training_pods() -> list[Object]:
    controller = runpy.run_path(str(EXAMPLES / "custom-resource" / "controller.py"), run_name="read")
    training = example("custom-resource/training.yaml")[0]
    training["metadata"] |= {"namespace": "default", "uid": "5d0f6a0e-3f9b-4f57-8a43-1f1f6d3b6c11"}
    return list(controller["pods_of"](training))


MADE: dict[str, tuple[list[Object], list[str]]] = {
    "job": (job_pods(example("job/job.yaml")[0]), ["job-preemption-test-3"]),
    "indexed-job": (job_pods(example("indexed-job/job.yaml")[0]), ["train-0", "train-1"]),
    "kueue": (job_pods(admitted(example("kueue/job.yaml")[0], {"example.com/capacity": "spot"})), ["queued-training"]),
    "volcano-job": (job_pods(example("volcano/job.yaml")[1]), ["volcano-training"]),
    "volcano-vcjob": (vcjob_pods(example("volcano/vcjob.yaml")[0]), ["gang-0", "gang-1"]),
    "armada": (armada_pods(example("armada/job.yaml")[0]), ["armada-training"]),
    "jobset": (
        [pod for job in jobset_jobs(example("jobset/jobset.yaml")[0]) for pod in job_pods(job)],
        ["set-0-0", "set-0-1", "set-1-0", "set-1-1"],
    ),
    "custom-resource": (training_pods(), ["custom-0", "custom-1"]),
}


@pytest.mark.parametrize("manifest", MANIFESTS)
@pytest.mark.parametrize("release", RELEASES)
def test_each_manifest_is_one_that_kubernetes_takes(manifest: str, release: str) -> None:
    for thing in example(manifest):
        if thing.get("apiVersion") in BUILT_IN:
            kubernetes_validate.validate(thing, release, strict=True)
        for template in templates(thing):
            kubernetes_validate.validate(pod_of(template), release, strict=True)
    for job in jobset_jobs(example(manifest)[0]) if "jobset" in manifest else ():
        kubernetes_validate.validate(job, release, strict=True)


@pytest.mark.parametrize("release", [RELEASES[0], RELEASES[-1]])
@pytest.mark.parametrize("made", MADE.values(), ids=MADE)
def test_the_pods_that_are_played_are_pods(made: tuple[list[Object], list[str]], release: str) -> None:
    for pod in made[0]:
        kubernetes_validate.validate(pod, release, strict=True)


def test_a_misspelt_field_in_a_template_would_be_found() -> None:
    template = copy.deepcopy(next(templates(example("volcano/vcjob.yaml"))))
    template["spec"]["runtimeClass"] = template["spec"].pop("runtimeClassName")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod_of(template), RELEASES[-1], strict=True)


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_nothing_but_the_class_and_the_variable_is_written_for_woodfrog(manifest: str) -> None:
    for template in templates(example(manifest)):
        spec = copy.deepcopy(template["spec"])
        assert spec.pop("runtimeClassName") == "cedana"
        named = [
            (container, each) for container in spec["containers"] for each in container["env"] if each["name"] == "CEDANA_CHECKPOINT"
        ]  # fmt: skip
        assert len(named) == 1
        for container, each in named:
            container["env"].remove(each)
            container["image"] = "any"
        assert "cedana" not in json.dumps(spec).lower()
    assert "woodfrog" not in (EXAMPLES / manifest).read_text().lower()


def as_the_kubelet_gives_it(pod: Object) -> list[str]:
    """The variables of the first container, each with references to those before it replaced, and to no others."""
    known: dict[str, str] = {}
    for each in pod["spec"]["containers"][0]["env"]:
        path = each.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath", "")
        if path == "metadata.name":
            known[each["name"]] = pod["metadata"]["name"]
        elif path:
            kind, _, key = path.removeprefix("metadata.").partition("[")
            known[each["name"]] = pod["metadata"][kind][key.strip("]'")]
        else:
            known[each["name"]] = expand(each["value"], known)
    return [f"{name}={value}" for name, value in known.items()]


@pytest.mark.parametrize(("pods", "ids"), MADE.values(), ids=MADE)
def test_watcher_and_runtime_read_the_same_id_and_each_pod_has_its_own(pods: list[Object], ids: list[str]) -> None:
    by_watcher = [next(iter(checkpoint_ids(wire.decode(json.dumps(pod), Pod)).values())) for pod in pods]
    by_runtime = [variable({"process": {"env": as_the_kubelet_gives_it(pod)}}, "CEDANA_CHECKPOINT") for pod in pods]
    assert by_watcher == by_runtime == ids
    assert [check_id(each, "id") for each in ids] == ids


def test_a_pod_that_is_made_again_has_the_id_it_had() -> None:
    again = [pod for job in jobset_jobs(example("jobset/jobset.yaml")[0], restarts=3) for pod in job_pods(job)]
    assert [next(iter(checkpoint_ids(wire.decode(json.dumps(pod), Pod)).values())) for pod in again] == MADE["jobset"][
        1
    ]
    first, second = (armada_pods(example("armada/job.yaml")[0])[0]["metadata"]["name"] for _ in range(2))
    assert first != second


def test_kueue_gives_back_the_template_that_it_found() -> None:
    job = example("kueue/job.yaml")[0]
    running = admitted(job, {"example.com/capacity": "spot"})
    assert job_pods(running)[0]["spec"]["nodeSelector"] == {"example.com/capacity": "spot"}
    assert job_pods(admitted(job, None)) == []
    assert admitted(job, None)["spec"]["template"] == job["spec"]["template"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_each_example_says_what_to_write_what_happens_and_what_was_tested(folder: str) -> None:
    page = (EXAMPLES / folder / "README.md").read_text()
    for heading in (
        "## What to write",
        "## How pods end and begin again",
        "## What Woodfrog does",
        "## What was tested",
    ):
        assert heading in page
    assert f"]({folder}/README.md)" in (EXAMPLES / "README.md").read_text()
    assert f"examples/{folder}/README.md" in Path(EXAMPLES.parent, "docs/how-to/use-with-schedulers.md").read_text()


def test_the_job_of_the_mission_is_as_it_was_given() -> None:
    job = yaml.safe_load((EXAMPLES / "job" / "job.yaml").read_text())
    assert job["spec"]["podReplacementPolicy"] == "TerminatingOrFailed"
    assert job["spec"]["template"]["spec"]["containers"][0]["env"] == [
        {"name": "CEDANA_CHECKPOINT", "value": "job-preemption-test-3"}
    ]


def test_each_example_is_tried_on_a_cluster_with_the_ids_that_it_means() -> None:
    by_seed = {"job"}  # tests/cluster/test_20_seed.py
    assert {play.example for play in PLAYS} | by_seed == set(FOLDERS)
    meant = sorted(each for name, (_, ids) in MADE.items() if name not in by_seed for each in ids)
    assert sorted(each for play in PLAYS for each in play.ids) == meant
