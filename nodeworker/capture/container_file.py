"""A small file made in a running container's own file system, without a privilege that the container lacks.

It is made through the root of the container's first process, as a new file: what is there under its name is removed and never written
to, so that nothing in /proc is. No symbolic link is followed, and nothing below a mount from outside is touched: the node worker may
write where the container's user may not.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

_FOLDER: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def put(pid: int, path: str, text: str, mounts: Collection[str]) -> None:
    """Write a file, which belongs to the user of process ``pid``; ``mounts`` are the places of mounts from outside.

    Raises:
        OSError: it lies below such a mount, behind a link, or cannot be made.
    """
    if any(path == place or path.startswith(f"{place.rstrip('/')}/") for place in mounts):
        raise OSError(f"{path} lies on a volume")
    with ExitStack() as held:
        folder, name = _parent(pid, path, held)
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
        file = os.open(name, _FILE, 0o644, dir_fd=folder)
        held.callback(os.close, file)
        owner = Path(f"/proc/{pid}").stat()
        os.fchown(file, owner.st_uid, owner.st_gid)
        os.write(file, text.encode())


def exists(pid: int, path: str) -> bool:
    """Say whether there is something at a path of a container; not if it cannot be looked at."""
    try:
        with ExitStack() as held:
            folder, name = _parent(pid, path, held)
            os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return False
    return True


def _parent(pid: int, path: str, held: ExitStack) -> tuple[int, str]:
    *folders, name = path.strip("/").split("/")
    at = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    held.callback(os.close, at)
    for folder in folders:
        at = os.open(folder, _FOLDER, dir_fd=at)
        held.callback(os.close, at)
    return at, name
