"""How many files, and how large ones, a dump takes of a container: a container decides both, so both have a limit.

The same limits hold before the freeze, where a refusal costs the container nothing, and during the copy, because another
container of the pod may have made more meanwhile.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from nodeworker.capture.pinned import Pinned, names_in, opened_root
from nodeworker.domain.filename_codec import LIMIT_PATH_BYTES
from woodfrog.protocol.failures import Failure, FailureError

DEFAULT_FILES: Final = 1_000_000
DEFAULT_SPARSE_BYTES: Final = 1 << 40
LIST_BYTES: Final = 384 << 20
"""How long the list of a dump's files may be: with the places of their bytes it has to fit into a manifest that can be read."""
_ENTRY_BYTES: Final = 128
"""What a list says of a file beside its path, about."""
LIMIT_DEPTH: Final = 500
"""Every level holds a file descriptor and a stack frame."""


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """The most that one dump takes of a container's layer, /dev/shm and volumes together."""

    files: int = DEFAULT_FILES
    """Entries of any kind."""
    apparent_bytes: int = DEFAULT_SPARSE_BYTES
    """Sum of the files' sizes, holes included: a hole costs no disk, but each MiB of it has a place in the manifest."""
    list_bytes: int = LIST_BYTES
    """Length of the list of entries, paths and extended attributes included."""
    deadline: float | None = None
    """When, by ``time.monotonic``, the container has stood still for so long that it is to run on without a snapshot."""
    layer_counts: bool = False
    """Whether ``woodfrog.io/volumes-limit`` is for the writable layer and /dev/shm as well."""

    def until(self, deadline: float) -> Bounds:
        """Return the same bounds with a deadline."""
        return msgspec.structs.replace(self, deadline=deadline)


class Tally:
    """What was counted so far of one dump; counting stops at the limit."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self.files = 0
        self.apparent_bytes = 0
        self.occupied_bytes = 0
        self._listed_bytes = 0

    @property
    def files_left(self) -> int:
        """How many more entries may come."""
        return self._bounds.files - self.files

    def look_at_clock(self) -> None:
        """Give up if the container has stood still for too long.

        Raises:
            FailureError: ``freeze-limit``.
        """
        if self._bounds.deadline is not None and time.monotonic() > self._bounds.deadline:
            raise FailureError(
                Failure(
                    "freeze-limit",
                    "the container stood still for longer than a periodic snapshot may take, so it was let go without one",
                    "Raise woodfrog.io/freeze-limit, or leave volumes behind by woodfrog.io/volumes. A stop signal still takes a snapshot, however long that takes.",
                )
            )

    def list(self, length: int) -> None:
        """Count what the list says of an entry.

        Raises:
            FailureError: ``too-many-files``.
        """
        self._listed_bytes += length
        if self._listed_bytes > self._bounds.list_bytes:
            raise _too_many(
                f"so many files, or so long names and attributes, that their list has more than {self._bounds.list_bytes >> 20} MiB"
            )

    def add(self, status: os.stat_result) -> None:
        """Count one entry.

        Raises:
            FailureError: ``too-many-files``, ``files-too-large``, ``freeze-limit``.
        """
        self.look_at_clock()
        self.files += 1
        if self.files > self._bounds.files:
            self.refuse_more()
        self.occupied_bytes += status.st_blocks * 512
        if stat.S_ISREG(status.st_mode):
            self.apparent_bytes += status.st_size
            if self.apparent_bytes > self._bounds.apparent_bytes:
                raise FailureError(
                    Failure(
                        "files-too-large",
                        f"the container's files have sizes of more than {self._bounds.apparent_bytes >> 20} MiB in all, holes included",
                        "Have the container remove or shrink its sparse files, or raise WOODFROG_SPARSE_LIMIT (node.limits.sparse in the chart).",
                    )
                )

    def refuse_more(self) -> None:
        """Refuse the dump for the number of its files.

        Raises:
            FailureError: ``too-many-files``.
        """
        raise _too_many(f"more than {self._bounds.files} files and directories")


def _too_many(what: str) -> FailureError:
    return FailureError(
        Failure(
            "too-many-files",
            f"the container's writable layer, /dev/shm and volumes hold {what}",
            "Name in woodfrog.io/volumes the volumes that are needed, or raise WOODFROG_FILES_LIMIT (node.limits.files in the chart).",
        )
    )


def measure(root: Path, tally: Tally) -> int:
    """Count everything under a directory, which may be in use; return how many bytes its files occupy.

    Raises:
        FailureError: ``too-many-files``, ``files-too-large``, ``tree-too-deep``, ``capture-unfit``.
        OSError: ``root`` cannot be read.
    """
    before = tally.occupied_bytes
    with opened_root(root) as descriptor:
        _measure(descriptor, tally, b"", 0)
    return tally.occupied_bytes - before


def _measure(directory: int, tally: Tally, prefix: bytes, depth: int) -> None:
    refuse_too_deep(prefix, depth)
    below = []
    for name in names_in(directory):
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except OSError:  # it vanished
            continue
        tally.add(status)
        _refuse_too_long(prefix, name)
        tally.list(len(prefix) + len(name) + _ENTRY_BYTES)
        if stat.S_ISDIR(status.st_mode):
            below.append(name)
    for name in below:
        for child in _directories(name, directory):
            _measure(child, tally, prefix + name + b"/", depth + 1)


def _directories(name: bytes, parent: int) -> Iterator[int]:
    """Open a directory; none if something else is there by now."""
    try:
        with Pinned(name, parent) as found:
            descriptor = found.open_directory()
    except OSError:
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _refuse_too_long(prefix: bytes, name: bytes) -> None:
    """Refuse a path that no reader of a manifest takes: found later, it has cost the container its last capture.

    Raises:
        FailureError: ``capture-unfit``.
    """
    length = len(prefix) + len(name)
    if length > LIMIT_PATH_BYTES:
        raise FailureError(
            Failure(
                "capture-unfit",
                f"A path of {length} bytes cannot be part of a snapshot; the limit is {LIMIT_PATH_BYTES}. It begins with {os.fsdecode(prefix[:100])}.",
                "Have the container remove or rename it.",
            )
        )


def refuse_too_deep(prefix: bytes, depth: int) -> None:
    """Refuse directories that are nested deeper than anybody's are.

    Raises:
        FailureError: ``tree-too-deep``.
    """
    if depth > LIMIT_DEPTH:
        raise FailureError(
            Failure(
                "tree-too-deep",
                f"Directories are nested more than {LIMIT_DEPTH} deep below {os.fsdecode(prefix[:100])}.",
                "Have the container remove them; checkpoints do not go that deep.",
            )
        )
