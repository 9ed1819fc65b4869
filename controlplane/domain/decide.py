"""Decisions: what follows from an input in a state."""

from __future__ import annotations

from datetime import datetime

from controlplane.domain.inputs import Decision, Input, Policy
from controlplane.domain.state import State


def decide(state: State, asked: Input, now: datetime, policy: Policy) -> Decision:
    """Say what follows from ``asked``; never changes ``state``."""
    raise NotImplementedError
