"""Harm that is certain to change what a file holds."""

from __future__ import annotations

from pathlib import Path


def invert(path: Path) -> None:
    """Invert 64 bytes in the middle: a single bit of a compressed file may change nothing of what comes out."""
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(byte ^ 0xFF for byte in data[middle : middle + 64])
    path.write_bytes(data)
