"""How far something has come that reads many events; whoever waits for it looks from another thread."""

from __future__ import annotations


class Progress:
    """Counts the events that were looked at. A new one counts for nobody."""

    def __init__(self) -> None:
        self.done = 0
        self.total = 0
        """How many there are to look at; 0 while that is not known."""
        self.passes = 1
        """How often each event is looked at."""

    def begin(self, events: int, *, passes: int = 1) -> None:
        """Note how many events there are, and how often each is looked at."""
        self.done, self.total, self.passes = 0, events * passes, passes
