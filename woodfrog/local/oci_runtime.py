"""The OCI runtime of a stack, called as containerd's shim calls it."""

from __future__ import annotations

import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import msgspec

from woodfrog.dev_state import Description
from woodfrog.protocol.failures import Failure, FailureError

STOP_SECONDS = 1800.0
"""How long a final dump may take."""
VERB_SECONDS = 60.0


class Runtime:
    """The OCI runtime of a stack, for one container."""

    def __init__(self, described: Description, container_id: str) -> None:
        self._described = described
        self.container_id = container_id

    def command(self, verb: str, *words: str | Path, log: Path | None = None) -> list[str]:
        """Build the command line of a verb as containerd's shim does."""
        logging = ["--log", str(log), "--log-format", "json"] if log else []
        return [self._described.runtime, "--root", self._described.runc_root, *logging, verb, *map(str, words)]

    def kill(self, name: str, *, seconds: float = STOP_SECONDS) -> None:
        """Send a signal; the stop signal returns when the final dump is captured.

        Raises:
            FailureError: ``runtime-failed`` with the runtime's own words.
        """
        self._run(self.command("kill", self.container_id, name), seconds)

    def delete(self) -> None:
        """Remove the container, whatever is left of it."""
        with suppress(FailureError):
            self._run(self.command("delete", "--force", self.container_id), VERB_SECONDS)

    def _run(self, command: list[str], seconds: float) -> None:
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as problem:
            raise _failed(command, str(problem)) from problem
        if done.returncode != 0:
            raise runtime_failed(command, done.returncode, done.stderr)


def logged(log: Path, level: str) -> list[str]:
    """Read what a verb wrote to its ``log`` at a level, such as ``error``; runc and the runtime write an object a line."""
    found = []
    with suppress(OSError):
        for line in log.read_bytes().splitlines():
            with suppress(msgspec.DecodeError):
                entry = msgspec.json.decode(line, type=dict[str, str])
                if entry.get("level") == level and entry.get("msg"):
                    found.append(entry["msg"])
    return found


def runtime_failed(command: list[str], code: int, said: str) -> FailureError:
    """Make the failure of a verb out of the runtime's exit code, as ``subprocess`` has it, and what it said."""
    name = Path(command[0]).name
    if code < 0:
        by = f"by signal {-code}" + (", as when memory runs out" if -code == signal.SIGKILL else "")
        advice = "The container is as it was, or has ended: look at `woodfrog ps`, and try again. The kernel's log (`dmesg`) shows whether memory ran out."
        return FailureError(Failure("runtime-killed", f"{name} was killed {by} before it was done", advice))
    return _failed(command, said.strip() or f"it ended with exit code {code} without a word")


def _failed(command: list[str], why: str) -> FailureError:
    advice = "`woodfrog ps` shows the state of the container; `woodfrog doctor` whether runc works on this machine."
    return FailureError(Failure("runtime-failed", f"{Path(command[0]).name}: {why}", advice))
