"""Whether this node can do what a node worker promises: dump a container, restore it into a new one, and let it continue.

``criu check`` and a trial dump are not enough. CRIU 4.1 passes its check on Linux 6.16 and later and cannot dump a TCP
socket; CRIU 4.1.1 dumps by itself and dies of a configuration file that runc hands over; with runc 1.1 on cgroup v2 a dump
and a restore succeed and the processes are in the wrong cgroup. So a small container that counts, listens and holds a
file goes the whole way: through this node's runc and CRIU, with our configuration files, in this node's cgroup version and,
where systemd and D-Bus run, with the systemd driver.

Used by set-up, which chooses a CRIU by it, by the installation and the node worker before they call a node ready, and by the
doctor. A success is kept under /run for the boot, the kernel, runc, CRIU and our configuration; a failure is not.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import msgspec

from nodeworker.capture.criu import criu as criu_tool
from nodeworker.capture.criu.cgroup_yard import make_yard
from nodeworker.capture.criu.runc import Runc, RuncState
from nodeworker.domain import criu_failures
from nodeworker.domain.cgroup_path import absolute_path
from nodeworker.domain.criu_options import CriuConfig
from nodeworker.errors import failure_of, refusal
from nodeworker.host.facts import cgroup_version
from nodeworker.runtime.commandline import Call
from nodeworker.runtime.container import State
from woodfrog.protocol import wire
from woodfrog.protocol.failures import Failure, FailureError
from woodfrog.protocol.node_status import SelfTest
from woodfrog.service import libc, procfs

KEPT: Final = Path("/run/woodfrog-self-test")
_FAILED: Final = "failed.json"
"""In :data:`KEPT`: how the last self-test ended, if it failed."""
_PROGRAM: Final = """
import socket, time
listener = socket.create_server(("0.0.0.0", 0))
file = open("/count", "w+")
for number in range(1, 20_000):
    file.write(f"{number}\\n")
    file.flush()
    time.sleep(0.02)
"""
_SECONDS: Final = 60.0
_ADVICE: Final = "Try another CRIU or runc: docs/reference/support.md names combinations that were proven."
_POLL_SECONDS: Final = 0.02
_LISTENS: Final = "0A"
"""TCP_LISTEN in the column ``st`` of proc_net_tcp(5)."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a self-test. ``step`` is the one that failed; ``None`` if all succeeded."""

    seconds: float
    step: str | None = None
    failure: Failure | None = None
    kept: bool = False
    """Whether this is the success of an earlier one."""
    at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def told(self) -> SelfTest:
        """Return it as it is told to others, without the lines of a tool's log."""
        failure = None if self.failure is None else msgspec.structs.replace(self.failure, detail="")
        return SelfTest(self.at, self.step or "", failure)


class SelfTestFailedError(FailureError):
    """The node cannot do what a node worker promises."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(refusal_of(outcome))
        self.outcome = outcome


def ensure(runc: Path, criu: Path) -> Outcome:
    """Return at once if a self-test with the same runc, CRIU and kernel has succeeded since the node booted, else run one.

    Raises:
        SelfTestFailedError: ``self-test-failed``, saying at which step and why.
    """
    mark, failed = KEPT / _fingerprint(runc, criu), KEPT / _FAILED
    if mark.exists():
        failed.unlink(missing_ok=True)
        return Outcome(0.0, kept=True, at=datetime.fromtimestamp(mark.stat().st_mtime, UTC))
    outcome = run(runc, criu)
    with suppress(OSError):  # the next one takes a little longer then
        KEPT.mkdir(mode=0o700, exist_ok=True)
        if outcome.failure is None:
            failed.unlink(missing_ok=True)
            mark.touch(mode=0o600)
        else:
            failed.write_bytes(wire.encode(outcome.told()))
    if outcome.failure is not None:
        raise SelfTestFailedError(outcome)
    return outcome


def last_failure(root: Path = Path("/")) -> SelfTest | None:
    """Return how the last self-test ended of the node whose files are below ``root``, if it failed."""
    with suppress(OSError, wire.MalformedMessageError):
        failed: SelfTest = wire.decode((root / KEPT.relative_to("/") / _FAILED).read_bytes(), SelfTest)
        return failed
    return None


def refusal_of(outcome: Outcome) -> Failure:
    """Return the failure that stands for a self-test that failed."""
    assert outcome.failure is not None
    inner = outcome.failure
    cause = f"a test container did not survive a dump and a restore on this node: step {outcome.step!r} failed: {inner.cause}"
    return Failure("self-test-failed", f"{cause} ({inner.code})", inner.advice, inner.detail)


def run(runc: Path, criu: Path) -> Outcome:
    """Run the test. Blocks for seconds; needs root; leaves nothing behind. Never raises for what the test is about."""
    began = time.monotonic()
    step = "prepare"
    try:
        with _scratch() as folder:
            test = _Test(folder, runc, criu)
            try:
                for step, act in test.steps():  # noqa: B007 -- the step that failed is reported
                    act()
            finally:
                test.close()
    except (OSError, ValueError, KeyError, IndexError, subprocess.SubprocessError, FailureError) as problem:
        return Outcome(time.monotonic() - began, step, failure_of(problem))
    return Outcome(time.monotonic() - began)


def _fingerprint(runc: Path, criu: Path) -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    version = criu_tool.version(criu)
    config = CriuConfig(version, "yard")
    named = (boot, os.uname().release, str(runc), Runc(runc, criu).version(), str(criu.resolve()), version)
    return hashlib.sha256("\n".join((*named, config.for_dump(), config.for_restore("/x"))).encode()).hexdigest()[:32]


@contextmanager
def _scratch() -> Iterator[Path]:
    """Make a directory in memory, in which an overlay can have its upper layer whatever the node's disks are."""
    folder = Path(tempfile.mkdtemp(prefix="woodfrog-self-test-", dir="/run"))
    try:
        libc.mount("tmpfs", folder, "tmpfs", data="mode=0700")
        try:
            yield folder
        finally:
            libc.unmount(folder, libc.MNT_DETACH)
    finally:
        folder.rmdir()


