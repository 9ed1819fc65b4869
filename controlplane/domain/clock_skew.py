"""How far a node's clock is off, when that is worth an event."""

from __future__ import annotations

from woodfrog.protocol.events.nodes import CLOCK_TOLERANCE_SECONDS


def is_news(recorded_seconds: float | None, measured_seconds: float | None) -> bool:
    """Return whether a measured offset says something other than what is recorded; nothing recorded means that it is right."""
    return measured_seconds is not None and abs(measured_seconds - (recorded_seconds or 0.0)) >= CLOCK_TOLERANCE_SECONDS
