"""Where a container of ``woodfrog run`` and ``woodfrog run`` itself write: the terminal of whoever typed it, or a log.

In the foreground both go to the standard streams. Detached, they go there until the container has started, so that whoever typed the command sees
why it did not start, and from then on to the log of the id.
"""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from typing import Protocol, TextIO


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


def write(stream: TextIO | None, data: bytes) -> None:
    """Write to a standard stream, and never raise: whoever writes has more to do, such as to take a last snapshot.

    Of one that nobody reads any more, and of a terminal that is gone, the rest is left out, so that the exit code is not Python's own.
    """
    if stream is None:  # it was closed when we began
        return
    try:
        stream.buffer.write(data)
        stream.buffer.flush()
    except ValueError:  # it is closed
        return
    except OSError as problem:
        if problem.errno in {errno.EPIPE, errno.EIO}:
            with suppress(OSError):
                nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)


def say(line: str) -> None:
    """Write a line to standard error, as :func:`write` does."""
    write(sys.stderr, f"{line}\n".encode(errors="backslashreplace"))


class Terminal:
    """The standard streams."""

    def stdout(self, data: bytes) -> None:
        """Take what the container writes to its standard output."""
        write(sys.stdout, data)

    def stderr(self, data: bytes) -> None:
        """Take what the container writes to its standard error."""
        write(sys.stderr, data)

    def say(self, line: str) -> None:
        """Take a line of ``woodfrog run`` itself."""
        say(line)

    def created(self) -> None:
        """Nothing changes."""

    def started(self) -> None:
        """Nothing changes."""
