"""The way from an input to its decision, step by step: what is decided first counts for what is decided next."""

from __future__ import annotations

from datetime import datetime

from controlplane.domain.evolve import key_after
from controlplane.domain.inputs import Answer, Decision
from controlplane.domain.state import KeyState
from woodfrog.protocol.events import KeyEvent, SnapshotSuperseded
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.requests import Refusal


class DecisionBuilder:
    """The events decided so far, and the key as it stands after them, so that the next step of a decision sees both."""

    def __init__(self, key: KeyState, now: datetime) -> None:
        self.key = key
        self.now = now
        self.events: list[KeyEvent] = []

    def record(self, event: KeyEvent) -> None:
        """Take an event, and with it the supersession of every snapshot for which it comes too late.

        It is recorded at the moment when a later incarnation has certainly gone on without the snapshot: it started, or
        a still later one was opened. Until then its restore may fail, and the late snapshot is the best there is.
        """
        self._take(event)
        for late in self.key.too_late():
            assert late.missed_by is not None
            self._take(
                SnapshotSuperseded(
                    key=event.key, incarnation=late.incarnation, snapshot_id=late.snapshot_id, by=late.missed_by
                )
            )

    def _take(self, event: KeyEvent) -> None:
        self.events.append(event)
        self.key = key_after(self.key, event, self.now)

    def decision(self, answer: Answer | None = None) -> Decision:
        """End here, with ``answer`` for whoever asked."""
        return Decision(events=tuple(self.events), answer=answer)


def refuse(code: str, cause: str, advice: str) -> Decision:
    """Decide nothing, and say why."""
    return Decision(answer=Refusal(failure=Failure(code=code, cause=cause, advice=advice)))
