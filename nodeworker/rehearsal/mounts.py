"""Covers for everything that a rehearsed container could write to, in a mount namespace that only the rehearsal sees.

The container's config.json stays as it is: over each place that it names, something else is mounted. A directory gets an
overlay whose upper layer is memory, so CRIU may create, rename and remove there; a file gets a copy; a volume that travels
with the snapshot an empty directory, which the snapshot's files fill. What the container may only read stays.
"""

from __future__ import annotations

import os
import shutil
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from nodeworker.bundle import Bundle
from nodeworker.capture import overlay
from nodeworker.domain import mounts as mounted
from nodeworker.domain.rehearsal import ADVICE, NOT_REHEARSED
from nodeworker.errors import refusal
from woodfrog.protocol.failures import FailureError
from woodfrog.service import libc, procfs

_LONGEST_FILE_BYTES: Final = 64 << 20


def own_mounts(scratch: Path, limit_bytes: int) -> None:
    """Follow the host's mounts from now on and give it none back; show this process its own processes; mount the memory.

    Raises:
        OSError: a mount failed.
    """
    libc.mount("none", Path("/"), None, libc.MS_REC | libc.MS_SLAVE)
    libc.mount("proc", Path("/proc"), "proc")
    libc.mount("woodfrog-rehearsal", scratch, "tmpfs", 0, f"mode=0700,size={limit_bytes}")


def cover(live: Bundle, spec: dict[str, Any], scratch: Path) -> None:
    """Cover the root filesystem and every bind mount that is not read-only.

    Raises:
        FailureError: ``not-rehearsed``: something cannot be covered.
        OSError: the same.
    """
    covers = scratch / "covers"
    covers.mkdir()
    _cover_root(live.rootfs, _layer(covers, "root"))
    travelling = set(live.travelling.values())
    if (shm := live.travelling_shm) is not None:
        travelling.add(shm)
    seen: set[Path] = set()
    for number, mount in enumerate(spec.get("mounts") or []):
        source = Path(mount.get("source") or "")
        if not mounted.is_bind(mount) or mounted.is_read_only(mount) or source in seen:
            continue
        seen.add(source)
        _cover(source, _layer(covers, str(number)), travels=source in travelling)


def bind(source: Path, target: Path) -> None:
    """Show a file at another place.

    Raises:
        OSError: the mount failed.
    """
    libc.mount(str(source), target, None, libc.MS_BIND)


def _layer(covers: Path, name: str) -> Path:
    folder = covers / name
    folder.mkdir()
    return folder


def _cover_root(rootfs: Path, folder: Path) -> None:
    found = overlay.find_overlay(rootfs)
    if found is None:
        _lay_over(rootfs, folder)
        return
    upper, work = folder / "upper", folder / "work"
    for each in (upper, work):
        each.mkdir()
    overlay.mount(replace(found, upper=upper, work=work))


def _cover(source: Path, folder: Path, *, travels: bool) -> None:
    status = source.stat()
    if stat.S_ISDIR(status.st_mode):
        if travels:
            folder.chmod(stat.S_IMODE(status.st_mode))
            os.chown(folder, status.st_uid, status.st_gid)
            bind(folder, source)
        else:
            _lay_over(source, folder)
        _share(source)
    elif stat.S_ISREG(status.st_mode):
        if status.st_size > _LONGEST_FILE_BYTES:
            raise _not_rehearsed(f"the file {source} is too large to be copied for a rehearsal")
        copy = folder / "file"
        shutil.copy2(source, copy)
        os.chown(copy, status.st_uid, status.st_gid)
        bind(copy, source)
        _share(source)


def _share(cover: Path) -> None:
    """Give a cover peers: a mount that followed its source in the snapshot follows it again, and no mount can follow a private one.

    MOVE_MOUNT_SET_GROUP of move_mount(2), by which CRIU does that, fails with EINVAL otherwise.
    """
    libc.mount("none", cover, None, libc.MS_SHARED)


def _lay_over(place: Path, folder: Path) -> None:
    within = os.path.realpath(place).rstrip("/") + "/"
    if any(mount.place.startswith(within) for mount in procfs.mounts()):
        raise _not_rehearsed(f"{place} has other mounts in it, which a rehearsal cannot protect")
    upper, work = folder / "upper", folder / "work"
    for each in (upper, work):
        each.mkdir()
    status = place.stat()
    upper.chmod(stat.S_IMODE(status.st_mode))
    os.chown(upper, status.st_uid, status.st_gid)
    try:
        overlay.mount(overlay.Overlay((place,), upper, work, place, ("rw",)))
    except (OSError, FailureError) as problem:
        raise _not_rehearsed(f"{place} cannot be protected from what a restore writes there: {problem}") from problem


def _not_rehearsed(cause: str) -> FailureError:
    return refusal(NOT_REHEARSED, cause, ADVICE)
