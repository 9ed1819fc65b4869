"""Whether files that stayed outside of a snapshot are still what its processes take them for.

A process that is put back before a file that has changed since does wrong without noticing it: it writes old pages over new ones, or
counts rows that are gone. So every file that it holds is recorded with its size and the time of its last change, and compared before
it is restored. A log to which the process only appends may have grown: nothing of it is in the process' memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from nodeworker.domain.checkpoint_options import VOLUME_CHANGES
from woodfrog.protocol.failures import VOLUME_CHANGED, Failure
from woodfrog.protocol.manifest import HeldFile

MOST_FILES: Final = 5000
"""That are recorded of one snapshot. Each costs a look while the container is frozen, and has a place in the manifest."""
_SHOWN: Final = 3
_LONGEST: Final = 200
_A_SECOND_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Now:
    """What a file is like at the restore."""

    size_bytes: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Change:
    """One file that is not what it was, and in which way."""

    file: HeldFile
    what: str


def changes(files: Iterable[HeldFile], now: Mapping[HeldFile, Now]) -> list[Change]:
    """Return what has changed. Of a file that is not there CRIU tells; one that is in no mount of the container is not looked for."""
    return [
        Change(file, what) for file in files if (found := now.get(file)) is not None and (what := _change(file, found))
    ]


def grown(files: Iterable[HeldFile], now: Mapping[HeldFile, Now]) -> tuple[str, ...]:
    """Word, as a warning of the start, which logs have grown since the dump."""
    found = [
        f"{_shown(file)} by {now[file].size_bytes - file.size_bytes} bytes"
        for file in files
        if file.appended and file in now and now[file].size_bytes > file.size_bytes
    ]
    if not found:
        return ()
    return (f"files that the process only appends to have grown since the snapshot: {_listed(found)}",)


def failure(found: list[Change]) -> Failure:
    """Say that a snapshot does not fit its volumes any more."""
    return Failure(
        VOLUME_CHANGED,
        f"files on volumes have changed since the snapshot: {_listed([_worded(each) for each in found])}",
        "An older snapshot that fits, or the image, is used instead, so that the program recovers from its files. A program that copes "
        f"with such changes can say so by the annotation {VOLUME_CHANGES}: ignore.",
    )


def ignored(found: list[Change]) -> tuple[str, ...]:
    """Word, as a warning of the start, what has changed and was to be ignored."""
    if not found:
        return ()
    return (
        f"files on volumes have changed since the snapshot, which the container's owner ignores: {_listed([_worded(each) for each in found])}",
    )


def too_many(count: int) -> tuple[str, ...]:
    """Word, as a warning of the snapshot, that not all files were recorded."""
    if count <= MOST_FILES:
        return ()
    return (
        f"{count} files on volumes are held open or mapped, of which {MOST_FILES} were recorded: whether the others change is not noticed",
    )


def unseen(paths: list[str]) -> tuple[str, ...]:
    """Word, as a warning of the snapshot, which files can change without a trace: mapped ones that lie in memory."""
    if not paths:
        return ()
    shown = _listed([_printable(path) for path in paths])
    return (
        f"the process writes through a mapping to files on a volume in memory, whose changes leave no trace: {shown}",
    )


def _change(file: HeldFile, now: Now) -> str:
    if file.appended:
        return f"{file.size_bytes} bytes at the dump, {now.size_bytes} now" if now.size_bytes < file.size_bytes else ""
    if now.size_bytes != file.size_bytes:
        return f"{file.size_bytes} bytes at the dump, {now.size_bytes} now"
    if now.mtime_ns != file.mtime_ns:
        return f"written at {_time(now.mtime_ns)}, and at the dump last at {_time(file.mtime_ns)}"
    return ""


def _worded(change: Change) -> str:
    return f"{_shown(change.file)} ({change.what})"


def _shown(file: HeldFile) -> str:
    return _printable(f"{file.mount.rstrip('/')}/{file.path}".rstrip("/"))


def _printable(path: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in path[-_LONGEST:])


def _listed(found: list[str]) -> str:
    rest = len(found) - _SHOWN
    return ", ".join(found[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _time(nanoseconds: int) -> str:
    try:
        return f"{datetime.fromtimestamp(nanoseconds / _A_SECOND_NS, UTC):%FT%T.%fZ}"
    except (OverflowError, ValueError, OSError):
        return "an impossible time"
