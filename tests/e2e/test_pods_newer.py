"""What pods of Kubernetes 1.29 to 1.36 have besides: sidecars, resizes in place, volumes that are images, devices by CDI."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import containerd as containerds
from support import images
from support import kubelet as kubelets
from support.containerd import CONFIG
from support.counting import counting, counts, restored
from support.cri import Cri
from support.kubelet import Kubelet, Pod
from support.stack import Stack

pytestmark = [pytest.mark.criu, pytest.mark.containerd, pytest.mark.nats, pytest.mark.timeout(120)]

COUNT = counting("/work/count")
SMALL, LARGE = 64 << 20, 96 << 20
HOLDS = f"exec 8</model/program; {counting('/work/count')}"
"""Counts, and holds a file of the volume open."""


def test_a_sidecar_and_the_container_that_ends_before_it_are_both_resumed(stack: Stack, kubelet: Kubelet) -> None:
    """A sidecar starts before the others and is stopped after them; what it wrote meanwhile takes nothing back."""

    def start(pod: Pod) -> tuple[str, str]:
        work, side = pod.empty_dir("work"), pod.empty_dir("side")
        sidecar = pod.start(
            "proxy", counting("/side/count"), {"CEDANA_CHECKPOINT": "sidecar"}, {"/work": work, "/side": side}
        )
        return sidecar, pod.start("main", COUNT, {"CEDANA_CHECKPOINT": "main"}, {"/work": work})

    pod = kubelet.pod("first")
    sidecar, main = start(pod)
    before = counts(pod.empty_dir("work") / "count"), counts(pod.empty_dir("side") / "count")
    kubelet.cri.stop(main)
    kubelet.cri.stop(sidecar)
    pod = kubelet.move(pod, "second")
    start(pod)
    counts(pod.empty_dir("work") / "count", before[0] + 5)
    counts(pod.empty_dir("side") / "count", before[1] + 5)
    assert (restored(stack, "main"), restored(stack, "sidecar")) == (1, 1)


def limit(kubelet: Kubelet, container: str) -> int:
    """Read a container's memory limit from its own cgroup."""
    script = "cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes"
    return int(kubelet.cri.exec(container, "sh", "-c", script))


def test_a_container_is_resized_in_place_before_its_dump_and_after_its_restore(stack: Stack, kubelet: Kubelet) -> None:
    def start(pod: Pod) -> str:
        work = {"/work": pod.empty_dir("work")}
        return pod.start("main", COUNT, {"CEDANA_CHECKPOINT": "resized"}, work, memory_bytes=SMALL)

    pod = kubelet.pod("first")
    main = start(pod)
    kubelet.cri.resize(main, LARGE)
    assert limit(kubelet, main) == LARGE
    before = counts(pod.empty_dir("work") / "count")
    for name in ("second", "third"):
        pod = kubelet.move(pod, name)
        main = start(pod)
        before = counts(pod.empty_dir("work") / "count", before + 5)
        assert limit(kubelet, main) == SMALL, "the new pod's own limit"
        kubelet.cri.resize(main, LARGE)
        assert limit(kubelet, main) == LARGE
    assert restored(stack, "resized") == 2


def test_a_volume_that_is_an_image_is_the_new_pods(stack: Stack, kubelet: Kubelet) -> None:
    if kubelet.cri.version() < (2, 1):
        pytest.skip("containerd mounts images as volumes since 2.1")
    script = f"exec 8</model/bin/busybox; {COUNT}"
    env = {"CEDANA_CHECKPOINT": "image-volume"}

    def start(pod: Pod) -> str:
        work = {"/work": pod.empty_dir("work")}
        return pod.start("main", script, env, work, image_volumes={"/model": images.BUSYBOX})

    pod = kubelet.pod("first")
    start(pod)
    before = counts(pod.empty_dir("work") / "count")
    pod = kubelet.move(pod, "second")
    main = start(pod)
    counts(pod.empty_dir("work") / "count", before + 5)
    assert kubelet.cri.exec(main, "busybox", "cmp", "/model/bin/busybox", "/proc/1/fd/8") == ""
    assert restored(stack, "image-volume") == 1


def test_a_read_only_volume_with_another_source_on_each_node_is_the_new_pods(
    stack: Stack, kubelet: Kubelet, tmp_path: Path
) -> None:
    """What an engine makes of an image volume: a directory of its own, mounted read-only."""
    env = {"CEDANA_CHECKPOINT": "read-only-volume"}

    def start(pod: Pod) -> str:
        volume = tmp_path / pod.name
        volume.mkdir()
        (volume / "program").write_text("the same bytes")
        return pod.start("main", HOLDS, env, {"/work": pod.empty_dir("work"), "/model": volume}, read_only=["/model"])

    pod = kubelet.pod("first")
    start(pod)
    before = counts(pod.empty_dir("work") / "count")
    pod = kubelet.move(pod, "second")
    shutil.rmtree(tmp_path / "first")
    main = start(pod)
    counts(pod.empty_dir("work") / "count", before + 5)
    assert kubelet.cri.exec(main, "cat", "/proc/1/fd/8") == "the same bytes"
    assert restored(stack, "read-only-volume") == 1


@pytest.fixture
def with_cdi(stack: Stack, tmp_path: Path) -> Iterator[Kubelet]:
    """A kubelet on a containerd that knows one device by CDI: a device node, a directory of its driver and a variable."""
    driver, specs = tmp_path / "driver", tmp_path / "cdi"
    driver.mkdir()
    specs.mkdir()
    (driver / "program").write_text("driver")
    edits = {
        "env": ["DEVICE=one"],
        "deviceNodes": [{"path": "/dev/wf-one", "hostPath": "/dev/null"}],
        "mounts": [{"hostPath": str(driver), "containerPath": "/model", "options": ["ro", "nosuid", "nodev", "bind"]}],
    }
    spec = {"cdiVersion": "0.5.0", "kind": "example.com/device", "devices": [{"name": "one", "containerEdits": edits}]}
    (specs / "example.json").write_text(json.dumps(spec))
    here = '[plugins."io.containerd.grpc.v1.cri"]\n'
    config = CONFIG.replace(here, f'{here}  enable_cdi = true\n  cdi_spec_dirs = ["{specs}"]\n')
    with (
        containerds.running(stack.runtime, config) as engine,
        Cri(engine.socket, engine.root / "cri") as cri,
        kubelets.running(cri, engine.root / "k") as made,
    ):
        yield made


def test_a_device_that_cdi_injects_is_the_new_containers(stack: Stack, with_cdi: Kubelet) -> None:
    if with_cdi.cri.version() < (1, 7):
        pytest.skip("containerd knows CDI since 1.7")
    env = {"CEDANA_CHECKPOINT": "cdi"}
    script = f"exec 9>/dev/wf-one; {HOLDS}"

    def start(pod: Pod) -> str:
        return pod.start("main", script, env, {"/work": pod.empty_dir("work")}, cdi_devices=["example.com/device=one"])

    pod = with_cdi.pod("first")
    start(pod)
    before = counts(pod.empty_dir("work") / "count")
    pod = with_cdi.move(pod, "second")
    main = start(pod)
    counts(pod.empty_dir("work") / "count", before + 5)
    assert with_cdi.cri.exec(main, "cat", "/proc/1/fd/8") == "driver"
    assert (
        with_cdi.cri.exec(main, "sh", "-c", "echo $DEVICE; echo gone >/dev/wf-one; echo gone >/proc/1/fd/9") == "one\n"
    )
    assert restored(stack, "cdi") == 1
