"""When something happened, as far as a node's clock is believed.

A report carries its node's time, and a node's clock may be wrong by a month. What follows from a moment (how old a snapshot is, when
a deletion is tried again) must not depend on that, so decisions use a moment that is possible: not after the log recorded it, and
not long before, since reports wait only while a node is cut off. The log keeps what the node said.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

LONGEST_DELAY: Final = timedelta(hours=1)
"""So much earlier than recorded a reported moment is believed."""


def believed(occurred_at: datetime, recorded_at: datetime) -> datetime:
    """Return when an event happened for all that is decided, from the witness's time and that of the log."""
    return min(max(occurred_at, recorded_at - LONGEST_DELAY), recorded_at)
