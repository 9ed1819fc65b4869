"""Why a program is not restored out of the box, by hand: the page holds one for each such row."""

from __future__ import annotations

from typing import Final

from matrix.program import Entry

ENTRIES: Final[dict[str, Entry]] = {}
