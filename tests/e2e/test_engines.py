"""Woodfrog under a real containerd: as ``ctr run --runc-binary``, and as a CRI runtime handler, the way a kubelet uses it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import images
from support.containerd import Containerd
from support.cri import Cri
from support.stack import Stack, until

pytestmark = [pytest.mark.criu, pytest.mark.containerd, pytest.mark.nats, pytest.mark.timeout(180)]

COUNT = "i=0; while :; do i=$((i+1)); echo $i; echo $i >> /data/count; sleep 0.1; done"
RUNNING, EXITED = 1, 2
WORKLOADS = Path(__file__).parent / "workloads"


@pytest.fixture
def cri(engine: Containerd) -> Iterator[Cri]:
    with Cri(engine.socket, engine.root / "cri") as client:
        yield client


def assert_counts(record: str) -> int:
    numbers = [int(line) for line in record.split()]
    assert numbers == list(range(1, len(numbers) + 1))
    return len(numbers)


def ctr_run(engine: Containerd, runtime: Path, name: str, *options: str) -> None:
    engine.ctr(
        "run", "--detach", "--runc-binary", runtime, "--env", "CEDANA_CHECKPOINT=ctr", *options,
        images.BUSYBOX, name, "sh", "-c", COUNT,
    )  # fmt: skip


def ctr_exec(engine: Containerd, name: str, *command: str) -> str:
    return engine.ctr("task", "exec", "--exec-id", f"x{time.monotonic_ns()}", name, *command).stdout


def test_a_container_of_ctr_goes_on_in_a_new_container(stack: Stack, engine: Containerd) -> None:
    ctr_run(engine, stack.runtime, "one")
    time.sleep(1)
    engine.ctr("task", "kill", "--signal", "SIGTERM", "one")
    until(lambda: "STOPPED" in engine.ctr("task", "ls").stdout, saying="the task stopped")
    engine.ctr("task", "delete", "one", check=False)
    engine.ctr("container", "delete", "one")

    ctr_run(engine, stack.runtime, "two")
    time.sleep(1)
    count = assert_counts(ctr_exec(engine, "two", "cat", "/data/count"))
    chosen = [event for event in stack.history("ctr") if event["type"] == "incarnation.restore-chosen"]
    assert len(chosen) == 1
    assert count > 10
    engine.ctr("task", "kill", "--signal", "SIGKILL", "two")
    until(lambda: "STOPPED" in engine.ctr("task", "ls").stdout, saying="the task stopped")
    engine.ctr("task", "delete", "two", check=False)
    engine.ctr("container", "delete", "two")


def test_a_pod_container_goes_on_in_another_pod_and_the_engine_treats_it_as_its_own(stack: Stack, cri: Cri) -> None:
    env = {"CEDANA_CHECKPOINT": "pod"}
    pod, config = cri.run_pod("before")
    first = cri.create(pod, config, ["sh", "-c", COUNT], env, {})
    cri.start(first)
    time.sleep(1)
    assert cri.exec(first, "sh", "-c", "echo here > /dev/shm/mark; hostname").strip() == "before"
    cri.stop(first)
    assert cri.wait_for(first, EXITED).exit_code == 137
    cri.remove_container(first)
    cri.remove_pod(pod)
    stack.until_stored("pod")

    pod, config = cri.run_pod("after")
    second = cri.create(pod, config, ["sh", "-c", COUNT], env, {})
    before_start = cri.status(second)
    assert before_start.state != RUNNING
    cri.start(second)
    cri.wait_for(second, RUNNING)
    time.sleep(1)
    assert assert_counts(cri.exec(second, "cat", "/data/count")) > 10
    assert cri.exec(second, "hostname").strip() == "after"
    assert cri.exec(second, "cat", "/dev/shm/mark").strip() == "here"
    log = (Path(config.log_directory) / "main.log").read_text().splitlines()
    numbers = [int(line.split()[-1]) for line in log]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert numbers[0] > 1
    cri.stop(second, grace_seconds=5)
    cri.remove_container(second)
    cri.remove_pod(pod)


def test_semaphores_and_shared_memory_of_a_pod_go_on_in_another_pod(stack: Stack, cri: Cri) -> None:
    """A pod's /dev/shm is the sandbox's, mounted from outside: it travels beside CRIU's images."""
    interpreter = ["/usr/bin/python3", "/workloads/semaphore.py", "/data/record"]
    host = {
        "/usr/lib": "/usr/lib",
        "/lib": "/usr/lib",
        "/lib64": "/usr/lib64",
        "/usr/bin": "/usr/bin",
        "/workloads": str(WORKLOADS),
    }
    env = {"CEDANA_CHECKPOINT": "semaphore"}
    pod, config = cri.run_pod("semaphores")
    first = cri.create(pod, config, interpreter, env, host)
    cri.start(first)
    cri.wait_for(first, RUNNING)
    until(lambda: len(_record(cri, first)) > 5, saying="it counts")
    before = len(_record(cri, first))
    listed = cri.exec(first, "ls", "/dev/shm").split()
    cri.stop(first)
    cri.remove_container(first)
    cri.remove_pod(pod)
    stack.until_stored("semaphore")

    pod, config = cri.run_pod("semaphores-again")
    second = cri.create(pod, config, interpreter, env, host)
    cri.start(second)
    cri.wait_for(second, RUNNING)
    until(lambda: len(_record(cri, second)) > before + 5, saying="it counts on")
    record = _record(cri, second)
    assert [line.split() for line in record] == [[f"{n}", "0", "5", f"{n}"] for n in range(1, len(record) + 1)]
    assert cri.exec(second, "ls", "/dev/shm").split() == listed
    cri.stop(second, grace_seconds=5)
    cri.remove_container(second)
    cri.remove_pod(pod)


