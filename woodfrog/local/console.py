"""Where a container of ``woodfrog run`` and ``woodfrog run`` itself write: the terminal of whoever typed it, or a log.

In the foreground both go to the standard streams. Detached, they go there until the container has started, so that whoever typed the command sees
why it did not start, and from then on to the log of the id.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Protocol


class Console(Protocol):
    """What a container's output and the words about it are written to. Never raises: a container need not suffer from it."""

    def stdout(self, data: bytes) -> None:
        """Take what the container writes to its standard output."""

    def stderr(self, data: bytes) -> None:
        """Take what the container writes to its standard error."""

    def say(self, line: str) -> None:
        """Take a line of ``woodfrog run`` itself."""

    def created(self) -> None:
        """The runtime is done: what comes from now on is the container's own."""

    def started(self) -> None:
        """The container runs, and how it started has been said."""


class Terminal:
    """The standard streams."""

    def stdout(self, data: bytes) -> None:
        """Take what the container writes to its standard output."""
        with suppress(BrokenPipeError, ValueError):  # nobody reads us any more
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()

    def stderr(self, data: bytes) -> None:
        """Take what the container writes to its standard error."""
        with suppress(BrokenPipeError, ValueError):
            sys.stderr.buffer.write(data)
            sys.stderr.buffer.flush()

    def say(self, line: str) -> None:
        """Take a line of ``woodfrog run`` itself."""
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()

    def created(self) -> None:
        """Nothing changes."""

    def started(self) -> None:
        """Nothing changes."""
