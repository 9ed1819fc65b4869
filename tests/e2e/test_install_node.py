"""Installing on a machine with a real containerd, running protected containers there, and leaving it as it was."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import nodes
from support.cri import Cri
from support.nodes import Machine
from support.stack import Stack, until

from nodeworker.host import containerd, install, releases
from woodfrog.protocol.failures import FailureError

pytestmark = [pytest.mark.criu, pytest.mark.containerd, pytest.mark.timeout(300)]

COUNT = "i=0; while :; do i=$((i+1)); echo $i >> /data/count; sleep 0.1; done"
RUNNING = 1


@pytest.fixture(scope="module")
def bundle() -> Path:
    return nodes.built()


@pytest.fixture
def machine(bundle: Path) -> Iterator[Machine]:
    with tempfile.TemporaryDirectory(prefix="wf-", ignore_cleanup_errors=True) as folder:
        made = Machine(Path(folder))
        try:
            made.start()
            yield made
        finally:
            made.stop()


@pytest.fixture
def worker(machine: Machine, stack: Stack) -> Iterator[Any]:
    """A function that starts the installed worker, on the control plane of a stack."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        program = machine.places.bin / "woodfrog-node"
        settings = {
            "WOODFROG_NODE": "installed",
            "WOODFROG_NATS_URL": json.loads((stack.state / "dev.json").read_text())["nats_url"],
            "WOODFROG_STORE_URL": f"file://{machine.root}/store",
        }
        process = subprocess.Popen(
            [program, "run", *machine.arguments], env={**os.environ, **settings}, start_new_session=True
        )
        started.append(process)
        until((machine.places.run / "worker.sock").exists, 30, saying="the worker listens")
        return process

    yield start
    for process in started:
        process.kill()
        process.wait(timeout=20)


def numbers(text: str) -> int:
    found = [int(line) for line in text[: text.rfind("\n") + 1].split()]
    assert found == list(range(1, len(found) + 1))
    return len(found)


def test_a_node_that_is_uninstalled_is_byte_for_byte_as_it_was(machine: Machine) -> None:
    before = machine.footprint()
    first = machine.pid()

    done = machine.command("install")
    assert done.returncode == 0, done.stderr
    restarted = machine.pid()
    assert restarted != first
    assert "cedana" in machine.until_ready().handlers()

    installed = machine.footprint()
    again = machine.command("install")
    assert (again.returncode, machine.pid()) == (0, restarted), again.stderr
    assert machine.footprint() == installed

    gone = machine.command("uninstall", "--purge")
    assert gone.returncode == 0, gone.stderr
    assert machine.footprint() == before | {
        str(machine.root / name): machine.footprint()[str(machine.root / name)]
        for name in ("opt", "etc", "run", "var", "var/lib")
        if (machine.root / name).exists()
    }
    assert "cedana" not in machine.until_ready().handlers()
    last = machine.pid()
    assert machine.command("uninstall").returncode == 0
    assert machine.pid() == last


@pytest.mark.nats
def test_protected_containers_go_on_through_the_installed_runtime_and_outlive_the_uninstallation(
    machine: Machine, stack: Stack, worker: Any
) -> None:
    assert machine.command("install").returncode == 0
    machine.containerd.load_images(machine.root.parent)
    process = worker()
    examined = machine.command("doctor", "-o", "json")
    assert [each for each in json.loads(examined.stdout) if each["state"] == "failed"] == [], examined.stderr
    assert examined.returncode == 0
    env = {"CEDANA_CHECKPOINT": "installed"}
    with Cri(machine.containerd.socket, machine.root.parent / "cri") as cri:
        pod, config = cri.run_pod("before")
        first = cri.create(pod, config, ["sh", "-c", COUNT], env, {})
        cri.start(first)
        time.sleep(1)
        cri.stop(first)
        cri.remove_container(first)
        cri.remove_pod(pod)
        stack.until_stored("installed")

        pod, config = cri.run_pod("after")
        second = cri.create(pod, config, ["sh", "-c", COUNT], env, {})
        cri.start(second)
        cri.wait_for(second, RUNNING)
        assert numbers(cri.exec(second, "cat", "/data/count")) > 5
        bundle = machine.containerd.run / "state/io.containerd.runtime.v2.task/k8s.io" / second
        record = Path(f"/proc/{(bundle / 'init.pid').read_text()}/root/data/count")

        gone = machine.command("uninstall")
        assert gone.returncode == 0, gone.stderr
        assert process.wait(timeout=30) == 0
        left = [str(path.relative_to(machine.root)) for path in sorted((machine.root / "opt").rglob("*"))]
        assert left == ["opt/woodfrog", "opt/woodfrog/bin", "opt/woodfrog/bin/woodfrog-runtime"]
        cri.wait_for(second, RUNNING)
        seen = numbers(record.read_text())
        until(lambda: numbers(record.read_text()) > seen, 10, saying="it counts on")

        cri.stop(second, grace_seconds=2)
        cri.remove_container(second)
        assert machine.places.runtime.exists(), "the sandbox still needs it"
        cri.remove_pod(pod)
    assert not machine.places.home.exists()


