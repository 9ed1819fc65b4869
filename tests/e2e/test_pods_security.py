"""Pods with a security context, as clusters ask for them: restricted ones, and ones with users of their own.

Through a real containerd, with the cgroupfs driver and, where systemd runs, with the systemd driver of current clusters.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import kubelet as kubelets
from support.containerd import CONFIG, SYSTEMD_CONFIG, Containerd, running
from support.counting import counting, counts, restored
from support.cri import Cri
from support.kubelet import HOST_USERS, Kubelet, Pod
from support.stack import Stack, until

from nodeworker.host.facts import cgroup_version
from woodfrog.service.procfs import status_fields

pytestmark = [pytest.mark.criu, pytest.mark.containerd, pytest.mark.nats, pytest.mark.timeout(120)]

V2 = cgroup_version(Path("/proc/self/mounts")) == 2
no_systemd = pytest.mark.skipif(not Path("/run/systemd/system").is_dir(), reason="no systemd runs on this machine")
CAP_SYS_RESOURCE = 24
needs_limits = pytest.mark.skipif(
    not int(status_fields("self")["CapEff"], 16) >> CAP_SYS_RESOURCE & 1,
    reason="this machine's root lacks CAP_SYS_RESOURCE, without which CRIU dumps processes of root only",
)
CONTAINERD = tuple(
    map(
        int,
        re.findall(
            r"\d+",
            subprocess.run(["containerd", "--version"], check=True, capture_output=True, text=True, timeout=20)
            .stdout.partition(" ")[2]
            .partition(" ")[2],
        )[:2],
    )
)
MIB = 1 << 20
COUNT = counting("/work/count")
RESTRICTED: dict[str, Any] = {
    "run_as_user": 1000,
    "run_as_group": 3000,
    "supplemental_groups": [2000, 4000],
    "readonly_rootfs": True,
    "no_new_privs": True,
    "drop": ["ALL"],
    "seccomp": "RuntimeDefault",
    "memory_bytes": 64 * MIB,
}


@pytest.fixture(scope="module", params=["cgroupfs", pytest.param("systemd", marks=no_systemd)])
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def engine(stack: Stack, driver: str) -> Iterator[Containerd]:
    with running(stack.runtime, SYSTEMD_CONFIG if driver == "systemd" else CONFIG) as containerd:
        yield containerd


@pytest.fixture
def kubelet(engine: Containerd, driver: str) -> Iterator[Kubelet]:
    systemd = driver == "systemd"
    with (
        Cri(engine.socket, engine.root / "cri") as client,
        kubelets.running(client, engine.root / "k", systemd=systemd) as made,
    ):
        yield made


def first_process(engine: Containerd, container: str) -> int:
    """Return the container's first process, as the host sees it."""
    (file,) = engine.run.glob(f"**/{container}/init.pid")
    return int(file.read_text())


def seen(engine: Containerd, container: str) -> dict[str, str]:
    """Read what the kernel says of the container's first process."""
    pid = first_process(engine, container)
    names = ("Uid", "Gid", "Groups", "CapBnd", "CapEff", "NoNewPrivs", "Seccomp")
    fields = {name: status_fields(pid)[name] for name in names}
    return fields | {"profile": Path(f"/proc/{pid}/attr/current").read_text().strip("\0\n")}


def failures(stack: Stack, checkpoint_id: str) -> list[str]:
    return [event["data"]["failure"]["code"] for event in stack.history(checkpoint_id) if event["data"].get("failure")]


def memory_limit(pid: int) -> int:
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    if V2:
        return int(Path(f"/sys/fs/cgroup{lines[0].partition('::')[2]}/memory.max").read_text())
    path = next(line.split(":", 2)[2] for line in lines if line.split(":")[1] == "memory")
    return int(Path(f"/sys/fs/cgroup/memory{path}/memory.limit_in_bytes").read_text())


@needs_limits
def test_a_restricted_pod_continues_in_the_next_pod_with_the_same_rights(
    stack: Stack, engine: Containerd, kubelet: Kubelet, driver: str
) -> None:
    checkpoint_id = f"restricted-{driver}"

    def start(pod: Pod) -> tuple[str, Path]:
        work = pod.empty_dir("work")
        main = pod.start("main", COUNT, {"CEDANA_CHECKPOINT": checkpoint_id}, {"/work": work}, **RESTRICTED)
        return main, work

    pod = kubelet.pod("first")
    main, work = start(pod)
    before = counts(work / "count")
    rights = seen(engine, main)
    pod = kubelet.move(pod, "second")
    main, work = start(pod)
    counts(work / "count", before + 5)
    assert restored(stack, checkpoint_id) == 1
    assert seen(engine, main) == rights
    assert (rights["Uid"].split()[0], rights["Gid"].split()[0], rights["Groups"]) == ("1000", "3000", "2000 3000 4000")
    assert (int(rights["CapBnd"], 16), rights["NoNewPrivs"], rights["Seccomp"]) == (0, "1", "2")
    if Path("/sys/kernel/security/apparmor").is_dir():
        assert rights["profile"] == "cri-containerd.apparmor.d (enforce)"
    pid = first_process(engine, main)
    assert memory_limit(pid) == 64 * MIB
    assert kubelet.cgroup_parent(pod.uid).rpartition("/")[2] in Path(f"/proc/{pid}/cgroup").read_text()


@pytest.mark.skipif(CONTAINERD < (1, 7), reason="this containerd is older than 1.7 and knows no user namespaces")
def test_a_pod_with_users_of_its_own_is_not_dumped_in_vain_and_gets_no_snapshot_of_the_nodes_users(
    stack: Stack, kubelet: Kubelet, engine: Containerd, driver: str
) -> None:
    """CRIU can restore into no user namespace that is there already, and would restore root of the node into this pod."""
    checkpoint_id = f"users-{driver}"
    env = {"CEDANA_CHECKPOINT": checkpoint_id}
    pod = kubelet.pod("first")
    work = pod.empty_dir("work")
    pod.start("main", COUNT, env, {"/work": work})
    counts(work / "count")
    pod = kubelet.move(pod, "second", host_users=False)
    work = pod.empty_dir("work")
    main = pod.start("main", COUNT, env, {"/work": work})
    before = counts(work / "count")
    assert restored(stack, checkpoint_id) == 0
    (cold,) = [each for each in stack.history(checkpoint_id) if each["type"] == "incarnation.cold-start-chosen"][1:]
    assert "users are mapped to the node's own" in cold["data"]["reason"]
    assert seen(engine, main)["Uid"].split(maxsplit=1)[0] == str(HOST_USERS)
    assert stack.cli("checkpoint", checkpoint_id, check=False).returncode != 0
    until(lambda: failures(stack, checkpoint_id), saying="the dump is refused")
    assert failures(stack, checkpoint_id)[0] == "user-namespace"
    assert stack.types(checkpoint_id).count("snapshot.dump-started") == 1
    counts(work / "count", before + 5)
