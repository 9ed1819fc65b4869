"""Where a path of a container leads to, as its runtime finds it when it mounts something there.

Images have symbolic links on the way: ``/var/run`` most often is one to ``/run``. The mount is then at the other place.
"""

from __future__ import annotations

import os
import posixpath
from pathlib import Path
from typing import Final

_MOST_LINKS: Final = 40
"""As the kernel follows at most (path_resolution(7))."""


def resolved(rootfs: Path, place: str) -> str:
    """Follow the links below ``rootfs``, each as if that were the root; what does not exist is taken as it is written."""
    waiting = place.split("/")[::-1]
    found = "/"
    links = 0
    while waiting:
        name = waiting.pop()
        if name in {"", "."}:
            continue
        if name == "..":
            found = posixpath.dirname(found)
            continue
        step = posixpath.join(found, name)
        try:
            target = os.readlink(f"{rootfs}{step}")  # noqa: PTH115 -- the root may end with a slash
        except OSError:
            found = step
            continue
        links += 1
        if links > _MOST_LINKS:
            return place
        if target.startswith("/"):
            found = "/"
        waiting += target.split("/")[::-1]
    return found
