"""The fold."""

from __future__ import annotations

from datetime import datetime

from controlplane.domain.state import State
from protocol.events import Event


def evolve(state: State, event: Event, at: datetime) -> None:
    """Take ``event``, which occurred ``at``, into ``state``."""
    raise NotImplementedError
