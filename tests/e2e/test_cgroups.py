"""After a restore every process is in the new container's cgroup: its limits hold there, and its statistics count there.

Runs on cgroup v1 and v2, with the cgroupfs driver and, where systemd runs, with the systemd driver.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.lone_runtime import Container, LoneRuntime, eventually, runc_binary

from nodeworker.capture.criu.runc import RuncState
from nodeworker.domain import criu_failures
from nodeworker.host.facts import cgroup_version
from woodfrog.protocol.runtime_api import CreateCold, RestoreFailedNotification

pytestmark = [pytest.mark.criu, pytest.mark.timeout(120)]

V2 = cgroup_version(Path("/proc/self/mounts")) == 2
SYSTEMD = Path("/run/systemd/system").is_dir()
MIB = 1 << 20
PROGRAM = r"""
import json, os, time
def eat(mib):
    child = os.fork()
    if child == 0:
        held = []
        for _ in range(mib):
            held.append(bytearray(os.urandom(1 << 16) * 16))
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
def fork(count):
    children = []
    try:
        for _ in range(count):
            child = os.fork()
            if child == 0:
                time.sleep(60)
            children.append(child)
    except OSError:
        pass
    for child in children:
        os.kill(child, 9)
        os.waitpid(child, 0)
    return len(children)
if os.fork() == 0:
    os._exit(0)  # nobody waits for it: CRIU restores a process that has ended
helper = os.fork()
if helper == 0:
    while True:
        time.sleep(0.1)
number = 0
while True:
    number += 1
    with open("/count.new", "w") as file:
        file.write(str(number))
    os.rename("/count.new", "/count")
    if os.path.exists("/order"):
        what, argument = open("/order").read().split()
        os.unlink("/order")
        with open("/answer.new", "w") as file:
            json.dump({"eat": eat, "fork": fork}[what](int(argument)), file)
        os.rename("/answer.new", "/answer")
    time.sleep(0.02)
