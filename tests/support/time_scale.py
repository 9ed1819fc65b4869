"""How much longer than usual tests may take: one setting for slow machines, such as emulated ones.

``WOODFROG_TEST_TIME_SCALE=8`` multiplies every time limit of a test, of its waits and of the programs that it runs. Limits say
how long to wait for what is going to happen, so a larger one changes no outcome.
"""

from __future__ import annotations

import os
import subprocess
import threading
from typing import Any

import pytest

SCALE = float(os.environ.get("WOODFROG_TEST_TIME_SCALE") or "1")


def scaled(seconds: float) -> float:
    """Return a time limit for this machine."""
    return seconds * SCALE


def limit(seconds: float) -> str:
    """Return the option by which helm and kubectl take a time limit."""
    return f"--timeout={scaled(seconds):.0f}s"


def scale_tests(items: list[pytest.Item], default_seconds: float) -> None:
    """Scale the time limits of tests, given by the mark ``timeout`` or by pytest's configuration."""
    for item in items if SCALE != 1 else ():
        mark = item.get_closest_marker("timeout")
        seconds = mark.args[0] if mark is not None else default_seconds
        item.add_marker(pytest.mark.timeout(scaled(seconds)), append=False)


def scale_programs() -> None:
    """Scale the time limits that tests give to programs."""
    if SCALE == 1:
        return
    wait, communicate = subprocess.Popen.wait, subprocess.Popen.communicate
    within = threading.local()  # communicate() calls wait() with what is left of its own time

    def longer_wait(self: Any, timeout: float | None = None) -> Any:
        scale = 1 if getattr(within, "communicate", False) else SCALE
        return wait(self, None if timeout is None else timeout * scale)

    def longer_communicate(self: Any, input: Any = None, timeout: float | None = None) -> Any:  # noqa: A002 -- its name
        within.communicate = True
        try:
            return communicate(self, input, None if timeout is None else scaled(timeout))
        finally:
            within.communicate = False

    setattr(subprocess.Popen, "wait", longer_wait)  # noqa: B010 -- mypy minds an assignment
    setattr(subprocess.Popen, "communicate", longer_communicate)  # noqa: B010 -- as above
