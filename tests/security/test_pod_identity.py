"""Whose pod a container belongs to is said by its engine, never by the pod's author."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nodeworker import bundle
from nodeworker.bundle import Bundle
from nodeworker.domain import pod_annotations
from nodeworker.host import containerd, cri, doctor
from woodfrog.protocol.failures import FailureError

pytestmark = pytest.mark.timeout(20)

ID = "c0" * 32
CRIO = {
    "io.kubernetes.cri-o.ContainerID": ID,
    "io.kubernetes.cri-o.SandboxID": "s1",
    "io.kubernetes.cri-o.ImageName": "docker.io/me/tool:1",
    "io.kubernetes.cri-o.ContainerType": "container",
    "io.kubernetes.pod.namespace": "attacker",
    "io.kubernetes.pod.name": "evil",
    "io.kubernetes.pod.uid": "u-evil",
    "io.kubernetes.container.name": "c",
}
"""What CRI-O writes last into a container's config.json."""
CONTAINERD = {
    "io.kubernetes.cri.container-type": "container",
    "io.kubernetes.cri.sandbox-id": "s1",
    "io.kubernetes.cri.sandbox-namespace": "attacker",
    "io.kubernetes.cri.sandbox-name": "evil",
    "io.kubernetes.cri.sandbox-uid": "u-evil",
    "io.kubernetes.cri.container-name": "c",
    "io.kubernetes.cri.image-name": "docker.io/me/tool:1",
}
FORGED = {
    "io.kubernetes.cri.sandbox-namespace": "victim",
    "io.kubernetes.cri-o.Namespace": "victim",
    "io.kubernetes.pod.namespace": "victim",
    "io.kubernetes.cri.sandbox-name": "db-0",
    "io.kubernetes.cri-o.KubeName": "db-0",
    "io.kubernetes.pod.name": "db-0",
    "io.kubernetes.cri.sandbox-uid": "u-db-0",
    "io.kubernetes.pod.uid": "u-db-0",
    "io.kubernetes.cri.sandbox-id": "s-db-0",
    "io.kubernetes.cri-o.SandboxID": "s-db-0",
    "io.kubernetes.cri.image-name": "postgres:16",
    "io.kubernetes.cri-o.ImageName": "postgres:16",
    "io.kubernetes.cri.container-type": "container",
    "io.kubernetes.cri-o.ContainerType": "container",
    "io.kubernetes.cri-o.ContainerID": "d0" * 32,
    "io.kubernetes.cri.container-name": "db",
    "io.kubernetes.container.name": "db",
}
"""Every name from which anything was ever read."""


def read(tmp_path: Path, annotations: dict[str, str], *, crio: bool = False, **config: Any) -> Bundle:
    folder = tmp_path / ID / "userdata" if crio else tmp_path / ID
    folder.mkdir(parents=True, exist_ok=True)
    content = {"root": {"path": "rootfs"}, "mounts": [], "annotations": annotations} | config
    (folder / "config.json").write_text(json.dumps(content))
    return bundle.read(str(folder))


@pytest.mark.parametrize("forged", [*FORGED, "all of them"])
@pytest.mark.parametrize(("crio", "engine"), [(True, CRIO), (False, CONTAINERD)], ids=["cri-o", "containerd"])
def test_a_pods_own_annotations_make_it_nobody_else(
    tmp_path: Path, crio: bool, engine: dict[str, str], forged: str
) -> None:
    words = FORGED if forged == "all of them" else {forged: FORGED[forged]}
    found = read(tmp_path, words | engine, crio=crio)  # the engine writes after the pod
    assert (found.namespace, found.facts.pod, found.facts.pod_uid) == ("attacker", "evil", "u-evil")
    assert (found.sandbox, found.facts.image) == ("s1", "docker.io/me/tool:1")


@pytest.mark.parametrize("crio", [True, False])
def test_another_containers_id_is_no_mark_of_cri_o(tmp_path: Path, crio: bool) -> None:
    words = {name: value for name, value in FORGED.items() if name != "io.kubernetes.cri.container-type"}
    assert read(tmp_path, words, crio=crio).namespace is None


