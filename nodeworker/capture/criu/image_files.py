"""CRIU's images in a directory: read one by one as they are asked for, and replaced.

The directory is the container's own, its files may be other names of those in a copy of the snapshot (hard links): so an image is
replaced by a new file and never written to.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import structlog

from nodeworker.domain.criu_images import MalformedImageError, repaired

_log = structlog.get_logger(component="restore")
_LONGEST_BYTES: Final = 64 << 20
"""Of an image that is read; those of a process with 100,000 mappings have about 6 MB."""
_NAME: Final = re.compile(r"[a-z-]+(-[0-9a-f]+)?\.img", re.ASCII)


class ImageFiles(Mapping[str, bytes]):
    """The images in a directory, by their names. Reading one may raise :class:`MalformedImageError` or OSError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __getitem__(self, name: str) -> bytes:
        """Read an image."""
        if _NAME.fullmatch(name) is None:
            raise KeyError(name)
        try:
            descriptor = os.open(self._folder / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            raise KeyError(name) from None
        with open(descriptor, "rb") as file:  # noqa: PTH123 -- it is open already
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size > _LONGEST_BYTES:
                raise MalformedImageError(f"{name} is not a file, or has more than {_LONGEST_BYTES} bytes")
            return file.read(_LONGEST_BYTES)

    def __iter__(self) -> Iterator[str]:
        """Go through the names."""
        return (path.name for path in self._folder.iterdir() if _NAME.fullmatch(path.name))

    def __len__(self) -> int:
        """Count the images."""
        return sum(1 for _ in self)


def replace(folder: Path, changed: Mapping[str, bytes]) -> None:
    """Put other images in the place of those in a directory, each at once or not at all.

    Raises:
        OSError: one could not be written; those before it are replaced.
    """
    for name, data in changed.items():
        fresh = folder / f".{name}"
        fresh.write_bytes(data)
        fresh.rename(folder / name)


def repair(folder: Path) -> None:
    """Mend in the images of a directory what CRIU could not restore; images that are not understood are left to CRIU.

    Raises:
        OSError: an image could not be read or written.
    """
    try:
        changed = repaired(ImageFiles(folder))
    except MalformedImageError as problem:
        _log.warning("images were not looked at for what needs mending", folder=str(folder), problem=str(problem))
        return
    if changed:
        _log.info("images were mended", folder=str(folder), images=sorted(changed))
        replace(folder, changed)
