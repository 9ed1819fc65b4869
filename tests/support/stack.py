"""A whole Woodfrog on this machine, as a user starts it: ``woodfrog dev`` and the other verbs, as subprocesses."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.time_scale import scaled

WOODFROG = Path(sys.executable).with_name("woodfrog")


def until(what: Callable[[], Any], seconds: float = 20, *, saying: str = "") -> Any:
    """Wait until ``what()`` is true and return it; the test fails if that takes longer than ``seconds``."""
    deadline = time.monotonic() + scaled(seconds)
    while not (value := what()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {saying or what}")
        time.sleep(0.05)
    return value


def lines(path: Path) -> list[str]:
    """Return a file's complete lines; none if it does not exist yet."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return []
    return text[: text.rfind("\n") + 1].splitlines()


class Run:
    """One ``woodfrog run`` in the background."""

    def __init__(self, stack: Stack, checkpoint_id: str, process: subprocess.Popen[str]) -> None:
        self.stack, self.id, self.process = stack, checkpoint_id, process
        known = {run.container["container_id"] for run in stack.runs if run is not self and run.id == checkpoint_id}
        self.container: dict[str, Any] = until(
            lambda: self._find(known), 60, saying=f"a container of {checkpoint_id} runs"
        )

    def _find(self, known: set[str]) -> dict[str, Any] | None:
        if self.process.poll() is not None:
            raise AssertionError(f"woodfrog run ended with {self.process.returncode}: {self.process.communicate()}")
        for container in self.stack.containers():
            ours = container["key"]["id"] == self.id and container["container_id"] not in known
            if ours and container["state"] == "running":
                return container
        return None

    @property
    def root(self) -> Path:
        """The container's root filesystem as it is now."""
        return Path(self.container["bundle"]) / "rootfs"

    def lines(self, path: str) -> list[str]:
        """Return the complete lines of a file of the container."""
        return lines(self.root / path.lstrip("/"))

    def until_lines(self, path: str, count: int, seconds: float = 30) -> list[str]:
        """Wait until a file of the container has ``count`` lines."""
        until(lambda: len(self.lines(path)) >= count, seconds, saying=f"{path} has {count} lines")
        return self.lines(path)

    def init_pid(self) -> int:
        """The container's first process, as the host sees it."""
        state = subprocess.run(
            ["runc", "--root", self.stack.runc_root, "state", self.container["container_id"]],
            check=True, capture_output=True, text=True, timeout=20,
        )  # fmt: skip
        return int(json.loads(state.stdout)["pid"])

    def stop(self, seconds: float = 60) -> tuple[int, str, str]:
        """Stop it as Ctrl-C would; return its exit code and what it printed."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait(seconds)

    def wait(self, seconds: float = 60) -> tuple[int, str, str]:
        """Wait for its end; return its exit code, standard output and standard error."""
        out, err = self.process.communicate(timeout=seconds)
        return self.process.returncode, out, err


class Stack:
    """One state directory and the ``woodfrog dev`` that serves it; ``command`` is ``woodfrog``, or that of another version."""

    def __init__(
        self, state: Path, environment: dict[str, str] | None = None, command: Sequence[str | Path] = (WOODFROG,)
    ) -> None:
        self.state, self.command = state, command
        self.environment = {
            "WOODFROG_REHEARSE": "off",
            **os.environ,
            "WOODFROG_READY_SECONDS": str(scaled(60)),
            **(environment or {}),
        }
        self.runs: list[Run] = []
        self.process: subprocess.Popen[str] | None = None
        self.ready: dict[str, Any] = {}

    def start(self) -> None:
        """Start ``woodfrog dev`` and wait for its ready line."""
        self.state.mkdir(parents=True, exist_ok=True)
        with (self.state / "dev.log").open("a") as log:
            self.process = subprocess.Popen(
                [*self.command, "dev", "--state-dir", self.state, "-o", "json"],
                stdout=subprocess.PIPE, stderr=log, text=True, env=self.environment,
            )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, (self.state / "dev.log").read_text()[-4000:]
        self.ready = json.loads(line)

    def stop(self) -> int:
        """End ``woodfrog dev`` as SIGTERM does; return its exit code."""
        assert self.process is not None
        self.process.terminate()
        code = self.process.wait(timeout=60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process = None
        return code

    def close(self) -> None:
        """End what still runs."""
        for run in self.runs:
            if run.process.poll() is None:
                run.process.kill()
                run.process.communicate()
            for stream in (run.process.stdout, run.process.stderr):
                if stream is not None:  # of one that ended by itself nobody has read
                    stream.close()
        for container in self.containers(missing_worker_is_fine=True):
            subprocess.run(
                ["runc", "--root", self.runc_root, "delete", "--force", container["container_id"]],
                check=False, capture_output=True, timeout=20,
            )  # fmt: skip
        if self.process is not None:
            self.stop()
        for line in reversed(Path("/proc/mounts").read_text().splitlines()):
            mountpoint = line.split()[1]
            if mountpoint.startswith(f"{self.state}/"):
                subprocess.run(["umount", "--lazy", mountpoint], check=False, capture_output=True, timeout=20)

    @property
    def runc_root(self) -> str:
        """Where runc keeps the state of ``woodfrog run``'s containers."""
        return str(self.ready["runc_root"])

    @property
    def socket(self) -> Path:
        """The node worker's socket."""
        return Path(self.ready["socket"])

    @property
    def runtime(self) -> Path:
        """The OCI runtime to hand to an engine."""
        return Path(self.ready["runtime"])

    @property
    def store(self) -> Path:
        """The directory of the snapshot store."""
        return Path(self.ready["store"])

    def ask(self, **question: Any) -> dict[str, Any]:
        """Ask the node worker over its socket."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(30)
            connection.connect(str(self.socket))
            connection.sendall(json.dumps(question).encode() + b"\n")
            answer: dict[str, Any] = json.loads(connection.makefile().readline())
            return answer

    def containers(self, *, missing_worker_is_fine: bool = False) -> list[dict[str, Any]]:
        """List the worker's containers."""
        try:
            found: list[dict[str, Any]] = self.ask(ask="containers")["containers"]
        except (OSError, ValueError):
            if missing_worker_is_fine:
                return []
            raise
        return found

    def run(self, checkpoint_id: str, *command: str | Path, options: tuple[str, ...] = ()) -> Run:
        """Start ``woodfrog run`` and wait until its container runs."""
        process = self.popen_run(checkpoint_id, *command, options=options)
        run = Run(self, checkpoint_id, process)
        self.runs.append(run)
        return run

    def popen_run(
        self, checkpoint_id: str, *command: str | Path, options: tuple[str, ...] = ()
    ) -> subprocess.Popen[str]:
        """Start ``woodfrog run`` and wait for nothing."""
        return subprocess.Popen(
            [*self.command, "run", "--state-dir", self.state, "--id", checkpoint_id, *options, "--", *command],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.environment,
        )  # fmt: skip

    def cli(self, *arguments: str, check: bool = True, seconds: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a verb."""
        done = subprocess.run(
            [*self.command, *arguments, "--state-dir", self.state],
            check=False, capture_output=True, text=True, timeout=seconds, env=self.environment,
        )  # fmt: skip
        assert not check or done.returncode == 0, (done.returncode, done.stdout, done.stderr)
        return done

    def json(self, *arguments: str) -> Any:
        """Run a verb and read its JSON."""
        return json.loads(self.cli(*arguments, "-o", "json").stdout)

    def history(self, checkpoint_id: str) -> list[dict[str, Any]]:
        """All events of an id."""
        events: list[dict[str, Any]] = self.json("history", checkpoint_id)
        return events

    def types(self, checkpoint_id: str) -> list[str]:
        """The types of all events of an id."""
        return [event["type"] for event in self.history(checkpoint_id)]

    def copy_of(self, checkpoint_id: str, snapshot_id: str) -> Path:
        """Wait for the copy that the node keeps of a snapshot; return its folder."""
        copies = Path(self.ready["spool"]).with_name("copies")
        copy = copies / "local" / "default" / checkpoint_id / snapshot_id
        until(copy.is_dir, 30, saying="there is a copy")
        return copy

    def until_stored(self, checkpoint_id: str, count: int = 1) -> list[str]:
        """Wait until an id has ``count`` stored snapshots; return their ids, oldest first."""

        def stored() -> list[str]:
            found = [event for event in self.history(checkpoint_id) if event["type"] == "snapshot.stored"]
            return [event["data"]["snapshot_id"] for event in found] if len(found) >= count else []

        found: list[str] = until(stored, 30, saying=f"{checkpoint_id} has {count} stored snapshots")
        return found

    def child(self, name: str) -> int:
        """Return the pid of one of the parts: ``nats``, ``controlplane`` or ``nodeworker``."""
        described = json.loads((self.state / "dev.json").read_text())
        return int(described["pids"][name])


@contextmanager
def running(
    state: Path, environment: dict[str, str] | None = None, command: Sequence[str | Path] = (WOODFROG,)
) -> Iterator[Stack]:
    """A stack that is started now and closed at the end."""
    stack = Stack(state, environment, command)
    stack.start()
    try:
        yield stack
    finally:
        stack.close()
