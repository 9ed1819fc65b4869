"""Signals to ``woodfrog run`` while it makes or removes a container: nothing that was made is left behind."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM, like SIGINT, end what is being done by an exception, so that what was made is removed."""

    def end(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let no signal get between the removal of a container and its end."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    yield


@contextmanager
def deferred() -> Iterator[None]:
    """Have a signal that comes meanwhile wait for the end of this.

    The signal is not blocked: a mask holds for one thread, and the kernel would give the signal to another.
    """
    came: list[int] = []
    before = {
        number: signal.signal(number, lambda which, _: came.append(which)) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for which in came:
        signal.raise_signal(which)
