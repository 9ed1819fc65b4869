"""What the last transactions of this process wrote, so that the next need not read it again.

Ends of streams and rows of projections change only in transactions that move the head of the log. So whoever finds the head
where the own last transaction left it, under the same epoch and generation, may take what that transaction wrote for what the
database holds. One that was rolled back must be forgotten (:meth:`WriteCache.forget`), since what is remembered may come from it.
"""

from __future__ import annotations

from itertools import islice
from typing import Any, Final, TypeVar

from sqlalchemy import Table

K = TypeVar("K")
V = TypeVar("V")

_ENDS: Final = 20_000
_ROWS: Final = 5000
"""Of each table; a row is one to three kilobytes."""


class WriteCache:
    """A bounded memory; holds nothing at first. Used within one writing transaction at a time."""

    def __init__(self) -> None:
        self._standing: tuple[int, int] | None = None
        self._generation: int | None = None
        self.ends: dict[str, tuple[int, str]] = {}
        """Streams' newest versions and hashes."""
        self._rows: dict[Table, dict[tuple[Any, ...], dict[str, Any]]] = {}

    def begin(self, position: int, epoch: int) -> None:
        """Compare with the head as the transaction has found and locked it."""
        if self._standing != (position, epoch):
            self.forget()

    def rows(self, table: Table, generation: int) -> dict[tuple[Any, ...], dict[str, Any]]:
        """Give what is remembered of a table, by primary key, to be read and added to; a row in it is never changed."""
        if self._generation != generation:
            self._rows.clear()
            self._generation = generation
        return self._rows.setdefault(table, {})

    def end(self, position: int, epoch: int) -> None:
        """Say where the transaction leaves the head."""
        self._standing = position, epoch
        _shorten(self.ends, _ENDS)
        for rows in self._rows.values():
            _shorten(rows, _ROWS)

    def forget(self) -> None:
        """Remember nothing."""
        self._standing = None
        self.ends.clear()
        self._rows.clear()


def _shorten(kept: dict[K, V], most: int) -> None:
    if len(kept) > most:  # whoever was written longest ago goes
        for key in list(islice(kept, len(kept) - most * 3 // 4)):
            del kept[key]
