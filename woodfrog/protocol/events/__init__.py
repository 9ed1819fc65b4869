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

from woodfrog.protocol.events import commands, dumps, log, nodes, pods, snapshots, starts
from woodfrog.protocol.events.base import AboutNode
from woodfrog.protocol.events.commands import *  # noqa: F403 -- each module lists in __all__ what it declares
from woodfrog.protocol.events.dumps import *  # noqa: F403
from woodfrog.protocol.events.log import *  # noqa: F403
from woodfrog.protocol.events.nodes import *  # noqa: F403
from woodfrog.protocol.events.pods import *  # noqa: F403
from woodfrog.protocol.events.snapshots import *  # noqa: F403
from woodfrog.protocol.events.starts import *  # noqa: F403
from woodfrog.protocol.ids import CommandId

ReportedEvent = (
    nodes.ReportedNodeEvent
    | starts.ReportedStartEvent
    | dumps.ReportedDumpEvent
    | snapshots.ReportedSnapshotEvent
    | commands.ReportedCommandEvent
)
"""What a worker may say; anything else in a report is refused."""

KeyEvent = (
    starts.StartEvent
    | dumps.DumpEvent
    | snapshots.SnapshotEvent
    | commands.CommandEvent
    | pods.PodFact
    | pods.JobOutcome
)
Event = nodes.NodeEvent | KeyEvent | log.LogHeadSigned


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
    if isinstance(event, log.LogHeadSigned):
        return f"log/{event.cluster}"
    return f"checkpoint/{event.key}"


def command_of(event: AnyEvent) -> CommandId | None:
    """Return the command that the event belongs to, if it belongs to one."""
    if isinstance(event, commands.CommandIssued):
        return event.command.command_id
    named: CommandId | None = getattr(event, "command_id", None)
    return named
