"""How much longer than usual tests may take: one setting for slow machines, such as emulated ones.

``WOODFROG_TEST_TIME_SCALE=8`` multiplies every time limit of a test, of its waits and of the programs that it runs. Limits say
how long to wait for what is going to happen, so a larger one changes no outcome.
"""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

SCALE = float(os.environ.get("WOODFROG_TEST_TIME_SCALE") or "1")


def scaled(seconds: float) -> float:
    """Return a time limit for this machine."""
    return seconds * SCALE


def scale_tests(items: list[pytest.Item], default_seconds: float) -> None:
    """Scale the time limits of tests, given by the mark ``timeout`` or by pytest's configuration."""
    for item in items if SCALE != 1 else ():
        mark = item.get_closest_marker("timeout")
        seconds = mark.args[0] if mark is not None else default_seconds
        item.add_marker(pytest.mark.timeout(scaled(seconds)), append=False)


def scale_programs() -> None:
    """Scale the time limits that tests give to programs."""
    if SCALE != 1:
        for name in ("wait", "communicate"):
            setattr(subprocess.Popen, name, _scaling(getattr(subprocess.Popen, name)))


def _scaling(method: Callable[..., Any]) -> Callable[..., Any]:
    inside = False

    @functools.wraps(method)
    def longer(self: object, *arguments: Any, timeout: float | None = None, **named: Any) -> Any:
        nonlocal inside
        if timeout is None or inside:
            return method(self, *arguments, timeout=timeout, **named)
        inside = True
        try:
            return method(self, *arguments, timeout=scaled(timeout), **named)
        finally:
            inside = False

    return longer
