"""A machine to install on, within this one: a root of its own, and a containerd that its supervisor starts again."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from nodeworker.host import bundle, cri
from nodeworker.host.install import Options
from nodeworker.host.paths import Places
from support.containerd import CONFIG, Containerd
from support.time_scale import scaled

BUNDLE = bundle.CACHE / "under-test"

# The part of the tests' configuration that installing adds; a plain node does not have it.
_PLAIN = CONFIG[: CONFIG.index('    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.cedana]')]
_SUPERVISOR = 'while :; do if [ -e "$1.refuse" ] && grep -q cedana "$1"; then sleep 0.2; else containerd --config "$1"; fi; sleep 0.1; done'


def built() -> Path:
    """The bundle of this working tree."""
    bundle.build(BUNDLE)
    return BUNDLE


def another_release(of: Path, into: Path, name: str) -> Path:
    """A bundle that differs in its release only."""
    subprocess.run(["cp", "-al", of, into], check=True, timeout=60)
    (into / bundle.RELEASE).unlink()
    (into / bundle.RELEASE).write_text(f"{name}\n")
    return into


class Machine:
    """What installing sees of a machine: files under a root, and a supervised containerd."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.containerd = Containerd(folder / "containerd", folder / "run", Path("/unused"), config=_PLAIN)
        self.places = Places(self.root)
        self.config = self.containerd.root / "config.toml"
        self.refusal = self.config.with_name("config.toml.refuse")
        """While this file is there, containerd does not start with our runtime."""
        self._supervisor: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Write the plain configuration and start containerd under its supervisor."""
        self.root.mkdir(parents=True)
        self.containerd.prepare()
        with (self.containerd.root / "containerd.log").open("ab") as log:
            self._supervisor = subprocess.Popen(
                ["sh", "-c", _SUPERVISOR, "supervisor", self.config], stdout=log, stderr=log, start_new_session=True
            )
        self.until_ready()

    def stop(self) -> None:
        """End the supervisor and containerd."""
        if self._supervisor is not None:
            os.killpg(self._supervisor.pid, signal.SIGKILL)
            self._supervisor.wait(timeout=20)
            self._supervisor = None

    @property
    def options(self) -> Options:
        """What the commands are told in this process."""
        return Options(places=self.places, socket=self.containerd.socket, config=self.config)

    def command(self, name: str, *more: str, program: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command of ``woodfrog-node`` as an administrator would."""
        return subprocess.run(
            [program or BUNDLE / "bin/woodfrog-node", name, *self.arguments, *more],
            check=False, capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    @property
    def arguments(self) -> list[str]:
        """How a command of ``woodfrog-node`` is told of this machine."""
        config = ["--containerd-config", str(self.config)]
        return ["--root", str(self.root), "--containerd-socket", str(self.containerd.socket), *config]

    def until_ready(self, seconds: float = 30) -> cri.CriStatus:
        """Wait until the CRI answers."""
        deadline = time.monotonic() + scaled(seconds)
        while True:
            try:
                status = cri.status(self.containerd.socket)
                if status.ready:
                    return status
            except cri.CriError:
                pass
            if time.monotonic() > deadline:
                raise AssertionError((self.containerd.root / "containerd.log").read_text()[-3000:])
            time.sleep(0.1)

    def pid(self) -> int:
        """Pid of the containerd that runs now."""
        found = subprocess.run(
            ["pgrep", "-f", f"^containerd --config {self.config}"],
            check=True,
            capture_output=True,
            text=True,
            timeout=10,
        )
        return int(found.stdout)

    def footprint(self) -> dict[str, str]:
        """Every file of the machine that installing could touch: its kind, mode, owner, time and digest."""
        seen = {}
        for top in (self.root, self.config.parent):
            for path in [top, *sorted(top.rglob("*"))]:
                inside = path.relative_to(top).parts
                if top != self.root and (len(inside) != 1 or not path.name.startswith("config.toml")):
                    continue
                status = path.lstat()
                content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
                when = str(status.st_mtime_ns) if path.is_file() else ""
                seen[str(path)] = f"{status.st_mode:o} {status.st_uid}:{status.st_gid} {when} {content}"
        return seen


def remove(folder: Path) -> None:
    """Remove a machine's files."""
    shutil.rmtree(folder, ignore_errors=True)
