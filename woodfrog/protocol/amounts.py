"""Numbers of bytes and moments as people read them; how people write them is in :mod:`woodfrog.protocol.durations`."""

from __future__ import annotations

from datetime import datetime
from typing import Final

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")


def size(count_bytes: float) -> str:
    """Write a number of bytes: ``0 B``, ``1.5 MiB``."""
    unit = _UNITS[0]
    for unit in _UNITS:
        if count_bytes < 1024 or unit == _UNITS[-1]:
            break
        count_bytes /= 1024
    return f"{count_bytes:.0f} {unit}" if unit == "B" else f"{count_bytes:.1f} {unit}"


def to_the_second(moment: datetime) -> str:
    """Write a moment: ``2026-11-23 21:45:01``."""
    return f"{moment:%Y-%m-%d %H:%M:%S}"
