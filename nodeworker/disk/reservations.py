"""Room on this node's disk, given out before it is used: dumps, fetches and copies must not count on the same free bytes.

When many pods are scheduled at once, each fetch sees the same free space, and all of them together fill the disk, for which the
kubelet evicts everybody's pods. So whoever is about to write much reserves it first, and what others have reserved and not yet
written is not free any more.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nodeworker.domain.common_failures import DISK_FULL
from woodfrog.protocol.failures import Failure, FailureError


class Room:
    """A reservation. What lies in its folder is taken as written."""

    def __init__(self, disk: Disk, needed_bytes: int, folder: Path) -> None:
        self._disk = disk
        self.needed_bytes = needed_bytes
        self.folder = folder

    def close(self) -> None:
        """Give back what was not written; may be called twice."""
        self._disk.release(self)

    @property
    def open_bytes(self) -> int:
        """What is still to be written."""
        return max(0, self.needed_bytes - occupied_bytes([self.folder]))


class Disk:
    """The reservations of one worker, on whatever file systems. May be used from any thread."""

    def __init__(self, limit_bytes: int = 0, held: tuple[Path, ...] = (), *, spare_share: float = 0.0) -> None:
        """``limit_bytes``, if not 0, is the most that the folders ``held`` may occupy together.

        What need not be written at all leaves ``spare_share`` of a file system free, from 0 to 1.
        """
        self._limit_bytes = limit_bytes
        self._spare_share = spare_share
        self._held = held
        self._lock = threading.Lock()
        self._rooms: list[Room] = []

    @property
    def reserved_bytes(self) -> int:
        """What is reserved and not written yet."""
        with self._lock:
            return sum(room.open_bytes for room in self._rooms)

    def take(self, needed_bytes: int, folder: Path, what: str, *, spare: bool = False) -> Room:
        """Reserve room below ``folder``; ``spare`` for what can be left unwritten, which leaves a part of the disk free.

        Raises:
            FailureError: ``disk-full``, with the numbers.
        """
        with self._lock:
            free_bytes = self._free_bytes(folder, spare=spare)
            device = _existing(folder).stat().st_dev
            reserved_bytes = sum(
                room.open_bytes for room in self._rooms if _existing(room.folder).stat().st_dev == device
            )
            if needed_bytes > free_bytes - reserved_bytes:
                raise _full(
                    f"{what} needs about {needed_bytes >> 20} MiB under {folder}, where {max(0, free_bytes) >> 20} MiB are free"
                    + (f" and {reserved_bytes >> 20} MiB of them reserved" if reserved_bytes else "")
                )
            self._refuse_beyond_limit(needed_bytes, what)
            room = Room(self, needed_bytes, folder)
            self._rooms.append(room)
            return room

    def is_crowded(self, folder: Path) -> bool:
        """Whether the file system of ``folder`` has less free than what need not be there has to leave."""
        return self._free_bytes(folder, spare=True) < 0

    def _free_bytes(self, folder: Path, *, spare: bool) -> int:
        space = os.statvfs(_existing(folder))
        kept_free = self._spare_share * space.f_blocks if spare else 0
        return round((space.f_bavail - kept_free) * space.f_frsize)

    def _refuse_beyond_limit(self, needed_bytes: int, what: str) -> None:
        if not self._limit_bytes:
            return
        used_bytes = occupied_bytes(self._held) + sum(room.open_bytes for room in self._rooms)
        if used_bytes + needed_bytes > self._limit_bytes:
            raise _full(
                f"{what} needs about {needed_bytes >> 20} MiB, and of the {self._limit_bytes >> 20} MiB that snapshots may occupy "
                f"on this node {used_bytes >> 20} MiB are taken or reserved"
            )

    @contextmanager
    def reserve(self, needed_bytes: int, folder: Path, what: str, *, spare: bool = False) -> Iterator[None]:
        """Hold room for the block.

        Raises:
            FailureError: ``disk-full``.
        """
        room = self.take(needed_bytes, folder, what, spare=spare)
        try:
            yield
        finally:
            room.close()

    def release(self, room: Room) -> None:
        """Forget a reservation."""
        with self._lock, suppress(ValueError):
            self._rooms.remove(room)


def occupied_bytes(folders: list[Path] | tuple[Path, ...]) -> int:
    """Add up what the files below some folders occupy, a file with several names once."""
    total = 0
    seen: set[tuple[int, int]] = set()
    for folder in folders:
        for path, _, names in os.walk(folder):
            for name in names:
                with suppress(OSError):
                    status = os.lstat(os.path.join(path, name))  # noqa: PTH118 -- Path is 5 times slower
                    if status.st_nlink == 1 or (status.st_dev, status.st_ino) not in seen:
                        total += status.st_blocks * 512
                    if status.st_nlink > 1:
                        seen.add((status.st_dev, status.st_ino))
    return total


def _existing(folder: Path) -> Path:
    return next((path for path in (folder, *folder.parents) if path.is_dir()), Path("/"))


def _full(cause: str) -> FailureError:
    advice = "Free space under the worker's state directory, or give it a larger disk."
    return FailureError(Failure(DISK_FULL, cause, advice))
