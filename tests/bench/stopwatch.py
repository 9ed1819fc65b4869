"""Timing a program to the fraction of a millisecond, and still not waiting for it for ever.

``subprocess`` waits with a time limit by sleeping 0.5, 1, 2, 4 ... milliseconds between two looks, so everything that it
times takes 7.5 or 15.5 ms. Here the wait is the kernel's, and a timer kills what takes too long.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LIMIT_SECONDS = 60.0


def run_timed(command: Sequence[str | Path], **options: Any) -> float:
    """Run a program and return how many seconds that took, from before its start until its end.

    Raises:
        subprocess.CalledProcessError: if it fails, or was killed after :data:`LIMIT_SECONDS`.
    """
    began = time.perf_counter()
    with subprocess.Popen(command, **{"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, **options}) as process:
        limit = threading.Timer(LIMIT_SECONDS, process.kill)
        limit.start()
        try:
            code = process.wait()
        finally:
            limit.cancel()
    seconds = time.perf_counter() - began
    if code != 0:
        raise subprocess.CalledProcessError(code, list(command))
    return seconds


def undo_when_ended() -> None:
    """Let SIGTERM end the benchmark as an exception does, so that what was begun is undone."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
