"""The OCI runtime of a stack, called as containerd's shim calls it."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path

from protocol.failures import Failure, FailureError
from woodfrog.state import Description

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
            raise runtime_failed(command, str(problem)) from problem
        if done.returncode != 0:
            raise runtime_failed(command, done.stderr.strip())


def runtime_failed(command: list[str], said: str) -> FailureError:
    """Make the failure of a verb out of what the runtime said."""
    return FailureError(Failure("runtime-failed", f"{Path(command[0]).name}: {said}", "The line above says why."))
