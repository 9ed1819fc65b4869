"""Pods of every shape under a real containerd, described as a kubelet describes them: each goes on in the next pod."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from support import images
from support.containerd import Containerd
from support.counting import counting, counts, numbers, restored
from support.kubelet import EXITED, RUNNING, Kubelet, Pod
from support.stack import Stack, until

from nodeworker import bundle

pytestmark = [pytest.mark.criu, pytest.mark.containerd, pytest.mark.nats, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def engine(engine: Containerd, tmp_path_factory: pytest.TempPathFactory) -> Containerd:
    """Knows one more image."""
    images.load(images.quitting(tmp_path_factory.mktemp("quitting")), engine.socket, "k8s.io")
    return engine


COUNT = counting("/work/count")


def kill(stack: Stack, container: str) -> None:
    """Kill a container's first process, as the kernel does that runs out of memory."""
    bundle = next(each["bundle"] for each in stack.containers() if each["container_id"] == container)
    os.kill(int((Path(bundle) / "init.pid").read_text()), signal.SIGKILL)


RESTRICTED: dict[str, Any] = {
    "supplemental_groups": [2000, 4000],
    "readonly_rootfs": True,
    "no_new_privs": True,
    "drop": ["ALL"],
    "seccomp": "RuntimeDefault",
}
SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "restricted": ({"groups": [2000]}, RESTRICTED),
    "privileged": ({"privileged": True}, {"privileged": True, "masked_paths": [], "readonly_paths": []}),
    "host-network": ({"host_network": True}, {}),
    "terminal": ({}, {"tty": True, "stdin": True}),
    "stdin": ({}, {"stdin": True}),
    "memory-limit": ({}, {"memory_bytes": 64 << 20}),
    "shared-process-namespace": ({"share_pids": True}, {}),
}


