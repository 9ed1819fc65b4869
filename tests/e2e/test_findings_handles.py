"""What the kernel keeps for a program goes on: one container holds one of each, and looks at them after it was moved."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.stack import Stack, until

pytestmark = [pytest.mark.criu, pytest.mark.nats, pytest.mark.timeout(180)]

PROGRAM = Path(__file__).parent / "workloads/handles.py"
KINDS = (
    "epoll",
    "eventfd",
    "signalfd",
    "timerfd",
    "interval timer",
    "memfd",
    "shared memory",
    "pidfd",
    "SysV shared memory",
    "SysV semaphore",
    "SysV message queue",
)


@pytest.fixture(scope="module")
def said(stack: Stack) -> Iterator[dict[str, str]]:
    """What the program found, by the kind of thing."""
    run = stack.run("handles", sys.executable, PROGRAM)
    run.until_lines("/count", 5)
    run.stop()
    stack.until_stored("handles")
    again = stack.run("handles", sys.executable, PROGRAM)
    assert again.container["restored_from"] is not None
    (again.root / "look").touch()
    until(lambda: len(again.lines("/said")) == len(KINDS), 30, saying="all was looked at")
    yield dict(line.split(": ", 1) for line in again.lines("/said"))
    again.stop()


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_what_it_was(said: dict[str, str], kind: str) -> None:
    assert said[kind] == "ok"
