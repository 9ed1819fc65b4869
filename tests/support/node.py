"""One node as it is in life: nats-server, control plane, node worker and runtime, with containers of real runc and CRIU."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.lone_runtime import Container, LoneRuntime, eventually
from support.servers import ControlPlaneProcess, NatsServer
from support.time_scale import scaled
from woodfrog.protocol.runtime_api import CreateCold

NUMBERS = "i=0; while :; do i=$((i+1)); echo $i >>/numbers; sleep 0.02; done"
"""Counts into a file of its own: after a restore no number may be missing or there twice."""
STEPS_SECONDS = 30.0


class Node:
    """A node in a directory of its own; the path is short, because a unix socket's name may have 107 bytes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nats = NatsServer(folder / "nats")
        self.nats.start()
        (folder / "log").mkdir()
        self.control_plane = ControlPlaneProcess(folder / "log", self.nats.url)
        self.runtime = LoneRuntime(folder)
        self.log = folder / "worker.log"
        self.log.touch()
        self._process: subprocess.Popen[bytes] | None = None
        self.environment = {
            "WOODFROG_REHEARSE": "off",
            "WOODFROG_COPIES_SPARE_PERCENT": "0",
            "WOODFROG_REHEARSE_LIMIT": f"{scaled(60):.0f}s",
            **os.environ,
            "WOODFROG_NODE": "node-1",
            "WOODFROG_STATE_DIR": str(folder / "state"),
            "WOODFROG_RUN_DIR": str(self.runtime.run_dir),
            "WOODFROG_NATS_URL": self.nats.url,
            "WOODFROG_RUNC": str(self.runtime.runc.binary),
            "WOODFROG_CRIU": str(self.runtime.criu),
        }

    @property
    def state(self) -> Path:
        """The worker's state directory."""
        return self.folder / "state"

    def start_worker(self, **environment: str) -> None:
        """Start a worker and wait until it is ready."""
        before = len(self.said("node worker ready"))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "nodeworker"],
                stdout=log,
                stderr=log,
                env=self.environment | environment,
                cwd=Path(__file__).parents[2],
            )
        eventually(lambda: self.alive() and len(self.said("node worker ready")) > before, "the worker is ready", 30)

    def second_worker(self) -> subprocess.CompletedProcess[str]:
        """Try to start another worker on the same directories, and wait for its end."""
        return subprocess.run(
            [sys.executable, "-m", "nodeworker"],
            env=self.environment,
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            timeout=STEPS_SECONDS,
            check=False,
        )

    def alive(self) -> bool:
        """Whether the worker runs; the test fails with its log if it died of itself."""
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()[-4000:]
        return True

    def said(self, message: str) -> list[dict[str, Any]]:
        """The worker's log lines with this message."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["msg"] == message]

    def wait_for_death(self) -> None:
        """Wait until the worker was killed by its fault point."""
        assert self._process is not None
        assert self._process.wait(STEPS_SECONDS) == -signal.SIGKILL
        self._process = None

    def kill_worker(self) -> None:
        """End the worker with SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(STEPS_SECONDS)
        self._process = None

    def wait_for_end(self) -> int:
        """Wait until the worker ends by itself; answers its exit code."""
        assert self._process is not None
        code = self._process.wait(STEPS_SECONDS)
        self._process = None
        return code

    def stop_worker(self) -> int:
        """End the worker with SIGTERM; answers its exit code."""
        assert self._process is not None
        self._process.terminate()
        code = self._process.wait(STEPS_SECONDS)
        self._process = None
        return code

    def ask(self, **question: Any) -> dict[str, Any]:
        """Ask the worker as the runtime does."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(STEPS_SECONDS)
            connection.connect(str(self.runtime.socket))
            connection.sendall(json.dumps(question).encode() + b"\n")
            answer: dict[str, Any] = json.loads(connection.makefile().readline())
        return answer

    def until_it_runs(self) -> None:
        """Wait until the worker was told of the start of its container."""
        eventually(lambda: self.ask(ask="containers")["containers"][0]["state"] == "running", "its start is told")

    def close(self) -> None:
        """End everything that runs; what the worker said is shown with a failed test."""
        sys.stdout.write(self.log.read_text())
        for log in (self.state / "logs").rglob("*.log"):
            sys.stdout.write("".join(line for line in log.read_text().splitlines(keepends=True) if "Err" in line))
        if self._process is not None:
            self._process.kill()
            self._process.wait(STEPS_SECONDS)
        self.runtime.close()
        self.control_plane.close()
        self.nats.close()


class Counting(Container):
    """A container that writes one number a line into its root filesystem."""

    def __init__(self, node: Node, command: str = NUMBERS, **settings: Any) -> None:
        super().__init__(node.runtime, command, **settings)
        node.runtime.containers.append(self)

    def cold(self, _ask: object = None) -> CreateCold:
        raise AssertionError("the real worker answers here")

    def numbers(self, name: str = "numbers") -> list[int]:
        """The complete lines written so far."""
        path = self.upper / name
        text = path.read_text() if path.exists() else ""
        return [int(line) for line in text[: text.rfind("\n") + 1].split()]

    def count(self) -> int:
        numbers = self.numbers()
        return numbers[-1] if numbers else 0

    def until(self, count: int) -> None:
        """Wait until it counted to ``count``."""
        eventually(lambda: self.count() >= count, f"it counts to {count}")

    def has_counted_without_a_gap(self, name: str = "numbers") -> bool:
        """Whether every number is there once, in order."""
        numbers = self.numbers(name)
        return numbers == list(range(1, len(numbers) + 1))


@contextmanager
def running_node(*, control_plane: bool = True) -> Iterator[Node]:
    """A node whose servers run; the worker is started by the test."""
    folder = Path(tempfile.mkdtemp(prefix="wf-", dir="/var/tmp"))
    node = Node(folder)
    try:
        if control_plane:
            node.control_plane.start()
        yield node
    finally:
        node.close()
        shutil.rmtree(folder)
