"""Hooks of a container's owner, carried out: before a dump, and after a restore. They are bounded, and none of them fails anything.

A command is run by ``runc exec``, so it has what the container has and nothing more; its output goes to the worker's own log, in
part. What went wrong is a warning of the snapshot, or of the start.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

import structlog

from nodeworker.capture import container_file
from nodeworker.capture.criu.runc import Runc, RuncState
from nodeworker.domain.hooks import Hook, HookKind

_log = structlog.get_logger(component="hooks")
_OUTPUT_BYTES: Final = 4096
_SIGNAL_PAUSE_SECONDS: Final = 0.5
_POLL_SECONDS: Final = 0.02
_SOON_SECONDS: Final = 1.0


class Hooks:
    """The hooks of the containers of one worker. Every method blocks, for no longer than the limit it is given."""

    def __init__(self, runc: Runc) -> None:
        self._runc = runc

    def before_dump(
        self, hook: Hook, state: RuncState, mounts: Collection[str], limit_seconds: float
    ) -> tuple[str, ...]:
        """Let a program prepare for a dump, which follows in any case; return what went wrong as a warning."""
        deadline = time.monotonic() + limit_seconds
        problem = self._done(hook, state, mounts, "", limit_seconds)
        if problem is None and hook.kind is HookKind.SIGNAL:
            time.sleep(min(_SIGNAL_PAUSE_SECONDS, limit_seconds))
        if problem is None and hook.kind is HookKind.FILE:
            problem = _removed(state.pid, hook.words[0], deadline, limit_seconds)
        return self._told("before-dump", hook, problem)

    def after_restore(
        self, hook: Hook, state: RuncState, mounts: Collection[str], generation: int, limit_seconds: float
    ) -> tuple[str, ...]:
        """Tell a program that it was restored; return what went wrong as a warning."""
        return self._told("after-restore", hook, self._done(hook, state, mounts, f"{generation}\n", limit_seconds))

    def _done(
        self, hook: Hook, state: RuncState, mounts: Collection[str], text: str, limit_seconds: float
    ) -> str | None:
        try:
            match hook.kind:
                case HookKind.EXEC:
                    return self._exec(hook, state, limit_seconds)
                case HookKind.SIGNAL:
                    os.kill(state.pid, getattr(signal, f"SIG{hook.words[0]}"))
                case HookKind.FILE:
                    container_file.put(state.pid, hook.words[0], text, mounts)
        except OSError as problem:
            return str(problem)
        return None

    def _exec(self, hook: Hook, state: RuncState, limit_seconds: float) -> str | None:
        with tempfile.TemporaryDirectory(prefix="woodfrog-hook-") as folder:
            pid_file = Path(folder, "pid")
            command = [
                *(str(self._runc.binary), "--root", str(state.root)),
                *("exec", "--pid-file", str(pid_file), state.container_id, *hook.words),
            ]
            output = _Output()
            with subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=self._runc.environment(),
            ) as process:
                assert process.stdout is not None
                reading = threading.Thread(target=output.read, args=(process.stdout,), daemon=True)
                reading.start()
                try:
                    code = process.wait(limit_seconds)
                except subprocess.TimeoutExpired:
                    _kill(pid_file)
                    process.kill()
                    return f"it was not done within {limit_seconds:g} s and was ended"
                finally:
                    reading.join(_SOON_SECONDS)
        if output.kept:
            _log.info("a hook has said something", container_id=state.container_id, output=output.text)
        return f"exit code {code}" if code else None

    def _told(self, name: str, hook: Hook, problem: str | None) -> tuple[str, ...]:
        _log.info("a hook was carried out", hook=name, what=str(hook), problem=problem)
        return () if problem is None else (f"the hook {name} ({hook.kind}) failed: {problem}",)


class _Output:
    """The beginning of what a command says; the rest is read and dropped."""

    def __init__(self) -> None:
        self.kept = b""

    @property
    def text(self) -> str:
        return self.kept.decode(errors="replace")

    def read(self, pipe: IO[bytes]) -> None:
        with suppress(OSError, ValueError):
            while piece := os.read(pipe.fileno(), _OUTPUT_BYTES):
                self.kept += piece[: _OUTPUT_BYTES - len(self.kept)]


def _kill(pid_file: Path) -> None:
    """End the command itself: without runc it would go on in the container."""
    with suppress(OSError, ValueError):
        os.kill(int(pid_file.read_text()), signal.SIGKILL)


def _removed(pid: int, path: str, deadline: float, limit_seconds: float) -> str | None:
    while container_file.exists(pid, path):
        if time.monotonic() >= deadline:
            return f"{path} was not removed within {limit_seconds:g} s"
        time.sleep(_POLL_SECONDS)
    return None
