"""The self-test of a node: it passes where a container survives, and names the step and the cause where one does not."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.lone_runtime import chosen_criu, eventually, runc_binary
from support.servers import NatsServer
from support.stack import Stack

from nodeworker.host import self_test
from woodfrog.protocol import subjects, wire
from woodfrog.protocol.reports import Heartbeat
from woodfrog.service.nats import connect

pytestmark = [pytest.mark.criu, pytest.mark.timeout(120)]


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def left_behind() -> tuple[list[str], str]:
    mounts = Path("/proc/self/mounts").read_text()
    folders = [path.name for path in Path("/run").glob("woodfrog-self-test-*")]
    return folders, "\n".join(line for line in mounts.splitlines() if "woodfrog-self-test-" in line)


@pytest.fixture(autouse=True)
def nothing_is_left() -> object:
    yield
    assert left_behind() == ([], "")


def test_a_container_goes_the_whole_way_on_this_machine() -> None:
    outcome = self_test.run(runc_binary(), chosen_criu().resolve())
    assert outcome.failure is None, outcome
    assert outcome.seconds > 0


def test_a_success_is_kept_for_the_same_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_test, "KEPT", tmp_path / "kept")
    criu = chosen_criu().resolve()
    assert not self_test.ensure(runc_binary(), criu).kept
    assert self_test.ensure(runc_binary(), criu).kept
    other = program(tmp_path / "other/criu", f'exec {criu} "$@"')
    assert not self_test.ensure(runc_binary(), other).kept


def test_a_criu_that_crashes_is_named_with_its_version_and_the_signal(tmp_path: Path) -> None:
    real = chosen_criu().resolve()
    python = tmp_path / "criu"
    python.symlink_to(Path(sys.executable).resolve())  # the kernel knows a process by this name
    crash = f"exec {python} -I -S -c 'import ctypes; ctypes.string_at(0)'"
    criu = program(tmp_path / "bin/criu", f'case $1 in swrk) {crash};; esac\nexec {real} "$@"')
    outcome = self_test.run(runc_binary(), criu)
    assert outcome.step == "dump"
    assert outcome.failure is not None
    assert outcome.failure.code == "criu-crashed"
    version = subprocess.run(
        [real, "--version"], capture_output=True, text=True, check=True, timeout=20
    ).stdout.split()[1]
    assert version in outcome.failure.cause
    if Path("/proc/sys/debug/exception-trace").read_text().strip() == "1":
        assert "SIGSEGV" in outcome.failure.cause
    refusal = self_test.refusal_of(outcome)
    assert refusal.code == "self-test-failed"
    assert "step 'dump'" in refusal.cause
    assert "criu-crashed" in refusal.cause


@pytest.mark.nats
async def test_a_worker_that_ends_because_its_self_test_failed_says_so_first(tmp_path: Path) -> None:
    crash = program(tmp_path / "criu", f'case $1 in swrk) kill -SEGV $$;; esac\nexec {chosen_criu().resolve()} "$@"')
    with closing(NatsServer(tmp_path / "nats")) as server:
        await asyncio.to_thread(server.start)
        client = await connect(server.url, name="test")
        heard = await client.subscribe(subjects.HEARTBEATS_ALL)
        await client.flush()
        settings = {
            "NODE": "sick",
            "NATS_URL": server.url,
            "STATE_DIR": str(tmp_path / "s"),
            "RUN_DIR": str(tmp_path / "r"),
        }
        tools = {"CRIU": str(crash), "RUNC": str(runc_binary())}
        worker = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "nodeworker", cwd=Path(__file__).parents[2],
            env={**os.environ, **{f"WOODFROG_{name}": value for name, value in (settings | tools).items()}},
        )  # fmt: skip
        assert await worker.wait() == 1
        said: Heartbeat = wire.decode((await heard.next_msg(10)).data, Heartbeat)
        await client.close()
    assert said.status is not None
    assert said.status.self_test is not None
    assert said.status.self_test.failure is not None
    assert (said.node, said.status.self_test.step) == ("sick", "dump")


def test_a_restore_that_does_not_stop_its_processes_is_found(tmp_path: Path) -> None:
    """A runc that does not hand our configuration over: CRIU lets the processes run at once."""
    script = "for word do case $word in restore) sed -i /leave-stopped/d /run/woodfrog-self-test-*/*-2/criu.conf;; esac; done"
    runc = program(tmp_path / "runc", f'{script}\nexec {runc_binary()} "$@"')
    outcome = self_test.run(runc, chosen_criu().resolve())
    assert outcome.step == "continue"
    assert outcome.failure is not None
    assert outcome.failure.code == "not-stopped"


def test_processes_in_the_wrong_cgroup_are_found(tmp_path: Path) -> None:
    """As with runc 1.1 on cgroup v2 before its configuration named the new cgroup."""
    move = (
        '/bin/sh -c \'sleep 0.1; pid=$(sed -n "s/.*init_process_pid\\":\\([0-9]*\\).*/\\1/p" '
        "/run/woodfrog-self-test-*/runc/*-2/state.json); "
        "for each in /sys/fs/cgroup /sys/fs/cgroup/*; do echo $pid > $each/cgroup.procs; done' 2>/dev/null"
    )
    runc = program(
        tmp_path / "runc",
        f'{runc_binary()} "$@" || exit\nfor word do case $word in restore) {move};; esac; done\nexit 0',
    )
    outcome = self_test.run(runc, chosen_criu().resolve())
    assert outcome.step == "cgroup"
    assert outcome.failure is not None
    assert outcome.failure.code == "cgroup-misplaced"


def test_a_program_that_is_no_criu_is_said_to_be_none(tmp_path: Path) -> None:
    outcome = self_test.run(runc_binary(), program(tmp_path / "criu", "exit 1"))
    assert outcome.failure is not None
    assert outcome.failure.code == "criu-missing"


def test_the_doctor_of_one_machine_finds_that_all_works_and_shows_no_password(stack: Stack) -> None:
    done = stack.cli("doctor", "-o", "json", check=False)
    findings = {finding["what"]: finding for finding in json.loads(done.stdout)}
    assert done.returncode == 0, done.stdout
    assert {finding["state"] for finding in findings.values()} <= {"ok", "warning"}
    assert findings["self-test"]["state"] == "ok"
    assert "@" not in findings["nats"]["found"]


def test_what_a_worker_says_of_its_node_is_listed(stack: Stack) -> None:
    def status() -> dict[str, Any] | None:
        (row,) = json.loads(stack.cli("get", "nodes", "-o", "json").stdout)
        found: dict[str, Any] | None = (row["now"] or {}).get("status")
        return found if found is not None and "disk" in found else None

    said = eventually(status, "the worker has said it", 30)
    assert "failure" not in said["self_test"]
    assert 0 < said["disk"]["free_bytes"] <= said["disk"]["total_bytes"]
    assert "work" not in said
    assert "passed 20" in stack.cli("get", "nodes", "-o", "wide").stdout


def test_a_runtime_other_than_runc_is_refused_by_name(tmp_path: Path) -> None:
    crun = program(tmp_path / "crun", "echo crun version 1.8.1")
    outcome = self_test.run(crun, chosen_criu().resolve())
    assert outcome.failure is not None
    assert outcome.failure.code == "runtime-unsupported"
    assert "crun version 1.8.1" in outcome.failure.cause


def test_a_python_on_a_mount_of_its_own_is_found(tmp_path: Path) -> None:
    """As on a node whose /opt, or whose /usr, is another file system than its root."""
    copied, mounted = tmp_path / "copied", tmp_path / "mounted"
    mounted.mkdir()
    shutil.copytree(Path(sys.prefix) / "bin", copied / "bin", symlinks=True)
    shutil.copy(Path(sys.prefix) / "pyvenv.cfg", copied)
    ask = "import sys; from pathlib import Path; from nodeworker.host import self_test; print(self_test.run(*map(Path, sys.argv[1:])))"
    script = f'mount --bind {copied} {mounted} && exec {mounted}/bin/python -c "$0" "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, ask, runc_binary(), chosen_criu().resolve()],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "step=None, failure=None" in done.stdout
