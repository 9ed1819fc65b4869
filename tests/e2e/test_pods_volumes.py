"""Volumes under a real containerd, laid out as a kubelet does: what travels with a snapshot, and what the new pod brings."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.counting import counting, counts, restored
from support.kubelet import Kubelet, Pod
from support.stack import Stack, until

pytestmark = [pytest.mark.criu, pytest.mark.containerd, pytest.mark.nats, pytest.mark.timeout(120)]


HELD = "exec 7>>/work/held; i=0; while :; do i=$((i+1)); echo $i >&7; sleep 0.05; done"
"""Counts into a file that stays open."""


@pytest.mark.parametrize("memory", [False, True], ids=["disk", "memory"])
@pytest.mark.parametrize("script", [counting("/work/held"), HELD], ids=["closed", "open"])
def test_an_empty_dir_travels_and_what_only_the_new_pods_init_containers_wrote_stays(
    stack: Stack, kubelet: Kubelet, *, memory: bool, script: str
) -> None:
    checkpoint_id = f"empty-{memory}-{script == HELD}"
    env = {"CEDANA_CHECKPOINT": checkpoint_id}
    pod = kubelet.pod("first")
    work = pod.empty_dir("work", memory=memory)
    pod.init("clone", "echo old >/work/cloned; mkdir /work/src; echo a >/work/src/a", {"/work": work})
    pod.start("main", script, env, {"/work": work})
    before = counts(work / "held")
    (work / "src" / "a").write_text("changed")

    pod = kubelet.move(pod, "second")
    work = pod.empty_dir("work", memory=memory)
    pod.init(
        "clone", "echo new >/work/cloned; mkdir /work/src; echo b >/work/src/b; echo x >/work/only", {"/work": work}
    )
    pod.start("main", script, env, {"/work": work})
    counts(work / "held", before + 5)
    assert (work / "cloned").read_text() == "old\n"
    assert (work / "src" / "a").read_text() == "changed"
    assert (work / "src" / "b").read_text() == "b\n"
    assert (work / "only").read_text() == "x\n"
    until(lambda: not (work / ".woodfrog-aside").exists(), saying="nothing is kept aside any more")
    assert restored(stack, checkpoint_id) == 1


def test_parts_of_a_volume_travel_by_where_they_are_mounted(stack: Stack, kubelet: Kubelet) -> None:
    env = {"CEDANA_CHECKPOINT": "parts"}
    script = f"echo mine >/b/mark; {counting('/a/count')}"

    def places(pod: Pod) -> dict[str, Path | str]:
        work = pod.empty_dir("work")
        return {"/a": pod.part(work, "one", "main", 0), "/b": pod.part(work, "two", "main", 1)}

    pod = kubelet.pod("first")
    pod.start("main", script, env, places(pod))
    before = counts(pod.empty_dir("work") / "one" / "count")
    pod = kubelet.move(pod, "second")
    pod.start("main", script, env, places(pod))
    work = pod.empty_dir("work")
    counts(work / "one" / "count", before + 5)
    assert (work / "two" / "mark").read_text() == "mine\n"
    assert restored(stack, "parts") == 1


def test_a_restore_that_fails_gives_the_volume_back_as_init_containers_left_it(
    stack: Stack, kubelet: Kubelet, tmp_path: Path
) -> None:
    """A file of a claim has another mode than at the dump, so CRIU refuses it: the cause is told, and the container starts anew."""
    env = {"CEDANA_CHECKPOINT": "claim-grew"}
    script = "exec 8<>/claim/open; echo x >&8; cat /work/cloned >>/claim/seen; " + counting("/work/count")
    pod = kubelet.pod("first")
    work = pod.empty_dir("work")
    pod.init("clone", "echo old >/work/cloned", {"/work": work})
    pod.start("main", script, env, {"/work": work, "/claim": tmp_path})
    before = counts(work / "count")

    pod = kubelet.move(pod, "second")
    work = pod.empty_dir("work")
    (tmp_path / "open").chmod(0o600)
    pod.init("clone", "echo new >/work/cloned", {"/work": work})
    pod.start("main", script, env, {"/work": work, "/claim": tmp_path})
    until(lambda: (tmp_path / "seen").read_text() == "old\nnew\n", saying="it started anew, with the new pod's files")
    assert counts(work / "count", 2) < before + 1000
    assert not (work / ".woodfrog-aside").exists()
    failed = [event for event in stack.history("claim-grew") if event["type"] == "incarnation.restore-failed"]
    assert [event["data"]["failure"]["code"] for event in failed] == ["file-changed"]


def test_volumes_travel_as_far_as_the_annotations_say(stack: Stack, kubelet: Kubelet) -> None:
    env = {"CEDANA_CHECKPOINT": "chosen"}
    wish = {"woodfrog.io/volumes": "work", "woodfrog.io/volumes-limit": "1MiB", "woodfrog.io/shm": "off"}

    def places(pod: Pod) -> dict[str, Path | str]:
        return {"/work": pod.empty_dir("work"), "/cache": pod.empty_dir("cache")}

    pod = kubelet.pod("first", annotations=wish)
    (pod.empty_dir("cache") / "large").write_bytes(bytes(4 << 20))
    main = pod.start("main", counting("/work/count"), env, places(pod))
    kubelet.cri.exec(main, "sh", "-c", "echo x >/dev/shm/mark")
    before = counts(pod.empty_dir("work") / "count")
    pod = kubelet.move(pod, "second", annotations=wish)
    main = pod.start("main", counting("/work/count"), env, places(pod))
    counts(pod.empty_dir("work") / "count", before + 5)
    assert list(pod.empty_dir("cache").iterdir()) == []
    assert kubelet.cri.exec(main, "ls", "/dev/shm") == ""

    (pod.empty_dir("work") / "large").write_bytes(b"x" * (2 << 20))
    refused = stack.cli("checkpoint", "chosen", check=False)
    assert refused.returncode != 0
    failed = [event for event in stack.history("chosen") if event["type"] == "snapshot.dump-failed"]
    assert failed[-1]["data"]["failure"]["code"] == "volumes-too-large"
    assert "in work" in failed[-1]["data"]["failure"]["cause"]
    counts(pod.empty_dir("work") / "count", before + 10)


def test_a_volume_that_the_new_pod_calls_something_else_is_left_out_and_said_to_be(
    stack: Stack, kubelet: Kubelet
) -> None:
    env = {"CEDANA_CHECKPOINT": "renamed"}
    script = f"echo x >/cache/old; {counting('/work/count')}"
    pod = kubelet.pod("first")
    places: dict[str, Path | str] = {"/work": pod.empty_dir("work"), "/cache": pod.empty_dir("cache")}
    pod.start("main", script, env, places)
    before = counts(pod.empty_dir("work") / "count")
    pod = kubelet.move(pod, "second")
    pod.start("main", script, env, {"/work": pod.empty_dir("work"), "/cache": pod.empty_dir("scratch")})
    counts(pod.empty_dir("work") / "count", before + 5)
    assert list(pod.empty_dir("scratch").iterdir()) == []
    started = [event for event in stack.history("renamed") if event["type"] == "container.started"]
    said = "the new container has no emptyDir or anonymous volume cache, so what the snapshot holds of it was left out"
    first, second = (event["data"].get("warnings", []) for event in started)
    assert first == []
    assert second == [said]
    assert said in stack.cli("why", "renamed").stdout


def test_a_directory_of_the_node_at_dev_shm_is_neither_copied_nor_written_to(
    stack: Stack, kubelet: Kubelet, tmp_path: Path
) -> None:
    env = {"CEDANA_CHECKPOINT": "foreign-shm"}
    (tmp_path / "passwd").write_text("root")
    tmp_path.chmod(0o777)

    def state() -> list[tuple[str, str]]:
        return sorted((path.name, path.read_text()) for path in tmp_path.iterdir())

    def places(pod: Pod) -> dict[str, Path | str]:
        return {"/work": pod.empty_dir("work")}

    pod = kubelet.pod("own")
    main = pod.start("main", counting("/work/count"), env, places(pod))
    kubelet.cri.exec(main, "sh", "-c", "echo evil >/dev/shm/passwd")
    counts(pod.empty_dir("work") / "count")
    pod = kubelet.move(pod, "foreign")
    pod.start("main", counting("/work/count"), env, {**places(pod), "/dev/shm": tmp_path})
    counts(pod.empty_dir("work") / "count")
    failed = [event for event in stack.history("foreign-shm") if event["type"] == "incarnation.restore-failed"]
    assert "shm-missing" in [event["data"]["failure"]["code"] for event in failed]
    assert state() == [("passwd", "root")]
    stack.cli("checkpoint", "foreign-shm")
    assert state() == [("passwd", "root")]
    stored = [event for event in stack.history("foreign-shm") if event["type"] == "snapshot.stored"]
    trees = stack.json("inspect", stored[-1]["data"]["snapshot_id"])["trees"]
    assert [tree["tree"] for tree in trees] == ["processes", "layer", "volume work"]