REHEARSED = {
    "restricted": "restorable",
    "host-network": "restorable",
    "terminal": "restorable",
    "shared-process-namespace": "not-rehearsed",
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_pod_of_each_shape_goes_on_in_the_next_pod(stack: Stack, kubelet: Kubelet, shape: str) -> None:
    of_pod, of_container = SHAPES[shape]
    env = {"CEDANA_CHECKPOINT": f"shape-{shape}"}
    script = f"id >/work/id; {COUNT}"
    pod = kubelet.pod("first", **of_pod)
    work = pod.empty_dir("work")
    pod.start("main", script, env, {"/work": work}, **of_container)
    before = counts(work / "count")
    identity = (work / "id").read_text()
    pod = kubelet.move(pod, "second", **of_pod, annotations={"woodfrog.io/rehearse": "always"})
    work = pod.empty_dir("work")
    main = pod.start("main", script, env, {"/work": work}, **of_container)
    counts(work / "count", before + 5)
    assert (work / "id").read_text() == identity
    for e in stack.history(f"shape-{shape}"):
        print(e["type"], e["data"].get("failure"), e["data"].get("reason"))
    assert restored(stack, f"shape-{shape}") == 1
    if shape in REHEARSED:
        stack.cli("checkpoint", f"shape-{shape}")
        counts(work / "count", counts(work / "count") + 5)
        rehearsals = [e["data"] for e in stack.history(f"shape-{shape}") if e["type"] == "snapshot.rehearsed"]
        assert [each["outcome"] for each in rehearsals] == [REHEARSED[shape]], rehearsals
    if shape == "restricted":
        status = kubelet.cri.exec(main, "cat", "/proc/1/status")
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert {"2000", "4000"} <= set(fields["Groups"].split())
        assert (int(fields["CapBnd"], 16), fields["NoNewPrivs"], fields["Seccomp"]) == (0, "1", "2")
    if shape == "host-network":
        assert kubelet.cri.exec(main, "hostname").strip() == Path("/proc/sys/kernel/hostname").read_text().strip()


def failures(stack: Stack, checkpoint_id: str) -> list[str]:
    return [event["data"]["failure"]["code"] for event in stack.history(checkpoint_id) if event["data"].get("failure")]


def test_a_pod_of_another_user_goes_on_or_is_refused_before_the_freeze_for_want_of_a_capability(
    stack: Stack, kubelet: Kubelet
) -> None:
    """CRIU reads the limits of every process, which for another user's needs CAP_SYS_RESOURCE; not every machine has it."""
    effective = int(Path("/proc/self/status").read_text().split("CapEff:")[1].split()[0], 16)
    may = bool(effective >> 24 & 1)
    env = {"CEDANA_CHECKPOINT": "another-user"}
    user = {"run_as_user": 1000, "run_as_group": 3000, "readonly_rootfs": True, "drop": ["ALL"], "no_new_privs": True}
    pod = kubelet.pod("first", groups=[2000])
    work = pod.empty_dir("work")
    pod.start("main", COUNT, env, {"/work": work}, **user)
    before = counts(work / "count")
    pod = kubelet.move(pod, "second", groups=[2000])
    work = pod.empty_dir("work")
    pod.start("main", COUNT, env, {"/work": work}, **user)
    counts(work / "count", before + 5 if may else 5)
    assert restored(stack, "another-user") == may
    assert failures(stack, "another-user") == ([] if may else ["capability-missing"])


def test_a_process_that_the_pods_first_process_adopted_is_no_silent_loss(stack: Stack, kubelet: Kubelet) -> None:
    pod = kubelet.pod("adopting", share_pids=True)
    work = pod.empty_dir("work")
    pod.start("main", f"(sleep 1234 &); {COUNT}", {"CEDANA_CHECKPOINT": "adopted"}, {"/work": work})
    before = counts(work / "count")
    assert stack.cli("checkpoint", "adopted", check=False).returncode != 0
    assert failures(stack, "adopted")[0] == "process-adopted"
    counts(work / "count", before + 5)


def test_containers_of_one_pod_go_on_each_by_its_own_id_beside_one_without(stack: Stack, kubelet: Kubelet) -> None:
    """``web-1`` and ``web-10`` are two ids; ``train-0`` is what a kubelet makes of ``train-$(JOB_COMPLETION_INDEX)``."""
    ids = ("web-1", "web-10", "train-0")

    def start(pod: Pod, number: int) -> dict[str, Path]:
        places = {each: pod.empty_dir(each) for each in ids}
        pod.start("sidecar", "while :; do sleep 0.1; done")
        for each in ids:
            pod.start(
                each,
                f"echo {each}-{number} >>/work/starts; {COUNT}",
                {"CEDANA_CHECKPOINT": each},
                {"/work": places[each]},
            )
        return places

    pod = kubelet.pod("first")
    places = start(pod, 1)
    before = {each: counts(places[each] / "count", 5 + 5 * number) for number, each in enumerate(ids)}
    pod = kubelet.move(pod, "second")
    places = start(pod, 2)
    for each in ids:
        counts(places[each] / "count", before[each] + 5)
        assert (places[each] / "starts").read_text() == f"{each}-1\n"
        assert restored(stack, each) == 1


def test_two_containers_on_one_volume_do_not_take_each_others_steps_back(stack: Stack, kubelet: Kubelet) -> None:
    """The second one's snapshot holds the first one's file as it was; the first goes on meanwhile."""
    scripts = {
        "one": COUNT.replace("/work/count", "/work/one"),
        "two": "exec 7>>/work/two; i=0; while :; do i=$((i+1)); echo $i >&7; sleep 0.05; done",
    }

    def start(pod: Pod) -> Path:
        work = pod.empty_dir("work")
        for name, script in scripts.items():
            pod.start(name, script, {"CEDANA_CHECKPOINT": f"both-{name}"}, {"/work": work})
            counts(work / name, 10)
        return work

    pod = kubelet.pod("first")
    work = start(pod)
    before = {name: len(numbers(work / name)) for name in scripts}
    pod = kubelet.move(pod, "second")
    work = start(pod)
    for name in scripts:
        counts(work / name, before[name] + 10)
        assert restored(stack, f"both-{name}") == 1


@pytest.mark.parametrize("moved", [False, True], ids=["first-pod", "moved-pod"])
def test_a_container_that_dies_goes_on_in_its_pod_from_the_last_snapshot(
    stack: Stack, kubelet: Kubelet, *, moved: bool
) -> None:
    """As for ``restartPolicy: OnFailure``: a new container in the same pod, while a sidecar reads its files."""
    env = {"CEDANA_CHECKPOINT": f"again-{moved}"}
    pod = kubelet.pod("first")
    work = pod.empty_dir("work")
    main = pod.start("main", COUNT, env, {"/work": work})
    counts(work / "count")
    if moved:
        pod = kubelet.move(pod, "second")
        work = pod.empty_dir("work")
        main = pod.start("main", COUNT, env, {"/work": work})
    pod.start("sidecar", "touch /work/mine; exec tail -f /work/count 5>>/work/mine", None, {"/work": work})
    if not moved:
        stack.cli("checkpoint", "again-False")
    lost = counts(work / "count", 60)
    kill(stack, main)
    kubelet.cri.wait_for(main, EXITED)
    main = pod.start("main", COUNT, env, {"/work": work})
    restored_at = len(numbers(work / "count"))
    assert restored_at < lost
    counts(work / "count", lost + 5)
    assert restored(stack, f"again-{moved}") == 1 + moved


WATCHING = """
import ctypes, os, time
libc = ctypes.CDLL(None)
watch = libc.inotify_init1(os.O_NONBLOCK)
assert libc.inotify_add_watch(watch, b"/cfg/app.conf", 0xfff) > 0
held = open("/cfg/app.conf")
i = 0
while True:
    i += 1
    held.seek(0)
    with open("/work/held", "w") as file:
        file.write(held.read())
    with open("/work/count", "a") as file:
        file.write(f"{i}\\n")
    time.sleep(0.05)
"""
HOST = {"/usr/lib": "/usr/lib", "/lib": "/usr/lib", "/lib64": "/usr/lib64", "/usr/bin": "/usr/bin"}


@pytest.mark.parametrize("renamed", [False, True], ids=["same-file", "file-gone"])
def test_a_file_of_a_config_map_that_is_held_and_watched_is_the_new_pods_if_it_has_one(
    stack: Stack, kubelet: Kubelet, *, renamed: bool
) -> None:
    checkpoint_id = f"held-{renamed}"

    def start(pod: Pod, text: str, names: set[str]) -> tuple[Path, Path]:
        work = pod.empty_dir("work")
        cfg = pod.projected("configmap", "cfg", dict.fromkeys(names, text))
        mounts = {"/work": work, "/cfg": cfg, **HOST}
        command = ["/usr/bin/python3", "-c", WATCHING]
        pod.start("main", command, {"CEDANA_CHECKPOINT": checkpoint_id}, mounts, read_only=["/cfg"])
        return work, cfg

    pod = kubelet.pod("first")
    work, _ = start(pod, "old", {"app.conf"})
    before = counts(work / "count")
    pod = kubelet.move(pod, "second")
    if renamed:
        start(pod, "new", {"other.conf"})
        until(lambda: failures(stack, checkpoint_id), saying="it is told why")
        assert failures(stack, checkpoint_id) == ["config-held"]
        return
    work, cfg = start(pod, "new", {"app.conf"})
    counts(work / "count", before + 5)
    until(
        lambda: (work / "held").read_text() == "new", saying="it reads the new pod's file"
    )  # it is written again and again
    assert restored(stack, checkpoint_id) == 1
    pod.projected("configmap", "cfg", {"app.conf": "newer"})
    assert (cfg / "app.conf").read_text() == "newer"


def test_deleted_names_and_programs_of_a_volume_go_on(stack: Stack, kubelet: Kubelet) -> None:
    """An open file that lost one of its names, one that lost all, and the program itself, which an init container puts there."""
    script = (
        "exec 7>/work/a; ln -f /work/a /work/b; rm /work/a; exec 8<>/work/gone; rm /work/gone; "
        "exec /work/busybox sh -c '"
        "i=0; while :; do i=$((i+1)); echo $i >>/work/count; echo $i >&7; echo $i >&8; sleep 0.05; done'"
    )
    env = {"CEDANA_CHECKPOINT": "names"}

    def start(pod: Pod) -> Path:
        work = pod.empty_dir("work")
        pod.init("copy", "cat /bin/busybox >/work/busybox; chmod 755 /work/busybox; echo >/work/b", {"/work": work})
        pod.start("main", script, env, {"/work": work})
        return work

    pod = kubelet.pod("first")
    work = start(pod)
    before = counts(work / "count")
    pod = kubelet.move(pod, "second")
    work = start(pod)
    counts(work / "count", before + 5)
    assert len(numbers(work / "b")) > before + 4
    assert sorted(path.name for path in work.iterdir()) == ["b", "busybox", "count"]
    assert restored(stack, "names") == 1


def test_config_maps_and_tokens_that_are_read_anew_are_the_new_pods(stack: Stack, kubelet: Kubelet) -> None:
    script = "i=0; while :; do i=$((i+1)); cat /cfg/app.conf /token/token >/work/seen; echo $i >>/work/count; sleep 0.05; done"

    def start(pod: Pod, word: str) -> Path:
        work = pod.empty_dir("work")
        mounts = {
            "/work": work,
            "/cfg": pod.projected("configmap", "cfg", {"app.conf": word}),
            "/token": pod.projected("projected", f"kube-api-access-{word}", {"token": word * len(word)}),
        }
        pod.start("main", script, {"CEDANA_CHECKPOINT": "anew"}, mounts, read_only=["/cfg", "/token"])
        return work

    pod = kubelet.pod("first")
    before = counts(start(pod, "old") / "count")
    pod = kubelet.move(pod, "second")
    work = start(pod, "newer")
    counts(work / "count", before + 5)
    assert (work / "seen").read_text() == "newer" * 6
    assert "second" in kubelet.cri.exec(pod.containers[-1], "cat", "/etc/hosts")
    assert restored(stack, "anew") == 1


def test_an_append_only_file_of_a_claim_may_have_grown(stack: Stack, kubelet: Kubelet, tmp_path: Path) -> None:
    script = "exec 7>>/claim/log; i=0; while :; do i=$((i+1)); echo $i >&7; sleep 0.05; done"
    env = {"CEDANA_CHECKPOINT": "claim"}
    pod = kubelet.pod("first")
    pod.start("main", script, env, {"/claim": tmp_path})
    before = counts(tmp_path / "log")
    pod = kubelet.move(pod, "second")
    pod.start("main", script, env, {"/claim": tmp_path})
    counts(tmp_path / "log", before + 5)
    assert restored(stack, "claim") == 1


def test_a_probe_that_runs_during_the_dump_and_what_a_session_left_behind_do_no_harm(
    stack: Stack, kubelet: Kubelet
) -> None:
    """The probe does not travel; a process that a session left in the background belongs to the container and does."""
    env = {"CEDANA_CHECKPOINT": "probed"}
    pod = kubelet.pod("first")
    work = pod.empty_dir("work")
    main = pod.start("main", COUNT, env, {"/work": work})
    counts(work / "count")
    kubelet.cri.exec(main, "sh", "-c", "sleep 4321 </dev/null >/dev/null 2>&1 &")

    def probe() -> None:
        with pytest.raises((AssertionError, grpc.RpcError)):
            kubelet.cri.exec(main, "sleep", "1234", seconds=15)

    probing = threading.Thread(target=probe)
    probing.start()
    until(lambda: "sleep 1234" in kubelet.cri.exec(main, "ps"), saying="the probe runs")
    before = counts(work / "count")
    pod = kubelet.move(pod, "second")
    probing.join(30)
    work = pod.empty_dir("work")
    main = pod.start("main", COUNT, env, {"/work": work})
    counts(work / "count", before + 5)
    listed = kubelet.cri.exec(main, "ps")
    assert "sleep 4321" in listed
    assert "sleep 1234" not in listed
    assert restored(stack, "probed") == 1


def test_the_stop_signal_of_an_image_takes_the_final_dump(stack: Stack, kubelet: Kubelet) -> None:
    env = {"CEDANA_CHECKPOINT": "quit"}
    pod = kubelet.pod("first")
    work = pod.empty_dir("work")
    pod.start("main", COUNT, env, {"/work": work}, image=images.QUITTING)
    before = counts(work / "count")
    pod = kubelet.move(pod, "second")
    work = pod.empty_dir("work")
    pod.start("main", COUNT, env, {"/work": work}, image=images.QUITTING)
    counts(work / "count", before + 5)
    assert restored(stack, "quit") == 1


def test_exit_code_and_log_of_a_restored_container_are_its_own(stack: Stack, kubelet: Kubelet) -> None:
    env = {"CEDANA_CHECKPOINT": "exit"}
    script = "i=0; while ! [ -e /work/end ]; do i=$((i+1)); echo $i; echo $i >>/work/count; sleep 0.05; done; exit 7"
    pod = kubelet.pod("first")
    work = pod.empty_dir("work")
    pod.start("main", script, env, {"/work": work})
    counts(work / "count")
    pod.stop()
    last = int(pod.log("main")[-1])
    pod = kubelet.move(pod, "second")
    work = pod.empty_dir("work")
    main = pod.start("main", script, env, {"/work": work})
    counts(work / "count", last + 5)
    (work / "end").touch()
    assert kubelet.cri.wait_for(main, EXITED).exit_code == 7
    assert [int(line) for line in pod.log("main")][:3] == [last + 1, last + 2, last + 3]


def test_a_stop_signal_that_is_to_be_ignored_reaches_the_container_and_takes_no_dump(
    stack: Stack, kubelet: Kubelet
) -> None:
    pod = kubelet.pod("ignoring", annotations={"woodfrog.io/on-stop": "ignore"})
    main = pod.start("main", "trap 'exit 9' TERM; while :; do sleep 0.05; done", {"CEDANA_CHECKPOINT": "ignore"})
    kubelet.cri.wait_for(main, RUNNING)
    time.sleep(0.3)
    pod.stop()
    assert kubelet.cri.wait_for(main, EXITED).exit_code == 9
    assert [each for each in stack.types("ignore") if each.startswith("snapshot")] == []


def test_a_container_that_must_be_restored_does_not_start_anew(stack: Stack, kubelet: Kubelet) -> None:
    wish = {"woodfrog.io/require-restore": "true"}
    env = {"CEDANA_CHECKPOINT": "required"}
    pod = kubelet.pod("first", annotations=wish)
    work = pod.empty_dir("work")
    pod.start("main", COUNT, env, {"/work": work})
    before = counts(work / "count")
    pod = kubelet.move(pod, "second", annotations=wish)
    work = pod.empty_dir("work")
    pod.start("main", COUNT, env, {"/work": work})
    counts(work / "count", before + 5)

    pod = kubelet.move(pod, "third", annotations=wish)
    with pytest.raises(grpc.RpcError) as refused:
        pod.start("main", COUNT, env)  # without the volume no snapshot fits
    assert "restore-required" in refused.value.details()
    assert "/work" in refused.value.details()
    pod = kubelet.move(pod, "fourth")
    work = pod.empty_dir("work")
    pod.start("main", COUNT, env, {"/work": work})
    counts(work / "count", before + 10)


def test_an_annotation_that_cannot_be_meant_shows_where_the_pod_is_described(kubelet: Kubelet) -> None:
    pod = kubelet.pod("wrong", annotations={"woodfrog.io/volumes-limit": "plenty"})
    with pytest.raises(grpc.RpcError) as refused:
        pod.start("main", COUNT, {"CEDANA_CHECKPOINT": "wrong"})
    assert "woodfrog.io/volumes-limit" in refused.value.details()


def test_a_worker_is_told_the_pods_grace_period_and_no_other_annotation_of_the_kubelets(
    engine: Containerd, kubelet: Kubelet
) -> None:
    main = kubelet.pod("patient").start("main", "while :; do sleep 0.05; done", {"CEDANA_CHECKPOINT": "patient"})
    kubelet.cri.wait_for(main, RUNNING)
    (config,) = engine.run.glob(f"**/{main}/config.json")
    assert bundle.read(str(config.parent)).grace_seconds == 45
    assert "io.kubernetes.container.restartCount" not in json.loads(config.read_text())["annotations"]
