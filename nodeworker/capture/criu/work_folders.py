"""Folders in which CRIU works: on cgroup v1 it mounts the machine's hierarchies there, and one that is killed leaves them.

Whoever removes files through such a mount removes the machine's cgroups: an empty one goes by rmdir(2).
"""

from __future__ import annotations

import shutil
from pathlib import Path

import structlog

from woodfrog.service import libc, procfs

_log = structlog.get_logger(component="criu")


def remove(folder: Path) -> None:
    """Remove a folder with all that it holds, once nothing is mounted in it any more; what cannot be removed stays."""
    try:
        for mount in mounted_in(folder):
            libc.unmount(mount, libc.MNT_DETACH)
        left = mounted_in(folder)
    except OSError as problem:
        _log.warning(
            "a folder of CRIU's is kept, because something is mounted in it", folder=str(folder), error=problem
        )
        return
    if not left:
        shutil.rmtree(folder, ignore_errors=True)


def mounted_in(folder: Path) -> list[Path]:
    """List what is mounted below a folder, what was mounted last first.

    Raises:
        OSError: the mounts cannot be read.
    """
    inside = folder.resolve()
    places = (Path(mount.place) for mount in procfs.mounts())
    return [place for place in places if inside in place.parents][::-1]
