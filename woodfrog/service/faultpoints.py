"""Named points in product code where a test may stop or kill the process.

There is one at every commit point: just before or after something becomes durable. A fault test sets ``WOODFROG_FAULT`` to
``NAME=ACTION`` (several separated by commas) and so kills exactly there, instead of hoping that a timer hits the window.
Unset, a point costs one dictionary look-up. The idea is that of DBOS's ``_debug_trigger.py``.

With ``WOODFROG_FAULT_ONCE`` set to a directory, a point acts only the first time that any process reaches it, so that
whoever restarts a killed process need not change its environment.

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
ONCE = "WOODFROG_FAULT_ONCE"
_PAUSE_LIMIT_SECONDS = 60.0


class FaultError(RuntimeError):
    """Raised at a fault point on request."""


def _parse(text: str) -> dict[str, str]:
    pairs = (item.partition("=") for item in text.split(",") if item)
    return {name: action for name, _, action in pairs}


_actions = _parse(os.environ.get(VARIABLE, ""))


def _acted_before(name: str) -> bool:
    folder = os.environ.get(ONCE)
    if folder is None:
        return False
    try:
        (Path(folder) / name).touch(exist_ok=False)
    except FileExistsError:
        return True
    return False


def reach(name: str) -> None:
    """Do what the environment asks for at the point ``name``; nothing, outside of tests."""
    action = _actions.get(name)
    if action is None or _acted_before(name):
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
