"""Containers of real runc and CRIU behind the OCI runtime, with a worker that says what a test wants it to say."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from nodeworker.capture import cgroup_v1
from nodeworker.capture.criu import criu as criu_tool
from nodeworker.capture.criu.cgroup_yard import make_yard
from nodeworker.capture.criu.runc import Runc, RuncState
from nodeworker.domain.cgroup_path import absolute_path
from nodeworker.domain.criu_options import CriuConfig
from nodeworker.host import facts
from nodeworker.host.criu_bundle import find_criu
from nodeworker.runtime.install import write_runtime
from support.time_scale import scaled
from woodfrog.protocol import wire
from woodfrog.protocol.ids import SnapshotId
from woodfrog.protocol.runtime_api import (
    CreateCold,
    CreateRestored,
    DeletedNotification,
    Done,
    LocalAnswer,
    LocalAsk,
    StartedNotification,
)

CALL_SECONDS = 30
COUNTER = "i=0; while :; do i=$((i+1)); echo $i >/count; sleep 0.02; done"

Reply = Callable[[Any], LocalAnswer | None]


def chosen_criu() -> Path:
    named = os.environ.get("WOODFROG_TEST_CRIU")
    return Path(named) if named else find_criu()


def runc_binary() -> Path:
    for folder in ("/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"):
        if (Path(folder) / "runc").exists():
            return Path(folder) / "runc"
    raise AssertionError("this machine has no runc")


def eventually(holds: Callable[[], Any], what: str, limit_seconds: float = 15.0) -> Any:
    deadline = time.monotonic() + scaled(limit_seconds)
    while True:
        found = holds()
        if found:
            return found
        assert time.monotonic() < deadline, f"did not come true within {limit_seconds} s: {what}"
        time.sleep(0.01)


class FakeWorker:
    """Listens where the worker would. ``replies`` maps an ask's tag to what answers it; ``None`` breaks the connection."""

    def __init__(self, path: Path, replies: Mapping[str, Reply]) -> None:
        self.asked: list[Any] = []
        self._replies = dict(replies)
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._path = path
        path.unlink(missing_ok=True)
        self._listening.bind(str(path))
        self._listening.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def tags(self) -> list[str]:
        return [ask.__struct_config__.tag for ask in self.asked]

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as lines:
                line = lines.readline()
                if not line:
                    continue
                ask: Any = wire.decode(line, LocalAsk)
                self.asked.append(ask)
                if isinstance(ask, StartedNotification | DeletedNotification):
                    answer: LocalAnswer | None = Done()
                else:
                    answer = self._replies[ask.__struct_config__.tag](ask)
                if answer is not None:
                    with suppress(OSError):
                        connection.sendall(wire.encode(answer) + b"\n")

    def close(self) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._path.unlink(missing_ok=True)
        self._thread.join(10)


