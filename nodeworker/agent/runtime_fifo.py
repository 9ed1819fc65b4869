"""The pipe by which the runtime's shell part says something to the worker, without starting anything that could ask.

A shell can write to a named pipe and to nothing else. What is said here is a hint or a message that the worker would find out by
itself, and nobody waits for an answer: a worker that is not there misses it. One line each, words separated by tabs.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

_READ_BYTES: Final = 1 << 16
"""What a pipe holds; a line of at most PIPE_BUF (4096) bytes is written as a whole, pipe(7)."""


class RuntimeFifo:
    """Hears every line, as words, until it is closed. Only root can write."""

    def __init__(self, path: Path, hear: Callable[[list[str]], None]) -> None:
        self._path = path
        self._hear = hear
        self._descriptor = -1
        self._begun = b""

    def start(self) -> None:
        """Make the pipe and begin to hear, replacing a dead worker's.

        Raises:
            OSError: if it cannot be made.
        """
        fresh = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        with suppress(FileNotFoundError):
            fresh.unlink()
        os.mkfifo(fresh, 0o600)
        # Open for both, as the writers have it: so that neither waits for the other, nor sees an end.
        self._descriptor = os.open(fresh, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fresh.rename(self._path)
        asyncio.get_running_loop().add_reader(self._descriptor, self._read)

    def close(self) -> None:
        """Hear nobody any more."""
        if self._descriptor >= 0:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
            self._path.unlink(missing_ok=True)

    def _read(self) -> None:
        with suppress(BlockingIOError):
            *lines, self._begun = (self._begun + os.read(self._descriptor, _READ_BYTES)).split(b"\n")
            self._begun = self._begun[-_READ_BYTES:]
            for line in lines:
                self._hear(line.decode(errors="replace").split("\t"))