def test_a_doctor_says_what_is_missing_and_what_to_do(machine: Machine) -> None:
    examined = machine.command("doctor", "-o", "json")
    found = {each["what"]: each for each in json.loads(examined.stdout)}
    assert examined.returncode == 1
    assert {what for what, each in found.items() if each["state"] == "failed"} >= {"installation", "engine", "worker"}
    assert found["installation"]["advice"] == "Run `woodfrog-node install`."
    assert found["kernel"]["state"] == "ok"


def test_a_new_release_restarts_nothing_and_old_ones_stay_while_something_runs_from_them(
    machine: Machine, bundle: Path, tmp_path: Path
) -> None:
    install.install(machine.options, bundle)
    pid = machine.pid()
    first = machine.places.current.resolve()
    running = subprocess.Popen([machine.places.bin / "python3", "-I", "-S", "-c", "import time; time.sleep(600)"])
    try:
        until(lambda: first.name in releases.in_use(machine.places), saying="the process runs")
        for name in ("second", "third"):
            install.install(machine.options, nodes.another_release(bundle, tmp_path / name, name))
            assert machine.places.current.resolve().name == name
            assert f"releases/{name}/bin/python3" in machine.places.runtime.read_text()
        assert machine.pid() == pid
        assert {path.name for path in machine.places.releases.iterdir()} == {first.name, "second", "third"}
    finally:
        running.kill()
        running.wait(timeout=20)
    install.install(machine.options, nodes.another_release(bundle, tmp_path / "fourth", "fourth"))
    assert {path.name for path in machine.places.releases.iterdir()} == {"third", "fourth"}
    assert machine.pid() == pid


def test_the_old_configuration_is_back_when_containerd_does_not_come_back_with_ours(
    machine: Machine, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containerd, "_RESTART_SECONDS", 4.0)
    before = machine.config.read_bytes(), machine.config.stat().st_mtime_ns
    machine.refusal.touch()
    with pytest.raises(FailureError) as problem:
        install.install(machine.options, bundle)
    assert problem.value.failure.code == "containerd-down"
    assert (machine.config.read_bytes(), machine.config.stat().st_mtime_ns) == before
    assert machine.until_ready().handlers() == {"runc"}

    machine.refusal.unlink()
    assert install.install(machine.options, bundle)
    assert "cedana" in machine.until_ready().handlers()


def test_an_installation_that_was_killed_before_the_restart_is_completed(machine: Machine, bundle: Path) -> None:
    install.install(machine.options, bundle)
    with_ours = machine.config.read_bytes()
    install.uninstall(machine.options)
    machine.config.write_bytes(with_ours)
    assert "cedana" not in machine.until_ready().handlers()
    assert install.install(machine.options, bundle)
    assert "cedana" in machine.until_ready().handlers()


class Killed(BaseException):
    """The end of a process, at any place."""


def killed(*_: object, **__: object) -> None:
    raise Killed


@pytest.mark.parametrize("at", ["containerd.restart", "_remove"])
def test_an_uninstallation_that_was_killed_in_the_middle_is_completed(
    machine: Machine, bundle: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    for folder in ("etc", "opt", "run"):
        (machine.root / folder).mkdir()
    before = machine.footprint()
    install.install(machine.options, bundle)
    with monkeypatch.context() as patch:
        patch.setattr(f"nodeworker.host.install.{at}", killed)
        with pytest.raises(Killed):
            install.uninstall(machine.options)
    install.uninstall(machine.options)
    assert machine.until_ready().handlers() == {"runc"}
    assert machine.footprint() == before


def test_containers_have_a_runtime_at_every_moment_of_an_uninstallation(
    machine: Machine, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install.install(machine.options, bundle)
    monkeypatch.setattr(install, "_users", lambda *_: True)
    with monkeypatch.context() as patch:
        patch.setattr(install, "_remove", killed)
        with pytest.raises(Killed):
            install.uninstall(machine.options)
    assert "not on this node any more" in machine.places.runtime.read_text()
    runc = install.read_record(machine.places)
    assert runc is not None
    install.uninstall(machine.options)
    assert runc.runc in machine.places.runtime.read_text()


def test_a_containerd_that_is_down_gets_its_configuration_back_as_well(machine: Machine, bundle: Path) -> None:
    before = machine.config.read_bytes()
    install.install(machine.options, bundle)
    machine.stop()
    install.uninstall(machine.options)
    assert machine.config.read_bytes() == before


def test_what_a_killed_installation_left_of_a_copy_goes_in_time(machine: Machine, bundle: Path) -> None:
    for name, age_seconds in (("old", 7200), ("new", 60)):
        left = machine.places.releases / f".fresh-{name}"
        left.mkdir(parents=True)
        (left / "half").write_text("")
        os.utime(left, (time.time() - age_seconds,) * 2)
    install.install(machine.options, bundle)
    assert [path.name for path in machine.places.releases.glob(".fresh-*")] == [".fresh-new"]


def test_settings_that_others_made_meanwhile_are_kept(machine: Machine, bundle: Path) -> None:
    install.install(machine.options, bundle)
    theirs = "\n[metrics]\n  address = ''\n"
    original = (machine.places.records / "config.toml.before").read_bytes()
    machine.config.write_bytes(machine.config.read_bytes() + theirs.encode())
    install.uninstall(machine.options)
    assert machine.config.read_bytes() == original + theirs.encode()