def _record(cri: Cri, container: str) -> list[str]:
    text = cri.exec(container, "sh", "-c", "touch /data/record; cat /data/record")
    return text[: text.rfind("\n") + 1].splitlines()


def test_a_tag_that_names_another_image_by_now_is_another_image(
    stack: Stack, engine: Containerd, cri: Cri, tmp_path: Path
) -> None:
    env = {"CEDANA_CHECKPOINT": "retagged"}

    def pod(name: str) -> str:
        sandbox, config = cri.run_pod(name)
        container = cri.create(sandbox, config, ["sh", "-c", COUNT], env, {})
        cri.start(container)
        cri.wait_for(container, RUNNING)
        time.sleep(0.5)
        cri.stop(container)
        cri.remove_container(container)
        cri.remove_pod(sandbox)
        return stack.until_stored("retagged")[-1]

    def why() -> str:
        return str(stack.json("why", "retagged")["reason"])

    pod("tagged")
    for archive in ("changed", "original"):
        (tmp_path / archive).mkdir()
    root = images.busybox_root(tmp_path / "changed" / "root")
    (root / "etc" / "changed").touch()
    changed = images.pack(root, images.BUSYBOX, tmp_path / "changed" / "image.tar", ["/bin/sh"])
    images.load(changed, engine.socket, "k8s.io")
    try:
        time.sleep(1)  # the CRI hears of images by events
        pod("retagged")
        assert "the image changed from registry.test/busybox:1 (sha256:" in why()
    finally:
        images.load(images.busybox(tmp_path / "original"), engine.socket, "k8s.io")


def test_a_pod_without_the_variable_runs_as_under_runc(cri: Cri) -> None:
    pod, config = cri.run_pod("plain")
    container = cri.create(pod, config, ["sh", "-c", "trap 'exit 5' TERM; while :; do sleep 0.1; done"], {}, {})
    cri.start(container)
    cri.wait_for(container, RUNNING)
    time.sleep(0.3)
    cri.stop(container, grace_seconds=5)
    assert cri.wait_for(container, EXITED).exit_code == 5
    cri.remove_container(container)
    cri.remove_pod(pod)


@pytest.mark.parametrize("bad", ["../up", "a/b", "-dash", "x" * 300])
def test_a_pod_with_a_bad_id_is_refused_with_a_message_that_names_it(cri: Cri, bad: str) -> None:
    import grpc  # noqa: PLC0415

    pod, config = cri.run_pod("bad")
    try:
        container = cri.create(pod, config, ["sh", "-c", COUNT], {"CEDANA_CHECKPOINT": bad}, {})
        with pytest.raises(grpc.RpcError) as refused:
            cri.start(container)
        assert "checkpoint id" in refused.value.details()
        cri.remove_container(container)
    finally:
        cri.remove_pod(pod)


def test_containers_of_one_id_in_two_namespaces_do_not_meet(stack: Stack, cri: Cri) -> None:
    env = {"CEDANA_CHECKPOINT": "scoped"}
    pod, config = cri.run_pod("ours", namespace="ours")
    first = cri.create(pod, config, ["sh", "-c", COUNT], env, {})
    cri.start(first)
    time.sleep(0.5)
    cri.stop(first)
    cri.remove_container(first)
    cri.remove_pod(pod)

    pod, config = cri.run_pod("theirs", namespace="theirs")
    second = cri.create(pod, config, ["sh", "-c", "sleep 100"], env, {})
    cri.start(second)
    cri.wait_for(second, RUNNING)
    theirs = [c for c in stack.containers() if c["key"]["namespace"] == "theirs"]
    assert json.dumps(theirs[0]["restored_from"]) == "null"
    cri.stop(second, grace_seconds=5)
    cri.remove_container(second)
    cri.remove_pod(pod)
