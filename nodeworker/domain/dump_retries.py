"""How long a final dump is tried again after it failed: for causes that can pass, and for half of the grace period.

What the container did since its last snapshot hangs on its final dump. A debugger may let go, a session that somebody opened may
end, a full disk may get room; a program that uses what nobody can dump will not stop doing so. The other half of the grace period
belongs to the program: when no dump can be taken it gets its stop signal, and must have the time that it needs to end well.
"""

from __future__ import annotations

from typing import Final

from nodeworker.domain.common_failures import DISK_FULL

PASSING: Final = frozenset(
    {
        DISK_FULL,
        "config-held",
        "criu-crashed",
        "criu-failed",
        "descriptors-in-flight",
        "dump-killed",
        "dump-timeout",
        "external-socket",
        "foreign-process",
        "freeze-timeout",
        "gpu-timeout",
        "in-flight-connection",
        "network-lock",
        "no-session-leader",
        "out-of-memory",
        "runc-failed",
        "terminal-session",
        "traced",
        "vfork",
    }
)
"""Failures of a dump that may not come back at the next try."""

BY_SESSIONS: Final = frozenset({"criu-failed", "external-socket", "in-flight-connection", "terminal-session", "traced"})
"""Those that a session of ``exec`` may be the cause of."""

_ENDED: Final = frozenset({"container-gone", "not-running", "ended-waiting", "container-unknown"})
"""What is said of a container that did not live to see the next try: the cause is what the try before failed for."""
_FIRST_PAUSE_SECONDS: Final = 0.5
_LONGEST_PAUSE_SECONDS: Final = 4.0


def pause_seconds(code: str, tries: int, left_seconds: float) -> float | None:
    """Say after which pause to try again, ``tries`` having failed, the last with ``code``; ``None`` if not at all.

    ``left_seconds`` is what is left of the half of the grace period.
    """
    pause = min(_FIRST_PAUSE_SECONDS * 2.0 ** (tries - 1), _LONGEST_PAUSE_SECONDS)
    return pause if code in PASSING and pause < left_seconds else None


def tells_why(first: str, last: str) -> bool:
    """Whether an earlier try's failure says more than the last one's."""
    return last in _ENDED and first not in _ENDED
