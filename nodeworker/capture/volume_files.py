"""The files on volumes that a container's processes hold: recorded while it is frozen, and looked at again before a restore.

Which files these are is read from CRIU's images, so that the record is of what is going to be opened again. They are looked at
through the sources of the container's mounts, at the dump as at the restore, and no symbolic link in them is followed: whoever
else writes to the volume could put one there.

A page that a process has written through a shared mapping can be written again without the kernel noticing, until it is written
back (``do_shared_fault``, mm/memory.c). So files that are mapped so are synced: from then on the first write to any page changes
the file's time. Files in memory are never written back, and such writes to them leave no trace.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

import structlog

from nodeworker.capture import filesystem
from nodeworker.capture.criu.image_files import ImageFiles
from nodeworker.capture.pinned import Pinned, opened_root
from nodeworker.domain import volume_changes
from nodeworker.domain.criu_images import MalformedImageError
from nodeworker.domain.criu_images.held_files import Held, held_files, writers_first
from nodeworker.domain.filename_codec import bytes_of, text_of
from nodeworker.domain.volume_changes import MOST_FILES, Now
from woodfrog.protocol.manifest import HeldFile

_log = structlog.get_logger(component="dump")
_SHARED_WRITABLE: Final = re.compile(rb"^\S+ .w.s \S+ \S+ \d+ +(/.*)$", re.MULTILINE)
"""A line of /proc/PID/maps."""
_FOLDER: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ESCAPED: Final = re.compile(rb"\\([0-7]{3})")


def record(
    images: Path, places: Mapping[str, Path], pids: Collection[int]
) -> tuple[tuple[HeldFile, ...], tuple[str, ...]]:
    """Record the files that are held on these mounts, and say what should be known of that; the container must be frozen.

    Args:
        images: where CRIU has written its images.
        places: the mounts from outside that do not travel, by where they are, and their sources.
        pids: the container's processes.
    """
    if not places:
        return (), ()
    try:
        found = held_files(ImageFiles(images), places)
    except (MalformedImageError, OSError) as problem:
        _log.warning("the files on volumes were not recorded", folder=str(images), problem=str(problem))
        return (), (f"the files on volumes were not recorded: {problem}",)
    unproven = [held for held in found if held.writes or not held.proven]
    kept = writers_first(unproven)[:MOST_FILES]
    in_memory = flush(places, pids)
    recorded = (_recorded(held, places) for held in kept)
    files = tuple(file for file in recorded if file is not None)
    return files, (*volume_changes.too_many(len(unproven)), *volume_changes.unseen(in_memory))


def flush(places: Mapping[str, Path], pids: Iterable[int]) -> list[str]:
    """Write back the files on these mounts to which processes write through mappings; return those that lie in memory.

    Done before the freeze, too, it leaves little to be done in it.
    """
    in_memory = []
    for path in sorted({path for pid in pids for path in _mapped(pid)}):
        mount, below = _split(path, places)
        if mount is None:
            continue
        with suppress(OSError), _pinned(places[mount], below) as file:
            if filesystem.is_tmpfs(Path(os.fsdecode(file.path))):
                in_memory.append(path)
                continue
            descriptor = file.open_file()
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    return in_memory


def size_and_time(file: HeldFile, source: Path) -> Now | None:
    """Look at a recorded file below the source of its mount; None if it is not there."""
    with suppress(OSError, ValueError), _pinned(source, bytes_of(file.path)) as found:
        if stat.S_ISREG(found.status.st_mode):
            return Now(found.status.st_size, found.status.st_mtime_ns)
    return None


def _recorded(held: Held, places: Mapping[str, Path]) -> HeldFile | None:
    """Look at a file. One that is not there has no name any more, or has another name by now: nothing can be said of it."""
    with suppress(OSError), _pinned(places[held.mount], os.fsencode(held.path)) as file:
        if stat.S_ISREG(file.status.st_mode):
            size = file.status.st_size if held.size_bytes is None else held.size_bytes
            return HeldFile(held.mount, text_of(os.fsencode(held.path)), size, file.status.st_mtime_ns, held.appends)
    return None


@contextmanager
def _pinned(source: Path, below: bytes) -> Iterator[Pinned]:
    """Hold a file below the source of a mount, or the source itself.

    Raises:
        OSError: it is not there, or a symbolic link is on the way.
    """
    if not below:
        with opened_root(source.resolve().parent) as folder, Pinned(os.fsencode(source.resolve().name), folder) as file:
            yield file
        return
    names = below.split(b"/")
    with ExitStack() as held:
        at = held.enter_context(opened_root(source))
        for each in names[:-1]:
            at = os.open(each, _FOLDER, dir_fd=at)
            held.callback(os.close, at)
        yield held.enter_context(Pinned(names[-1], at))


def _mapped(pid: int) -> set[str]:
    with suppress(OSError):
        lines = _SHARED_WRITABLE.findall(Path(f"/proc/{pid}/maps").read_bytes())
        return {os.fsdecode(_ESCAPED.sub(lambda found: bytes([int(found[1], 8)]), line)) for line in lines}
    return set()


def _split(path: str, places: Mapping[str, Path]) -> tuple[str | None, bytes]:
    """Find the mount of a path, the longest one, and the rest."""
    above = [place for place in places if path == place or path.startswith(f"{place}/")]
    if not above:
        return None, b""
    mount = max(above, key=len)
    return mount, os.fsencode(path[len(mount) + 1 :])