def _places() -> list[str]:
    """List the mounts besides the root's that this Python and what it needs lie on: the container's root shows none of them."""
    mounted = {mount.place for mount in procfs.mounts()} - {"/"}
    needed = {sys.executable, sys.prefix, sys.base_prefix, "/bin/sh", "/usr", "/lib", "/lib64"}
    found = set()
    for path in needed | {os.path.realpath(each) for each in needed}:
        found |= mounted & {path, *map(str, Path(path).parents)}
    return sorted(found)


class _Test:
    """One run: a container that is dumped, and the one that it is restored into."""

    def __init__(self, folder: Path, runc: Path, criu: Path) -> None:
        self._folder = folder
        self._runc = Runc(runc, criu)
        self._root = folder / "runc"
        name = uuid4().hex[:12]
        self._names = (f"woodfrog-self-test-{name}-1", f"woodfrog-self-test-{name}-2")
        self._systemd = Path("/run/systemd/system").is_dir() and Path("/run/dbus/system_bus_socket").exists()
        self._v2 = cgroup_version(Path("/proc/self/mounts")) == 2
        self._dumped_at = 0
        self._old: RuncState | None = None

    def steps(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """List what is done, in order; each may raise."""
        yield "prepare", self._prepare
        yield "criu check", lambda: criu_tool.check(self._runc.criu)
        yield "run", self._run
        yield "dump", self._dump
        yield "restore", self._restore
        yield "cgroup", self._check_cgroup
        yield "continue", self._continue
        yield "clean up", self._clean_up

    def close(self) -> None:
        """End both containers, whatever became of them."""
        for name in self._names:
            with suppress(FailureError):
                self._runc.delete(self._root, name, force=True)
        with suppress(OSError):  # it is not mounted
            libc.unmount(self._folder / "rootfs", libc.MNT_DETACH)

    def _prepare(self) -> None:
        said = self._runc.version()
        if said.startswith(("crun", "youki", "runsc")):
            cause = f"{self._runc.binary} is {said}, which keeps its state and calls CRIU in ways of its own"
            raise refusal("runtime-unsupported", cause, "Install runc, or name it in WOODFROG_RUNC.")
        for name in ("upper", "work", "rootfs", *self._names):
            (self._folder / name).mkdir()
        layers = f"lowerdir=/,upperdir={self._folder}/upper,workdir={self._folder}/work"
        libc.mount("overlay", self._folder / "rootfs", "overlay", data=layers)
        yard = make_yard(self._folder, 2 if self._v2 else 1)
        self._config = CriuConfig(criu_tool.version(self._runc.criu), None if yard is None else str(yard))
        for name in self._names:
            (self._folder / name / "config.json").write_text(json.dumps(self._spec(name)))

    def _cgroups_path(self, name: str) -> str:
        return f"system.slice:woodfrog:{name}" if self._systemd else f"/woodfrog-self-test/{name}"

    def _spec(self, name: str) -> dict[str, Any]:
        kinds = ("pid", "network", "ipc", "uts", "mount", *(("cgroup",) if self._v2 else ()))
        cgroup = [{"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]}]
        return {
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": 0, "gid": 0},
                "args": [sys.executable, "-I", "-S", "-c", _PROGRAM],
                "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
                "cwd": "/",
                "noNewPrivileges": True,
            },
            "root": {"path": str(self._folder / "rootfs")},
            "hostname": "self-test",
            "annotations": {"org.criu.config": str(self._folder / name / "criu.conf")},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
                {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]},
                *(cgroup if self._v2 else ()),
                *(
                    {"destination": place, "type": "bind", "source": place, "options": ["bind", "ro"]}
                    for place in _places()
                ),
            ],
            "linux": {
                "cgroupsPath": self._cgroups_path(name),
                "namespaces": [{"type": kind} for kind in kinds],
                "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            },
        }

    def _globals(self) -> list[str]:
        log = [f"--log={self._folder}/runc.log", "--log-format=json"]
        return [*(("--systemd-cgroup",) if self._systemd else ()), f"--root={self._root}", *log]

    def _call(self, arguments: list[str], work: Path | None = None) -> None:
        command = [str(self._runc.binary), *arguments]
        silent = subprocess.DEVNULL
        done = subprocess.run(
            command,
            stdin=silent,
            stdout=silent,
            stderr=silent,
            env=self._runc.environment(),
            timeout=_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            said = (self._folder / "runc.log").read_text(errors="replace")
            failure = criu_tool.explain(work / "restore.log" if work else None, said, self._runc.criu)
            if work is None:
                words = said.strip().splitlines()
                failure = Failure(
                    "runc-failed", f"runc could not run a container: {words[-1] if words else ''}", failure.advice
                )
            raise FailureError(failure)

    def _state(self, name: str) -> RuncState:
        return self._runc.state(self._root, name)

    def _run(self) -> None:
        name = self._names[0]
        (self._folder / name / "criu.conf").write_text(self._config.for_dump())
        self._call([*self._globals(), "run", "--detach", f"--bundle={self._folder / name}", name])
        self._until(lambda: self._count() > 2, "the container does not count")

    def _dump(self) -> None:
        name = self._names[0]
        state = self._old = self._state(name)
        state.freezer.freeze()
        try:
            self._runc.checkpoint(
                self._root,
                name,
                image_path=self._folder / "images",
                work_path=self._folder / "work-dump",
                leave_running=True,
                timeout_seconds=_SECONDS,
            )
        finally:
            self._dumped_at = self._count()
            state.freezer.kill_all()
        self._until(lambda: not self._runc.is_alive(self._root, name), "the dumped container does not end")

    def _restore(self) -> None:
        name, work = self._names[1], self._folder / "work-restore"
        work.mkdir()
        cgroup = absolute_path(self._cgroups_path(name)) if self._v2 else None
        (self._folder / name / "criu.conf").write_text(self._config.for_restore(cgroup))
        call = Call([*self._globals(), "create", name])
        arguments = call.restore(
            bundle=str(self._folder / name),
            image_path=str(self._folder / "images"),
            work_path=str(work),
            log=f"{self._folder}/runc.log",
        )
        self._call(arguments, work)

    def _check_cgroup(self) -> None:
        state = self._state(self._names[1])
        for controller, path in state.cgroup_paths.items():
            pids: list[str] = []
            with suppress(FileNotFoundError):  # systemd removes a scope that is empty
                pids = (Path(path) / "cgroup.procs").read_text().split()
            if str(state.pid) not in pids:
                where = controller or "cgroup v2"
                cause = f"the restored process is not in the new container's cgroup {path} ({where})"
                raise refusal("cgroup-misplaced", cause, _ADVICE)

    def _continue(self) -> None:
        name = self._names[1]
        if self._count() != self._dumped_at:
            raise refusal("not-stopped", "the restored process ran before it was started", _ADVICE)
        if State(str(self._root), name).resume(frozenset(), _SECONDS):
            raise refusal("not-continued", "the restored process does not continue", _ADVICE)
        self._until(lambda: self._count() > self._dumped_at + 2, "the restored process does not count on")
        numbers = [int(line) for line in (self._folder / "upper/count").read_text().split("\n")[:-1]]
        if numbers != list(range(1, len(numbers) + 1)):
            raise refusal("state-lost", "the restored process did not continue in its file from where it was", _ADVICE)
        sockets = Path(f"/proc/{self._state(name).pid}/net/tcp").read_text().splitlines()[1:]
        if not any(line.split()[3] == _LISTENS for line in sockets):
            raise refusal("state-lost", "the restored process does not listen any more", _ADVICE)

    def _clean_up(self) -> None:
        assert self._old is not None
        for name in self._names:
            self._runc.delete(self._root, name, force=True)
        left = [path for path in self._old.cgroup_paths.values() if Path(path).exists()]
        if left:
            raise refusal("cgroup-left", f"the dumped container's cgroup {left[0]} could not be removed", _ADVICE)

    def _count(self) -> int:
        with suppress(OSError, ValueError):
            return int((self._folder / "upper/count").read_text().rpartition("\n")[0].rpartition("\n")[2])
        return 0

    def _until(self, holds: Callable[[], bool], problem: str) -> None:
        deadline = time.monotonic() + _SECONDS
        while not holds():
            if time.monotonic() > deadline:
                raise FailureError(criu_failures.too_slow(problem, _SECONDS))
            time.sleep(_POLL_SECONDS)