"""

MOVING_RUNC = """#!/bin/sh
{runc} "$@" || exit
for word do
    if [ "$word" = restore ]; then
        pid=$(sed -n 's/.*"init_process_pid":\\([0-9]*\\).*/\\1/p' {state})
        for each in /sys/fs/cgroup /sys/fs/cgroup/*; do
            echo $pid >$each/cgroup.procs
        done 2>/dev/null
    fi
done
exit 0
"""


@pytest.fixture
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoneRuntime]:
    made = LoneRuntime(tmp_path_factory.mktemp("lone"))
    yield made
    made.close()


def driver(name: str) -> Any:
    return pytest.param(
        name == "systemd",
        id=name,
        marks=[] if name == "cgroupfs" or SYSTEMD else pytest.mark.skip(reason="no systemd runs on this machine"),
    )


def program(spec: dict[str, Any]) -> None:
    spec["process"]["args"] = [sys.executable, "-I", "-S", "-c", PROGRAM]


def with_own_hierarchy(spec: dict[str, Any]) -> None:
    """What engines give a container on cgroup v2: a cgroup namespace, and the hierarchy at /sys/fs/cgroup."""
    script = "mkdir -p /sys/fs/cgroup/own; i=0; while :; do i=$((i+1)); echo $i >/count; sleep 0.02; done"
    spec["process"]["args"] = ["/bin/sh", "-c", script]
    spec["process"]["capabilities"] = {key: ["CAP_DAC_OVERRIDE"] for key in ("bounding", "effective", "permitted")}
    spec["mounts"] += [
        {"destination": "/sys", "type": "sysfs", "source": "sysfs"},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"},
    ]
    spec["linux"]["namespaces"].append({"type": "cgroup"})


def moved(runtime: LoneRuntime, *, systemd: bool, spec: Any = program, **settings: Any) -> tuple[Container, Container]:
    """A container that was dumped, and the one that it was restored into and goes on in."""
    first = runtime.container(systemd=systemd, spec=spec)
    runtime.worker(create=first.cold)
    first.run()
    images = first.dump()
    counted = first.count()
    second = runtime.container(on=first, hostname="second", systemd=systemd, spec=spec, **settings)
    runtime.worker(create=lambda _ask: second.restored(images))
    assert second.create() == 0, second.said()
    assert first.count() == counted
    started = second.call("start", second.id)
    assert started.returncode == 0, started.stderr
    eventually(lambda: first.count() > counted + 2, "the restored container counts on")
    return first, second


def ask(first: Container, what: str, argument: int) -> int:
    """Give the program an order through its files; the answer comes back the same way."""
    for name in ("order", "answer"):
        (first.rootfs / name).unlink(missing_ok=True)
    (first.rootfs / "order.new").write_text(f"{what} {argument}")
    (first.rootfs / "order.new").rename(first.rootfs / "order")
    eventually((first.rootfs / "answer").exists, "the program answers", 40)
    return int(json.loads((first.rootfs / "answer").read_text()))


def folder(state: RuncState, controller: str) -> Path:
    return Path(state.cgroup_paths["" if V2 else controller])


def statistic(state: RuncState, controller: str, file: str, key: str) -> int:
    lines = (folder(state, controller) / file).read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.split()[0] == key)


def out_of_memory_kills(state: RuncState) -> int:
    return statistic(state, "memory", "memory.events" if V2 else "memory.oom_control", "oom_kill")


def processor_time(state: RuncState) -> int:
    if V2:
        return statistic(state, "cpu", "cpu.stat", "usage_usec")
    return int((folder(state, "cpuacct") / "cpuacct.usage").read_text())


@pytest.mark.parametrize("systemd", [driver("cgroupfs"), driver("systemd")])
def test_every_process_is_in_the_new_containers_cgroups_and_the_old_ones_can_be_removed(
    runtime: LoneRuntime, systemd: bool
) -> None:
    first, second = moved(runtime, systemd=systemd)
    old, new = first.state(), second.state()
    for path in new.cgroup_paths.values():
        pids = [int(line) for line in (Path(path) / "cgroup.procs").read_text().split()]
        assert len(pids) == 2
        assert new.pid in pids
    assert not set(old.cgroup_paths.values()) & set(new.cgroup_paths.values())
    assert first.call("delete", first.id).returncode == 0
    assert not [path for path in old.cgroup_paths.values() if Path(path).exists()]
    before = first.count()
    eventually(lambda: first.count() > before, "the new container does not need the old cgroups")


@pytest.mark.parametrize("systemd", [driver("cgroupfs"), driver("systemd")])
def test_the_new_containers_limits_hold_and_its_statistics_count(runtime: LoneRuntime, systemd: bool) -> None:
    limits = {"memory": {"limit": 96 * MIB, "swap": 96 * MIB}, "pids": {"limit": 12}}
    bystander = runtime.container()
    runtime.worker(create=bystander.cold)
    bystander.run()
    first, second = moved(runtime, systemd=systemd, resources=limits)
    state = second.state()
    assert out_of_memory_kills(state) == 0
    assert ask(first, "eat", 32) == 0
    assert ask(first, "eat", 300) == -9
    assert out_of_memory_kills(state) > 0
    assert 2 <= ask(first, "fork", 40) <= 10
    used = processor_time(state)
    before = first.count(), bystander.count()
    eventually(lambda: first.count() > before[0], "the container itself outlived its child")
    eventually(lambda: bystander.count() > before[1], "nobody else was killed")
    assert processor_time(state) > used


@pytest.mark.skipif(not V2, reason="cgroup v2 only")
@pytest.mark.parametrize("systemd", [driver("cgroupfs"), driver("systemd")])
def test_a_container_sees_its_own_hierarchy_only_and_gets_back_what_it_made_there(
    runtime: LoneRuntime, systemd: bool
) -> None:
    def options() -> list[str]:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        return sorted(line.split(" - ")[1].split()[2] for line in lines if line.split()[4] == "/sys/fs/cgroup")

    before = options()
    _, second = moved(runtime, systemd=systemd, spec=with_own_hierarchy)
    state = second.state()
    assert Path(f"/proc/{state.pid}/ns/cgroup").readlink() != Path("/proc/self/ns/cgroup").readlink()
    inside = Path(f"/proc/{state.pid}/root/sys/fs/cgroup")
    assert inside.samefile(folder(state, ""))
    assert (folder(state, "") / "own").is_dir()
    assert options() == before, "the machine's own options of cgroup2 are as they were"


def with_controllers(spec: dict[str, Any]) -> None:
    """What engines give a container on cgroup v1: its own cgroup of each controller."""
    script = "i=0; while :; do i=$((i+1)); echo $i >/count; sleep 0.02; done"
    spec["process"]["args"] = ["/bin/sh", "-c", script]
    spec["mounts"] += [
        {"destination": "/sys", "type": "sysfs", "source": "sysfs"},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid"]},
    ]


@pytest.mark.skipif(V2, reason="cgroup v1 only")
@pytest.mark.parametrize("systemd", [driver("cgroupfs"), driver("systemd")])
def test_a_container_sees_its_own_cgroup_of_each_controller(runtime: LoneRuntime, systemd: bool) -> None:
    _, second = moved(runtime, systemd=systemd, spec=with_controllers)
    state = second.state()
    inside = Path(f"/proc/{state.pid}/root/sys/fs/cgroup")
    seen = {place.name: place for place in inside.iterdir()}
    assert {"memory", "pids", "cpu"} <= seen.keys()
    controllers = {name.removeprefix("name="): path for name, path in state.cgroup_paths.items() if name}
    assert all(seen[name].samefile(path) for name, path in controllers.items())


def leave(state: RuncState) -> None:
    """Move a container's processes out of its cgroups, as runc 1.1 and CRIU left them elsewhere on cgroup v2."""
    for path in state.cgroup_paths.values():
        hierarchy = next(parent for parent in Path(path).parents if parent.is_mount())
        for pid in (Path(path) / "cgroup.procs").read_text().split():
            (hierarchy / "cgroup.procs").write_text(pid)


def test_a_start_does_not_succeed_while_a_process_is_stopped(runtime: LoneRuntime) -> None:
    first = runtime.container()
    runtime.worker(create=first.cold)
    first.run()
    images = first.dump()
    second = runtime.container(on=first, hostname="second")
    runtime.worker(create=lambda _ask: second.restored(images))
    assert second.create() == 0, second.said()
    state = second.state()
    leave(state)
    (second.marker.parent / "resume").unlink()
    started = second.call("start", second.id)
    assert started.returncode == 1
    assert f"processes {state.pid} of the restored container do not continue" in started.stderr
    assert Path(f"/proc/{state.pid}/stat").read_text().rpartition(") ")[2].startswith("T")
    os.kill(state.pid, signal.SIGKILL)


def test_a_restore_that_leaves_its_processes_elsewhere_has_failed(runtime: LoneRuntime) -> None:
    first = runtime.container()
    runtime.worker(create=first.cold)
    first.run()
    images = first.dump()
    second = runtime.container(on=first, hostname="second")
    moving = runtime.folder / "moving-runc"
    moving.write_text(MOVING_RUNC.format(runc=runc_binary(), state=runtime.root / second.id / "state.json"))
    moving.chmod(0o755)
    runtime.path = runtime.write(runc=moving)
    failed: list[str] = []

    def give_up(told: RestoreFailedNotification) -> CreateCold:
        failed.append(told.message)
        return second.cold()

    runtime.worker(create=lambda _ask: second.restored(images), restore_failed=give_up)
    assert second.create() == 0, second.said()
    assert "are not in the container's cgroup" in failed[0]
    assert criu_failures.explain("", failed[0]).code == "cgroup-misplaced"
