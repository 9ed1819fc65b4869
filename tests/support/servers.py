"""A real nats-server and a real control plane as subprocesses, to be killed, stopped and started again by tests."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from support.time_scale import scaled

NATS_SERVER = Path(sys.executable).with_name("nats-server")
START_SECONDS = 20.0


def wait_for(what: Callable[[], Any], *, saying: str, seconds: float = START_SECONDS) -> Any:
    """Wait until ``what()`` is true and return it."""
    deadline = time.monotonic() + scaled(seconds)
    while not (value := what()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {saying}"
        time.sleep(0.02)
    return value


class NatsServer:
    """nats-server with JetStream on loopback. It keeps its port from one start to the next."""

    def __init__(self, folder: Path, *, max_file: str = "") -> None:
        """``max_file``: as much as its streams may take, as in its configuration."""
        self.store = folder / "jetstream"
        self._config = folder / "nats.conf"
        self._max_file = max_file
        self._ports = folder / "ports"
        self._log = folder / "nats.log"
        self._ports.mkdir(parents=True)
        self._port = -1
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        for stale in self._ports.iterdir():
            stale.unlink()
        limit = f", max_file: {self._max_file}" if self._max_file else ""
        self._config.write_text(f'jetstream {{ store_dir: "{self.store}"{limit} }}\n')
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    NATS_SERVER, "--config", str(self._config), "--addr", "127.0.0.1", "--port", str(self._port),
                    "--ports_file_dir", str(self._ports),
                ],
                stdout=log,
                stderr=log,
            )  # fmt: skip
        url = wait_for(self._listening, saying="nats-server listens")
        self._port = int(url.rpartition(":")[2])

    def _listening(self) -> str | None:
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text()[-2000:]
        for file in self._ports.glob("*.ports"):
            try:
                return str(json.loads(file.read_text())["nats"][0])
            except (ValueError, LookupError):
                return None
        return None

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(START_SECONDS)
        self._process = None

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal: SIGSTOP makes it a machine without power, whose connections nobody ends."""
        assert self._process is not None
        self._process.send_signal(number)

    def wipe(self) -> None:
        """Remove everything that a stopped server had stored."""
        assert self._process is None
        shutil.rmtree(self.store)

    def close(self) -> None:
        """Stop it if it runs."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            self._process.wait(START_SECONDS)


class ControlPlaneProcess:
    """``python -m controlplane`` on a SQLite file of its own, or on the database that ``WOODFROG_DATABASE_URL`` names."""

    def __init__(self, folder: Path, nats_url: str, *, prefix: Sequence[str] = (), **environment: str) -> None:
        """``prefix`` are words before the command line, of a program that runs it."""
        self.database = folder / "log.db"
        self._prefix = prefix
        self._log = folder / "controlplane.log"
        self._log.touch()
        self._environment = {
            **os.environ,
            "WOODFROG_DATABASE_URL": f"sqlite+aiosqlite:///{self.database}",
            "WOODFROG_NATS_URL": nats_url,
            **environment,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, fault: str | None = None) -> None:
        """Start it, with a fault point (``NAME=ACTION``) armed or not, and wait for its ready line."""
        before = len(self.lines("control plane ready"))
        self.spawn(fault=fault)
        wait_for(lambda: self._alive() and len(self.lines("control plane ready")) > before, saying="it is ready")

    def spawn(self, *verb: str, fault: str | None = None) -> None:
        """Start it, or one of its verbs, and do not wait."""
        environment = self._environment | ({"WOODFROG_FAULT": fault} if fault else {})
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._prefix, sys.executable, "-m", "controlplane", *verb],
                stdout=log, stderr=log, env=environment, cwd=Path(__file__).parents[2],
            )  # fmt: skip

    def wait_for(self, message: str, *, seconds: float = START_SECONDS) -> dict[str, Any]:
        """Wait for the newest log line that says ``message``."""
        found = wait_for(lambda: self._alive() and self.lines(message), saying=message, seconds=seconds)
        line: dict[str, Any] = found[-1]
        return line

    def _alive(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text()[-4000:]
        return True

    def lines(self, message: str) -> list[dict[str, Any]]:
        """Return the log lines that say ``message``."""
        parsed = (json.loads(line) for line in self._log.read_text().splitlines() if line.startswith("{"))
        return [line for line in parsed if line.get("msg") == message]

    def text(self) -> str:
        """Return the whole log."""
        return self._log.read_text()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self, seconds: float = START_SECONDS) -> int:
        """Wait for its end; answer the exit code, negative for a signal."""
        assert self._process is not None
        code = self._process.wait(timeout=seconds)
        self._process = None
        return code

    def stop(self) -> int:
        """SIGTERM, and wait."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def close(self) -> None:
        """End it if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(START_SECONDS)
