"""How many questions of each node are answered at the same time, so that one node that asks without end stops no other.

Each asker has places of its own. When all places together are taken, nobody who has more than an equal part of them gets another;
whoever has less always does. So a node that behaves is answered whatever the others do.
"""

from __future__ import annotations

from collections import Counter


class RequestSlots:
    """Counts who is being answered."""

    def __init__(self, most: int, most_of_one: int) -> None:
        """``most``: of all together; ``most_of_one``: of one node."""
        self._most = most
        self._most_of_one = most_of_one
        self._taken: Counter[str] = Counter()
        self.taken = 0
        """How many are taken now."""
        self.turned_away = 0
        """How many questions found no place."""

    def enter(self, asker: str) -> bool:
        """Take a place for ``asker``, a node's name or empty for people; False if there is none for it."""
        own = self._taken[asker]
        others = len(self._taken) - (own == 0)
        limit = self._most if not asker else self._most_of_one
        if self.taken >= self._most:
            limit = min(limit, max(self._most // (others + 1), 1))
        if own >= limit:
            if not own:
                del self._taken[asker]
            self.turned_away += 1
            return False
        self._taken[asker] += 1
        self.taken += 1
        return True

    def leave(self, asker: str) -> None:
        """Give a place back."""
        self.taken -= 1
        self._taken[asker] -= 1
        if not self._taken[asker]:
            del self._taken[asker]