class LoneRuntime:
    """One run directory, one written-out runtime, and whatever containers and workers a test makes of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run_dir = folder / "run"
        self.run_dir.mkdir()
        self.root = folder / "runc"
        self.criu = chosen_criu()
        self.runc = Runc(runc_binary(), self.criu)
        yard = make_yard(self.run_dir, facts.cgroup_version(Path("/proc/self/mounts")))
        self.config = CriuConfig(criu_tool.version(self.criu), None if yard is None else str(yard))
        self.log = folder / "log.json"
        self.path = self.write()
        self.socket = self.run_dir / "worker.sock"
        self.containers: list[Container] = []
        self._workers: list[FakeWorker] = []

    def write(self, **settings: Any) -> Path:
        given: dict[str, Any] = {"worker_wait_seconds": 0.2, **settings}
        python = Path(sys.executable)
        return write_runtime(
            self.folder / "woodfrog-runtime",
            **{"run_dir": self.run_dir, "runc": runc_binary(), "criu": self.criu, "python": python, **given},
        )

    def worker(self, **replies: Reply) -> FakeWorker:
        for worker in self._workers:
            worker.close()
        spelled = {name.replace("_", "-"): reply for name, reply in replies.items()}
        self._workers = [FakeWorker(self.socket, spelled)]
        return self._workers[0]

    def container(self, command: str = COUNTER, **settings: Any) -> Container:
        made = Container(self, command, **settings)
        self.containers.append(made)
        return made

    def close(self) -> None:
        for container in self.containers:
            container.close()
        for worker in self._workers:
            worker.close()


class Container:
    """One bundle and the container made from it; several may share a root filesystem, one after the other."""

    def __init__(
        self,
        runtime: LoneRuntime,
        command: str,
        *,
        checkpoint_id: str | None = "trainer",
        on: Container | None = None,
        hostname: str = "first",
        annotations: dict[str, str] | None = None,
        systemd: bool = False,
        resources: dict[str, Any] | None = None,
        spec: Callable[[dict[str, Any]], None] = lambda _spec: None,
        output: Path | None = None,
    ) -> None:
        """Lay the bundle down.

        ``systemd``: use the systemd cgroup driver. ``resources``: ``linux.resources``, besides the devices. ``spec``: changes
        config.json before it is written. ``output``: a file that it writes to, in place of a pipe.
        """
        self.runtime = runtime
        self.systemd = systemd
        self.id = f"lone-{uuid4().hex[:10]}"
        self.bundle = runtime.folder / self.id
        self.bundle.mkdir()
        self.pid_file = self.bundle / "pid"
        self._owns_rootfs = on is None
        self.rootfs = on.rootfs if on is not None else self._overlay()
        self.upper = self.rootfs.parent / "upper"
        self.counter = self.upper / "count"
        self.conf = self.bundle / "criu.conf"
        self.conf.write_text("")
        environment = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]
        environment += [] if checkpoint_id is None else [f"CEDANA_CHECKPOINT={checkpoint_id}"]
        cgroups_path = f"system.slice:lone:{self.id}" if systemd else f"/woodfrog-test/{self.id}"
        self.cgroup = absolute_path(cgroups_path)
        config = _config(
            cgroups_path,
            self.rootfs,
            command,
            environment=environment,
            hostname=hostname,
            annotations=annotations or {},
        )
        config["linux"]["resources"] |= resources or {}
        spec(config)
        (self.bundle / "config.json").write_text(json.dumps(config))
        self._outputs = [os.pipe() for _ in range(2)]
        if output is not None:
            with output.open("w") as file:
                os.dup2(file.fileno(), self._outputs[0][1])

    def _overlay(self) -> Path:
        for name in ("upper", "overlay", "rootfs"):
            (self.bundle / name).mkdir()
        options = f"lowerdir=/,upperdir={self.bundle}/upper,workdir={self.bundle}/overlay"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, self.bundle / "rootfs"], check=True)
        return self.bundle / "rootfs"

    def arguments(self, *words: str) -> list[str]:
        log = ["--log", str(self.runtime.log), "--log-format", "json"]
        driver = ["--systemd-cgroup"] if self.systemd else []
        return [str(self.runtime.path), "--root", str(self.runtime.root), *log, *driver, *words]

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Call the runtime; standard output is no pipe of ours, because the container would keep it open."""
        said = self.bundle / "stderr"
        with said.open("w") as stderr:
            done = subprocess.run(
                self.arguments(*words),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                timeout=CALL_SECONDS,
                check=False,
            )
        return subprocess.CompletedProcess(done.args, done.returncode, "", said.read_text())

    def start_create(self, stderr: int | None = None) -> subprocess.Popen[bytes]:
        words = ("create", "--bundle", str(self.bundle), "--pid-file", str(self.pid_file), self.id)
        return subprocess.Popen(
            self.arguments(*words),
            stdin=subprocess.DEVNULL,
            stdout=self._outputs[0][1],
            stderr=self._outputs[1][1] if stderr is None else stderr,
        )

    def create(self) -> int:
        return self.start_create().wait(CALL_SECONDS)

    def said(self) -> str:
        """What the calls of ``create`` wrote to standard error."""
        os.set_blocking(self._outputs[1][0], False)
        with suppress(BlockingIOError):
            return os.read(self._outputs[1][0], 1 << 16).decode()
        return ""

    def run(self) -> None:
        self.run_on(self)

    def run_on(self, owner: Container) -> None:
        """Create and start; ``owner`` is the container whose root filesystem this one shares."""
        assert self.create() == 0, self.said()
        done = self.call("start", self.id)
        assert done.returncode == 0, done.stderr
        eventually(lambda: owner.count() > 1, "the container counts")

    def count(self) -> int:
        with suppress(OSError, ValueError):
            return int(self.counter.read_text())
        return 0

    def state(self) -> RuncState:
        return self.runtime.runc.state(self.runtime.root, self.id)

    def alive(self) -> bool:
        return self.runtime.runc.is_alive(self.runtime.root, self.id)

    def exists(self) -> bool:
        return (self.runtime.root / self.id).exists()

    @property
    def marker(self) -> Path:
        return self.runtime.run_dir / "containers" / self.id / "marker"

    def cold(self, _ask: object = None) -> CreateCold:
        """The answer for a cold start, with the configuration that a later dump needs in place."""
        self.conf.write_text(self.runtime.config.for_dump())
        return CreateCold(criu_config=str(self.conf), reason="first start")

    def dump(self, name: str = "images", *, end: bool = True) -> Path:
        """What the worker does: freeze, dump, then kill or thaw."""
        images = self.runtime.folder / f"{self.id}-{name}"
        state = self.state()
        stopped = criu_tool.stopped_pids(state.freezer.pids())
        state.freezer.freeze()
        self.runtime.runc.checkpoint(
            self.runtime.root,
            self.id,
            image_path=images,
            work_path=images.with_name(f"{images.name}-work"),
            leave_running=True,
            stopped_pids=stopped,
            timeout_seconds=20,
        )
        if end:
            state.freezer.kill_all()
            eventually(lambda: not self.alive(), "the dumped container is dead")
        else:
            state.freezer.thaw()
        return images

    def restored(self, images: Path, stopped: tuple[int, ...] = ()) -> CreateRestored:
        """The answer for a restore from ``images``, with the configuration for it in place."""
        spec = json.loads((self.bundle / "config.json").read_text())
        cgroups = [mount["destination"] for mount in spec["mounts"] if mount.get("type") == "cgroup"]
        seen = cgroup_v1.mounts(spec["linux"]["cgroupsPath"], cgroups)
        self.conf.write_text(self.runtime.config.for_restore(self.cgroup, seen))
        work = self.bundle / "work"
        work.mkdir(exist_ok=True)
        return CreateRestored(SnapshotId("one"), str(images), str(work), str(self.conf), stopped)

    def close(self) -> None:
        with suppress(Exception):
            self.state().freezer.thaw()
        self.runtime.runc.delete(self.runtime.root, self.id, force=True)
        for pair in self._outputs:
            for descriptor in pair:
                os.close(descriptor)
        if self._owns_rootfs:
            subprocess.run(["umount", "--lazy", self.rootfs], check=True)


def _config(
    cgroup: str, rootfs: Path, command: str, *, environment: list[str], hostname: str, annotations: dict[str, str]
) -> dict[str, Any]:
    nosuid = ["nosuid", "noexec", "nodev"]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/sh", "-c", command],
            "env": environment,
            "cwd": "/",
            "noNewPrivileges": True,
        },
        "root": {"path": str(rootfs), "readonly": False},
        "hostname": hostname,
        "annotations": annotations,
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": [*nosuid, "mode=1777"]},
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")],
            "resources": {"devices": [{"allow": True, "access": "rwm"}]},
        },
    }
