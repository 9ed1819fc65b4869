"""The control plane's time, as a worker knows it: from its answers, carried on by a clock that nobody sets.

A command's deadline is a moment of the control plane's clock. Compared with a node's clock that is five minutes ahead, every deletion
would be void on arrival; so it is compared with the time that the control plane reported last, or, if it reported none yet, the
command has all of its time from when it arrived.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from woodfrog.protocol.commands import Command


class PlaneClock:
    """What time it is there. ``moment`` is always a reading of one monotonic clock, in seconds."""

    def __init__(self) -> None:
        self._heard: tuple[datetime, float] | None = None

    def hear(self, at: datetime | None, moment: float) -> None:
        """Note the time that an answer gives."""
        if at is not None:
            self._heard = at, moment

    def age_seconds(self, moment: float) -> float:
        """Return how long ago the control plane told the time; infinite if it never did."""
        return float("inf") if self._heard is None else moment - self._heard[1]

    def left_seconds(self, command: Command, moment: float) -> float:
        """Return how much of its time a command has left."""
        given_seconds = (command.deadline - command.issued_at).total_seconds()
        if self._heard is None:
            return given_seconds
        at, heard = self._heard
        now = at + timedelta(seconds=moment - heard)
        return min(given_seconds, (command.deadline - now).total_seconds())
