"""Events: what happened, in the past tense, never changed once recorded.

A worker *reports* some of them (it alone saw the dump); the control plane *decides* the others. Both kinds are recorded
in one log, so the history of an id reads as one story. Decoding is tolerant: an older reader ignores fields that a newer
writer added.

Each event is declared in the module of its subject, with its sentence for people, what is counted of it, and whether a worker
may report it. What follows from it in the state and in the tables is in the module of the same name in
:mod:`controlplane.domain.catalogue`.
"""

from __future__ import annotations

from typing import Final, get_args

import msgspec

from woodfrog.protocol.events.base import AboutNode
from woodfrog.protocol.events.commands import (
    CommandEvent,
    CommandFinished,
    CommandIssued,
    Outcome,
    ReportedCommandEvent,
)
from woodfrog.protocol.events.dumps import (
    DumpEvent,
    DumpFailed,
    DumpStage,
    DumpStarted,
    RehearsalOutcome,
    ReportedDumpEvent,
    SnapshotCaptured,
    SnapshotImported,
    SnapshotRehearsed,
    SnapshotStored,
    SnapshotStoreDelayed,
    Trigger,
)
from woodfrog.protocol.events.log import LogHeadSigned
from woodfrog.protocol.events.nodes import (
    NodeClockMeasured,
    NodeEnding,
    NodeEvent,
    NodeLost,
    NodeRegistered,
    NodeReturned,
    NodeSpared,
    ReportedNodeEvent,
)
from woodfrog.protocol.events.pods import (
    JobOutcome,
    PodContainerEnded,
    PodEndCounted,
    PodFact,
    PodGone,
    PodReplaced,
    PodScheduled,
    PodTerminating,
)
from woodfrog.protocol.events.snapshots import (
    ReportedSnapshotEvent,
    SnapshotDeleted,
    SnapshotEvent,
    SnapshotExpired,
    SnapshotInvalidated,
    SnapshotPinned,
    SnapshotRetried,
    SnapshotSuperseded,
    SnapshotUnpinned,
)
from woodfrog.protocol.events.starts import (
    CheckpointForgotten,
    ColdStartChosen,
    ContainerEnded,
    ContainerStarted,
    IncarnationOpened,
    ReportedStartEvent,
    RestoreChosen,
    RestoreFailed,
    RestoreStage,
    StartDeferred,
    StartEvent,
    StartRefused,
)
from woodfrog.protocol.ids import CommandId

__all__ = [
    "EVENT_TYPES",
    "SCHEMA_VERSION",
    "AnyEvent",
    "CheckpointForgotten",
    "ColdStartChosen",
    "CommandFinished",
    "CommandIssued",
    "ContainerEnded",
    "ContainerStarted",
    "DumpFailed",
    "DumpStage",
    "DumpStarted",
    "Event",
    "IncarnationOpened",
    "JobOutcome",
    "KeyEvent",
    "LogHeadSigned",
    "NodeClockMeasured",
    "NodeEnding",
    "NodeEvent",
    "NodeLost",
    "NodeRegistered",
    "NodeReturned",
    "NodeSpared",
    "Outcome",
    "PodContainerEnded",
    "PodEndCounted",
    "PodFact",
    "PodGone",
    "PodReplaced",
    "PodScheduled",
    "PodTerminating",
    "RehearsalOutcome",
    "ReportedDumpEvent",
    "ReportedEvent",
    "ReportedStartEvent",
    "RestoreChosen",
    "RestoreFailed",
    "RestoreStage",
    "SnapshotCaptured",
    "SnapshotDeleted",
    "SnapshotExpired",
    "SnapshotImported",
    "SnapshotInvalidated",
    "SnapshotPinned",
    "SnapshotRehearsed",
    "SnapshotRetried",
    "SnapshotStoreDelayed",
    "SnapshotStored",
    "SnapshotSuperseded",
    "SnapshotUnpinned",
    "StartDeferred",
    "StartRefused",
    "Trigger",
    "UnknownEvent",
    "command_of",
    "event_type",
    "stream_of",
]

ReportedEvent = (
    ReportedNodeEvent | ReportedStartEvent | ReportedDumpEvent | ReportedSnapshotEvent | ReportedCommandEvent
)
"""What a worker may say; anything else in a report is refused."""

KeyEvent = StartEvent | DumpEvent | SnapshotEvent | CommandEvent | PodFact | JobOutcome
Event = NodeEvent | KeyEvent | LogHeadSigned


class UnknownEvent(msgspec.Struct, frozen=True, gc=False):
    """An event in the log that a newer release wrote and this one cannot read.

    It is passed on as it was written, and nothing follows from it here: during a rolling upgrade, and after one that was
    taken back, an older reader goes on with everything that it does understand.
    """

    type: str
    stream: str
    data: str
    """The JSON object, as written."""


EVENT_TYPES: Final = tuple(sorted(str(kind.__struct_config__.tag) for kind in get_args(Event)))
"""Every type that this release writes."""

AnyEvent = Event | UnknownEvent
"""What a reader of the log must be ready for."""

SCHEMA_VERSION = 1
"""Version of every event type as written today; older ones are upcast on read."""


def event_type(event: AnyEvent) -> str:
    """Name the event's type as the log, the views and the audit stream do, e.g. ``snapshot.stored``."""
    if isinstance(event, UnknownEvent):
        return event.type
    tag = event.__struct_config__.tag
    assert isinstance(tag, str)
    return tag


def stream_of(event: AnyEvent) -> str:
    """Name the stream that the event belongs to: one for each key and one for each node."""
    if isinstance(event, UnknownEvent):
        return event.stream
    if isinstance(event, AboutNode):
        return f"node/{event.node}"
    if isinstance(event, LogHeadSigned):
        return f"log/{event.cluster}"
    return f"checkpoint/{event.key}"


def command_of(event: AnyEvent) -> CommandId | None:
    """Return the command that the event belongs to, if it belongs to one."""
    if isinstance(event, CommandIssued):
        return event.command.command_id
    named: CommandId | None = getattr(event, "command_id", None)
    return named
