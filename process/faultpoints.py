"""Named points in product code where a test may stop or kill the process.

There is one at every commit point: just before or after something becomes durable. A fault test sets ``WOODFROG_FAULT`` to
``NAME=ACTION`` (several separated by commas) and so kills exactly there, instead of hoping that a timer hits the window.
Unset, a point costs one dictionary look-up. The idea is that of DBOS's ``_debug_trigger.py``.

Actions: ``kill`` (SIGKILL to this process), ``raise`` (:class:`FaultError`), ``pause`` (sleep until
``WOODFROG_FAULT_RELEASE``, a path, exists, or a minute has passed).
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

VARIABLE = "WOODFROG_FAULT"
RELEASE = "WOODFROG_FAULT_RELEASE"
_PAUSE_LIMIT_SECONDS = 60.0


class FaultError(RuntimeError):
    """Raised at a fault point on request."""


def _parse(text: str) -> dict[str, str]:
    pairs = (item.partition("=") for item in text.split(",") if item)
    return {name: action for name, _, action in pairs}


_actions = _parse(os.environ.get(VARIABLE, ""))


def reach(name: str) -> None:
    """Do what the environment asks for at the point ``name``; nothing, outside of tests."""
    action = _actions.get(name)
    if action is None:
        return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "pause":
        release = Path(os.environ[RELEASE])
        deadline = time.monotonic() + _PAUSE_LIMIT_SECONDS
        while not release.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        return
    raise FaultError(f"fault point {name}")
