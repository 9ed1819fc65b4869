"""What goes into the log and what comes out of it, and every way in which the log says no.

The refusals are types, because callers act on them differently: a stale epoch ends a leadership, a wrong version asks for
a new decision, a conflict is a bug or a forgery, and an unavailable log is waited for.
"""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import msgspec

from woodfrog.protocol.events import AnyEvent, Event
from woodfrog.protocol.failures import FailureError
from woodfrog.protocol.ids import Epoch, Position, Version


def utc_now() -> datetime:
    """Tell the time: the clock of whatever is not given another."""
    return datetime.now(UTC)


class Metadata(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Who caused an event, and what it belongs to."""

    actor: str
    """``worker/<node>``, ``controlplane`` or whoever asked."""
    causation: str
    """The source of the decision: a report id, a request id, or a timer's name and due time."""
    correlation: str | None = None
    """What groups events of one undertaking, e.g. a command id."""
    trace: str = ""
    """What it is a part of, as W3C's ``traceparent``, where that is traced."""


class NewEvent(msgspec.Struct, frozen=True, gc=False):
    """An event to be recorded. ``occurred_at`` is the witness's clock and must carry an offset from UTC."""

    event_id: UUID
    event: Event
    metadata: Metadata
    occurred_at: datetime


class Recorded(msgspec.Struct, frozen=True, gc=False):
    """An event with its place in the log. ``recorded_at`` is the clock of the control plane that appended it."""

    position: Position
    stream: str
    version: Version
    event_id: UUID
    event: AnyEvent
    metadata: Metadata
    occurred_at: datetime
    recorded_at: datetime
    hash: str
    """BLAKE3 over the hash of the stream's event before and this event's fields, 64 hex digits."""


class EventConflictError(Exception):
    """An event id came with two payloads: two sources share an id, or one was forged.

    ``position`` is where the other is recorded, ``None`` if both were in one batch.
    """

    def __init__(self, event_id: UUID, position: Position | None) -> None:
        self.event_id = event_id
        self.position = position
        where = "in the same batch" if position is None else f"recorded at position {position}"
        super().__init__(f"event {event_id} came with another payload than the one {where}")


class UnstorableEventError(Exception):
    """An event holds what the database has no type for: a number beyond 64 bits, or, for PostgreSQL, a text with a NUL."""


class ArchivedEventError(EventConflictError):
    """An event id came again whose event has been archived, so that nobody can tell here whether the payloads agree."""

    def __init__(self, event_id: UUID, position: Position) -> None:
        super().__init__(event_id, position)
        self.args = (f"event {event_id} came again; it is recorded at position {position}, which has been archived",)


class ArchiveError(FailureError):
    """A segment cannot be archived; nothing of it was removed from the table."""


class MoveRefusedError(FailureError):
    """A log cannot be carried over into another database; what came over already is a beginning of it."""


class ArchivedRangeError(FailureError):
    """Events were asked for that have been archived: they are in files that are not at hand, no longer in the table."""


class ArchiveUnusableError(FailureError):
    """A file of archived events that was to be read is not there, or not the one that was archived."""


class ExpectedVersionError(Exception):
    """A stream moved on since the decision was made: decide again."""

    def __init__(self, stream: str, expected: Version, actual: Version) -> None:
        self.stream = stream
        self.expected = expected
        self.actual = actual
        super().__init__(f"stream {stream} is at version {actual}, not {expected}")


class StaleEpochError(Exception):
    """Another control plane took the lead: whoever holds ``epoch`` may not append any more."""

    def __init__(self, epoch: Epoch, current: Epoch) -> None:
        self.epoch = epoch
        self.current = current
        super().__init__(f"epoch {epoch} may not append: the log is led by epoch {current}")


class LogUnavailableError(FailureError):
    """The database cannot take or give anything now; nothing of the attempted batch was kept, or all of it was."""


class LogFullError(LogUnavailableError):
    """The database's disk is full; nothing of the batch was kept."""


class LogSchemaError(FailureError):
    """The database was not migrated to the schema that this code needs."""


class ViewFilterError(FailureError):
    """A view was asked to be restricted by something that its rows do not have."""
