"""Docker and Podman of the tests' own: with storage, state, sockets and a network namespace apart from the host's.

Images are made here; nothing is pulled.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

from nodeworker.domain.engine_config import podman_drop_in
from support import images
from support.containerd import Containerd
from support.stack import Stack, until
from support.terminal import desk
from woodfrog.local.overlay import make_network

COUNT = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done"
"""Counts on standard output, which the engine keeps."""
IMAGE = "woodfrog.test/busybox:1"
CHANGED = "woodfrog.test/busybox:2"
"""The same with one file more."""
_SOCKET = "docker.sock"
_CONTAINERD = """\
version = 2
root = "{root}/root"
state = "{run}/state"
oom_score = 0
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "{run}/containerd.sock"
"""
"""dockerd would use a containerd of the system that runs, and start one of its own where there is none."""


class Engine:
    """One engine, with the runtime ``cedana`` of a stack."""

    name = ""

    def __init__(self, folder: Path, stack: Stack) -> None:
        self.folder = folder
        self.stack = stack
        self.network = folder / "network"
        self.environment = {**os.environ}

    def command(self, *words: str | Path) -> list[str | Path]:
        """Return the command line of a verb."""
        raise NotImplementedError

    def cli(self, *words: str | Path, check: bool = True, seconds: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a verb."""
        done = subprocess.run(
            self.command(*words),
            check=False, capture_output=True, text=True, timeout=seconds, env=self.environment, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert not check or done.returncode == 0, (words, done.returncode, done.stdout, done.stderr)
        return done

    def arguments(self, checkpoint_id: str, *options: str, image: str = IMAGE, script: str = COUNT) -> list[str]:
        """Return the words of a ``run`` of a protected container."""
        return [
            *("run", "--runtime", "cedana", "-e", f"CEDANA_CHECKPOINT={checkpoint_id}"),
            *options, image, "sh", "-c", script,
        ]  # fmt: skip

    def run(
        self,
        name: str,
        checkpoint_id: str,
        *options: str,
        image: str = IMAGE,
        script: str = COUNT,
        network: str = "none",
    ) -> None:
        """Run a protected container in the background."""
        options = ("-d", "--name", name, "--network", network, *options)
        self.cli(*self.arguments(checkpoint_id, *options, image=image, script=script))

    def output(self, name: str) -> list[str]:
        """The complete lines of a container's standard output."""
        text = self.cli("logs", name).stdout
        return text[: text.rfind("\n") + 1].splitlines()

    def numbers(self, name: str) -> list[int]:
        """What a container has counted; none is missing or there twice."""
        numbers = [int(line.split()[0]) for line in self.output(name)]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else True, numbers
        return numbers

    def until_counted(self, name: str, count: int = 8) -> list[int]:
        """Wait until a container has counted so many numbers."""
        until(lambda: len(self.numbers(name)) >= count, 20, saying=f"{name} has counted {count} numbers")
        return self.numbers(name)

    def stop(self, name: str) -> list[int]:
        """Stop a container; return what it has counted."""
        self.cli("stop", name)
        return self.numbers(name)

    def field(self, name: str, template: str) -> str:
        """Look a container up."""
        return self.cli("inspect", "--type", "container", "--format", template, name).stdout.strip()

    def exit_code(self, name: str) -> int:
        """A container's exit code."""
        return int(self.field(name, "{{.State.ExitCode}}"))

    def served(self, port: int) -> str:
        """What a published port says to whoever connects; empty where nobody answers."""
        done = subprocess.run(
            ["nsenter", f"--net={self.network}", "/bin/busybox", "nc", "-w", "2", "127.0.0.1", str(port)],
            check=False, capture_output=True, text=True, timeout=10, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        return done.stdout.strip()

    def load_images(self) -> None:
        """Make the images."""
        root = images.busybox_root(self.folder / "image")
        self._load(root, IMAGE)
        (root / "etc" / "changed").write_text("yes\n")
        self._load(root, CHANGED)

    def _load(self, root: Path, name: str) -> None:
        archive = self.folder / "image.tar"
        subprocess.run(["tar", "-C", root, "-cf", archive, "."], check=True, timeout=30)
        self.cli("import", archive, name)

    def follow(self, page: str, programs: dict[str, str]) -> None:
        """Type what a page says, with these programs of one line first in PATH."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            programs_folder = Path(folder) / "bin"
            programs_folder.mkdir()
            for name, line in programs.items():
                program = programs_folder / name
                program.write_text(f"#!/bin/sh\n{line}\n")
                program.chmod(0o755)
            path = f"{programs_folder}:{self.environment['PATH']}"
            environment = {**self.environment, "PATH": path, "WOODFROG_STATE_DIR": str(self.stack.state)}
            with desk(Path(folder), environment) as made:
                made.follow(page, self.name)

    def remove_containers(self) -> None:
        """Remove every container, whatever it does."""
        with suppress(AssertionError, subprocess.TimeoutExpired):
            for name in self.cli("ps", "-aq").stdout.split():
                self.cli("rm", "-f", "-v", name, check=False)

    def close(self) -> None:
        """End what runs, and unmount what is mounted."""
        self.remove_containers()
        for line in reversed(Path("/proc/mounts").read_text().splitlines()):
            mountpoint = line.split()[1]
            if mountpoint.startswith(f"{self.folder}/"):
                subprocess.run(["umount", "--lazy", mountpoint], check=False, capture_output=True, timeout=20)


class Docker(Engine):
    """A dockerd with a bridge in a network namespace of its own."""

    name = "docker"

    def __init__(self, folder: Path, stack: Stack) -> None:
        super().__init__(folder, stack)
        self.config = folder / "daemon.json"
        self.environment |= {"DOCKER_HOST": f"unix://{folder}/{_SOCKET}", "DOCKER_CONFIG": str(folder / "client")}
        self.environment.pop("DOCKER_CONTEXT", None)
        self._containerd = Containerd(folder / "c", folder / "r", stack.runtime, _CONTAINERD)
        self._process: subprocess.Popen[bytes] | None = None

    def command(self, *words: str | Path) -> list[str | Path]:
        return ["docker", *words]

    def start(self) -> None:
        """Start dockerd and load the images."""
        make_network(self.network)
        self.config.write_text('{"debug": false}')
        self._containerd.start()
        command = [
            *("nsenter", f"--net={self.network}", "dockerd", "--host", f"unix://{self.folder}/{_SOCKET}"),
            *("--containerd", self._containerd.socket),
            *(
                "--data-root",
                self.folder / "root",
                "--exec-root",
                self.folder / "exec",
                "--pidfile",
                self.folder / "pid",
            ),
            *("--config-file", self.config, "--storage-driver", "overlay2"),
        ]
        with (self.folder / "dockerd.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=self.environment)
        until(self._answers, 60, saying="dockerd answers")
        self.stack.cli("install", "docker", "--config", str(self.config))
        self.load_images()

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "dockerd.log").read_text()[-4000:]
        return self.cli("version", check=False).returncode == 0

    @property
    def compose_command(self) -> str:
        """Docker's plugin, or the program of that name before it."""
        plugin = self.cli("compose", "version", check=False).returncode == 0
        return f"{shutil.which('docker')} compose" if plugin else "docker-compose"

    def compose(self, *words: str, check: bool = True, seconds: float = 120) -> subprocess.CompletedProcess[str]:
        """Run compose in the engine's folder."""
        done = subprocess.run(
            [*self.compose_command.split(), *words],
            check=False, capture_output=True, text=True, timeout=seconds, env=self.environment, cwd=self.folder,
        )  # fmt: skip
        assert not check or done.returncode == 0, (words, done.stdout, done.stderr)
        return done

    def close(self) -> None:
        self.remove_containers()
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=60)
        self._containerd.stop()
        super().close()


class Podman(Engine):
    """A Podman with storage and a network namespace of its own."""

    name = "podman"

    def __init__(self, folder: Path, stack: Stack) -> None:
        super().__init__(folder, stack)
        self.config = folder / "containers.conf"
        self.environment |= {"CONTAINERS_CONF": str(self.config)}

    def command(self, *words: str | Path) -> list[str | Path]:
        where: list[str | Path] = ["--root", self.folder / "root", "--runroot", self.folder / "run"]
        where += ["--tmpdir", self.folder / "tmp", "--network-config-dir", self.folder / "net"]
        return ["nsenter", f"--net={self.network}", "podman", *where, *words]

    def start(self) -> None:
        """Load the images."""
        make_network(self.network)
        # CONTAINERS_CONF takes the place of all of Podman's files. A root without CAP_SYS_RESOURCE cannot raise limits.
        limits = 'default_ulimits = ["nofile=1024:4096", "nproc=1024:4096"]'
        self.config.write_text(f"[containers]\n{limits}\n{podman_drop_in(str(self.stack.runtime))}")
        self.load_images()
