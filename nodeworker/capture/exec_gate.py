"""Word for the runtime that a container is about to stand still, or does, so that ``exec`` waits in place of failing.

The word is a file beside the container's marker, which the runtime's shell part looks for: it names the file in which the kernel says
whether the container is frozen, so that one that a killed worker left behind delays nobody for long.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from nodeworker.capture.criu.freezer import Freezer

_NAME: Final = "frozen"
_STATES: Final = {1: "freezer.state", 2: "cgroup.freeze"}


@contextmanager
def closed(folder: Path, freezer: Freezer) -> Iterator[None]:
    """Let whoever wants to run something in the container of this folder wait until this is left."""
    fresh = folder / f".{_NAME}"
    with suppress(OSError):  # a full disk: then it fails as it does without us
        fresh.write_text(f"{freezer.path / _STATES[freezer.version]}\n")
        fresh.rename(folder / _NAME)
    try:
        yield
    finally:
        _open(folder)


def open_all(folders: Path) -> None:
    """Take back what an earlier life of the worker left, in the folders of all containers."""
    for left in folders.glob(f"*/{_NAME}"):
        _open(left.parent)


def _open(folder: Path) -> None:
    with suppress(OSError):
        (folder / _NAME).unlink(missing_ok=True)