def test_a_pods_container_of_an_engine_that_names_no_namespace_is_refused(tmp_path: Path) -> None:
    of_1_4 = {"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": "s1"}
    with pytest.raises(FailureError, match="namespace-unknown"):
        read(tmp_path, of_1_4)


def test_a_pods_container_that_docker_made_is_refused(tmp_path: Path) -> None:
    record = tmp_path / "docker/containers" / ID / "config.v2.json"
    record.parent.mkdir(parents=True)
    hosts = {"destination": "/etc/hosts", "type": "bind", "source": f"{record.parent}/hosts"}
    record.write_text(json.dumps({"Config": {"Labels": {"io.kubernetes.docker.type": "container"}}}))
    with pytest.raises(FailureError, match="namespace-unknown"):
        read(tmp_path, {}, mounts=[hosts])
    record.write_text(json.dumps({"Config": {"Labels": {"maintainer": "me"}}}))
    assert read(tmp_path, {}, mounts=[hosts]).namespace is None


def test_a_pod_says_nothing_about_its_image_by_a_mount_that_looks_like_dockers(tmp_path: Path) -> None:
    record = tmp_path / "data/containers" / ID / "config.v2.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"Image": f"sha256:{'e5' * 32}", "Config": {"Image": "postgres:16"}}))
    hosts = {"destination": "/etc/hosts", "type": "bind", "source": f"{record.parent}/hosts"}
    facts = read(tmp_path, CONTAINERD, mounts=[hosts]).facts
    assert (facts.image, facts.image_digest) == ("docker.io/me/tool:1", None)


def test_podmans_pods_are_no_pods_of_kubernetes(tmp_path: Path) -> None:
    podman = {"io.kubernetes.cri-o.ContainerType": "container", "io.kubernetes.cri-o.SandboxID": "p1"}
    assert read(tmp_path, podman, crio=True).namespace is None


def test_a_container_of_another_pod_is_no_neighbour_by_its_own_word() -> None:
    said = pod_annotations.read({"io.kubernetes.cri.sandbox-id": "s-db-0"} | CRIO, ID)
    assert said is not None
    assert said.sandbox == "s1"


@pytest.mark.parametrize(
    ("said", "old"),
    [
        ("containerd github.com/containerd/containerd 1.4.13~ds1 1.4.13~ds1-1~deb11u4", True),
        ("containerd github.com/containerd/containerd v1.4.13 9cc61520f4cd876b86e77edfeb88fbcd536d1f9d", True),
        ("containerd github.com/containerd/containerd v1.5.0 8c906ff108ac", False),
        ("containerd github.com/containerd/containerd/v2 v2.1.9 deadbeef", False),
        ("containerd of our own making", False),
    ],
)
def test_a_containerd_that_names_no_namespace_is_not_installed_on(tmp_path: Path, said: str, old: bool) -> None:
    program = tmp_path / "containerd"
    program.write_text(f"#!/bin/sh\necho '{said}'\n")
    program.chmod(0o755)
    found = containerd.Containerd(tmp_path / "s.sock", 1, str(program), tmp_path / "config.toml", "", None)
    if not old:
        containerd.refuse_old(found)
        return
    with pytest.raises(FailureError, match="containerd-old"):
        containerd.refuse_old(found)


@pytest.mark.parametrize(
    ("listed", "state", "found"),
    [
        (("runc", "cedana"), "ok", "CRI-O knows the runtime cedana"),
        (("runc",), "failed", "CRI-O knows no runtime cedana"),
        ((), "ok", "CRI-O"),
    ],
)
def test_the_doctor_sees_a_runtime_that_cri_o_left_out(listed: tuple[str, ...], state: str, found: str) -> None:
    finding = doctor.crio_finding(cri.CriStatus(ready=True, config={}, listed=frozenset(listed)))
    assert (finding.state, finding.found) == (state, found)
