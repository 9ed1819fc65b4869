"""The overlay mount of a container's root filesystem: where it is, and how to make it pristine again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Overlay:
    """One overlay mount. ``lower`` is ordered from top to bottom; ``options`` are the others, as mount(8) takes them."""

    lower: tuple[Path, ...]
    upper: Path
    work: Path
    mountpoint: Path
    options: tuple[str, ...]


def find_overlay(rootfs: Path) -> Overlay | None:
    """Find the writable overlay that is mounted at ``rootfs``, or ``None`` if something else is there."""
    raise NotImplementedError


def undo(overlay: Overlay) -> None:
    """Unmount, empty the upper directory, mount again with the same options: as if nothing had been applied."""
    raise NotImplementedError
