"""Files that were deleted while processes hold them, of which no snapshot can be restored: found before anything is frozen.

Of a file without a name CRIU writes the content into its images, up to a limit (criu/files-reg.c, ``dump_ghost_remap``, which counts blocks).
If another name is left, it makes a name ``link_remap.N`` beside the old one and removes it when the dump ends. The writable layer,
``/dev/shm`` and volumes that travel are copied before that; a mount that does not travel lacks the name ever after, so CRIU would
dump such a container without a complaint and never restore it.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from nodeworker.domain import criu_failures
from nodeworker.domain.criu_options import GHOST_LIMIT_BYTES
from woodfrog.protocol.failures import Failure, FailureError
from woodfrog.service.procfs import descriptors, mounts, named

_DELETED: Final = " (deleted)"
_BLOCK_BYTES: Final = 512
_MAPPED: Final = re.compile(r"^([0-9a-f]+-[0-9a-f]+) \S+ \S+ \S+ \d+ +(/.* \(deleted\))$", re.MULTILINE)
"""A line of /proc/PID/maps."""
_NO_FILES: Final = ("/memfd:", "/SYSV", "/dev/zero", "/secretmem", "/anon_hugepage")
"""What the kernel names so though it never had a name."""


def refuse_unrestorable(pids: Iterable[int], outside: Collection[str]) -> None:
    """Refuse processes that hold a deleted file which a snapshot could not bring back.

    Args:
        pids: the container's processes.
        outside: where mounts are that do not travel.

    Raises:
        FailureError: ``link-remap`` or ``ghost-file-too-large``, naming the process and the file.
    """
    for pid in pids:
        for path, status in _held(pid):
            if not stat.S_ISREG(status.st_mode):
                continue
            size = status.st_blocks * _BLOCK_BYTES
            if status.st_nlink == 0 and size > GHOST_LIMIT_BYTES:
                what = f"of {size >> 20} MiB; the limit is {GHOST_LIMIT_BYTES >> 20} MiB"
                raise _refusal("ghost-file-too-large", pid, path, what)
            if status.st_nlink > 0 and _mount_of(path, pid) in outside:
                what = "of which another name is left, on a volume that does not travel with the snapshot"
                raise _refusal("link-remap", pid, path, what)


def _held(pid: int) -> Iterator[tuple[str, os.stat_result]]:
    """Give the deleted files that a process has open or mapped, with the paths that they had."""
    places = {f"fd/{number}": path for number, path in descriptors(pid).items()}
    with suppress(OSError):  # it has ended
        maps = Path(f"/proc/{pid}/maps").read_text(errors="surrogateescape")
        places |= {f"map_files/{each[1]}": each[2] for each in _MAPPED.finditer(maps)}
    for place, path in places.items():
        if path.startswith("/") and path.endswith(_DELETED) and not path.startswith(_NO_FILES):
            with suppress(OSError):
                yield path.removesuffix(_DELETED), Path(f"/proc/{pid}/{place}").stat()


def _mount_of(path: str, pid: int) -> str:
    """Return the mount of a path in the process's mount namespace; empty if it is not known."""
    with suppress(OSError):
        places = (mount.place for mount in mounts(pid))
        return max((each for each in places if path.startswith(f"{each.rstrip('/')}/")), key=len, default="")
    return ""


def _refusal(code: str, pid: int, path: str, what: str) -> FailureError:
    return FailureError(
        Failure(code, f"{named(pid)} holds a deleted file {path} {what}", criu_failures.rule(code).advice)
    )
