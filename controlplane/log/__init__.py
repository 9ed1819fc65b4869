"""The event log: SQL, append-only, gapless, the one truth from which everything else is derived.

:class:`~controlplane.log.eventlog.EventLog` is the door. Behind it: ``append`` (the one transaction), ``chain`` (the proof
that nothing was changed), ``projections`` (tables that answer questions), ``views`` (the public contract), ``upcast`` (old
events read as new ones) and ``engine`` (the only module that knows which database it is).
"""

from controlplane.log.deadletters import DeadLetter, DeadLetters
from controlplane.log.eventlog import EventLog
from controlplane.log.records import (
    ArchivedEventError,
    ArchivedRangeError,
    ArchiveError,
    ArchiveUnusableError,
    EventConflictError,
    ExpectedVersionError,
    LogFullError,
    LogSchemaError,
    LogUnavailableError,
    Metadata,
    MoveRefusedError,
    NewEvent,
    Recorded,
    StaleEpochError,
    ViewFilterError,
)

__all__ = [
    "ArchiveError",
    "ArchiveUnusableError",
    "ArchivedEventError",
    "ArchivedRangeError",
    "DeadLetter",
    "DeadLetters",
    "EventConflictError",
    "EventLog",
    "ExpectedVersionError",
    "LogFullError",
    "LogSchemaError",
    "LogUnavailableError",
    "Metadata",
    "MoveRefusedError",
    "NewEvent",
    "Recorded",
    "StaleEpochError",
    "ViewFilterError",
]
