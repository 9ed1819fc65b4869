"""Spans of time and amounts of bytes as people write them: ``30s``, ``12h``, ``50GiB``; in policies, annotations and options.

A bare number is refused: whether ``30`` means seconds or minutes is what one gets wrong at three in the morning.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_BYTES: Final = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_AMOUNT = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)\s?([A-Za-z]+)", re.ASCII)


class InvalidAmountError(ValueError):
    """A text that says no span of time, or no amount of bytes; the message says what would."""


def parse_seconds(text: str) -> float:
    """Read ``30s``, ``5m``, ``12h``, ``7d`` or ``1.5h`` as seconds.

    Raises:
        InvalidAmountError: if it says something else.
    """
    return _parse(text, _SECONDS, "a span of time such as 30s, 5m, 12h or 7d")


def parse_interval(text: str) -> float:
    """Read how often to dump: a span of one second or more, or ``off``, which is 0.

    Raises:
        InvalidAmountError: if it says something else.
    """
    if text == "off":
        return 0.0
    seconds = _parse(text, _SECONDS, "`off` or a span of time such as 30s, 5m, 12h or 7d")
    if seconds < 1:
        raise InvalidAmountError(f"{text!r} is too short; the shortest interval is 1s, and `off` is none")
    return seconds


def parse_bytes(text: str) -> int:
    """Read ``512MiB``, ``50GiB`` or ``1.5TiB`` as bytes.

    Raises:
        InvalidAmountError: if it says something else.
    """
    return round(_parse(text, _BYTES, "an amount such as 512MiB, 50GiB or 1TiB"))


def _parse(text: str, units: Mapping[str, int], expected: str) -> float:
    found = _AMOUNT.fullmatch(text)
    if found is None or found[2] not in units:
        raise InvalidAmountError(f"{text[:60]!r} is not {expected}")
    return float(found[1]) * units[found[2]]
