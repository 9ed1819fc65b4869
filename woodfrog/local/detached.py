"""``woodfrog run --detach``: the process that would wait in the foreground waits in the background instead.

It is the same process that ``woodfrog run`` is: it holds the container's pipes, takes the final snapshot at SIGTERM, keeps the layer, and tells the worker
of the end, as conmon does for podman. It leaves its session, so a closed terminal ends nothing. Whoever typed the command waits until
the container has started, or sees why it has not.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import Final

import msgspec

from woodfrog.local.console import Terminal
from woodfrog.local.container_log import Writer
from woodfrog.protocol.ids import ContainerId

_STREAMS: Final = (0, 1, 2)


class Started(msgspec.Struct, frozen=True):
    """What the background says when the container runs."""

    container_id: ContainerId


class Background:
    """A console that becomes a log when the container has started, and says so to whoever waits for that."""

    def __init__(self, log: Writer, container_id: ContainerId, ready: int) -> None:
        self._log, self._container_id, self._ready = log, container_id, ready
        self._terminal: Terminal | None = Terminal()
        self._is_created = False

    def stdout(self, data: bytes) -> None:
        """Take what the container writes to its standard output."""
        self._log.write("stdout", data)

    def stderr(self, data: bytes) -> None:
        """Take what the container, or before it the runtime, writes to standard error."""
        if not self._is_created and self._terminal is not None:
            self._terminal.stderr(data)
        self._log.write("stderr", data)

    def say(self, line: str) -> None:
        """Take a line of ``woodfrog run`` itself."""
        if self._terminal is not None:
            self._terminal.say(line)
        self._log.write("woodfrog", line.encode() + b"\n")

    def created(self) -> None:
        """The runtime is done: what comes from now on is the container's own."""
        self._is_created = True

    def started(self) -> None:
        """Let go of the terminal, and of whoever waits."""
        self._terminal = None
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for number in _STREAMS:
            os.dup2(nothing, number)
        os.close(nothing)
        with suppress(OSError):
            os.write(self._ready, msgspec.json.encode(Started(self._container_id)))
        os.close(self._ready)


def split() -> int:
    """Go on twice. Return, in the background, a descriptor to say on that the container has started; and in the foreground never.

    There the process ends: with 0 when the container has started, or with the exit code of the background.

    Raises:
        Ended: in the foreground, in place of returning.
    """
    heard, ready = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(heard)
        os.setsid()
        os.chdir("/")
        return ready
    os.close(ready)
    raise Ended(*_wait(child, heard))


class Ended(Exception):  # noqa: N818 -- nothing went wrong
    """The foreground's part is done."""

    def __init__(self, code: int, started: Started | None) -> None:
        super().__init__()
        self.code, self.started = code, started


def _wait(child: int, heard: int) -> tuple[int, Started | None]:
    def pass_on(number: int, _frame: FrameType | None) -> None:
        with suppress(ProcessLookupError):
            os.kill(child, number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with os.fdopen(heard, "rb") as pipe:
            said = pipe.read()
        if said:
            return 0, msgspec.json.decode(said, type=Started)
        _, status = os.waitpid(child, 0)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    code = os.waitstatus_to_exitcode(status)
    return (code if code >= 0 else 128 - code), None
