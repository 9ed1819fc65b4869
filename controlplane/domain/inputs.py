"""What goes into a decision and what comes out: the one way in, as values.

Every input has a ``source``, a name that is the same when the same input is delivered again and never the same
otherwise: event ids are derived from it (:func:`woodfrog.protocol.ids.event_id`).
"""

from __future__ import annotations

import msgspec

from controlplane.domain.id_expiry import IdExpiry
from controlplane.domain.ownership import OwnershipPolicy
from controlplane.domain.placement import Placement
from controlplane.domain.privilege_policy import PrivilegePolicy
from controlplane.domain.quotas import Quotas
from controlplane.domain.retention import Retention
from controlplane.domain.schedule import Schedule
from controlplane.domain.start_outcomes import RESTORE_TRIES
from woodfrog.protocol.events import Event, LogHeadSigned
from woodfrog.protocol.ids import CheckpointKey, CommandId, NodeName, WorkerId
from woodfrog.protocol.pods import PodEvent
from woodfrog.protocol.reports import Heartbeat, Report
from woodfrog.protocol.requests import (
    CheckpointRequest,
    CommandAccepted,
    ForgetRequest,
    Forgetting,
    ImportRequest,
    Noted,
    Refusal,
    Resolution,
    ResolveRequest,
    SnapshotRequest,
)


class Policy(msgspec.Struct, frozen=True):
    """What may be set about decisions."""

    handover_seconds: float = 120.0
    """The longest that a start waits for its predecessor's snapshot; 0 for not at all."""
    restore_tries: int = RESTORE_TRIES
    """From how many containers in a row that failed soon after their restore a snapshot is passed over."""
    longest_command_seconds: float = 86400.0
    """The longest time that may be given to a command."""
    dumps_per_node: int = 2
    """How many containers of a node that is about to end are dumped at once."""
    delete_seconds: float = 300.0
    """How long a worker may take to remove a snapshot before another is asked."""
    retention: Retention = Retention()
    schedule: Schedule = Schedule()
    privileges: PrivilegePolicy = PrivilegePolicy()
    ownership: OwnershipPolicy = OwnershipPolicy()
    forgetting: IdExpiry = IdExpiry()
    quotas: Quotas = Quotas()


class ReportReceived(msgspec.Struct, frozen=True):
    """A worker reported."""

    report: Report

    @property
    def source(self) -> str:
        """The report's id."""
        return str(self.report.report_id)


class ResolveAsked(msgspec.Struct, frozen=True):
    """A worker asks how to start a container. ``placement`` is ``None`` where no Kubernetes can be asked about the pod."""

    request: ResolveRequest
    source: str
    placement: Placement | None = None


class CheckpointAsked(msgspec.Struct, frozen=True):
    """Somebody asks for a dump; if a command comes of it, it is called ``command_id``, a name never used before."""

    request: CheckpointRequest
    command_id: CommandId
    source: str


class SnapshotAsked(msgspec.Struct, frozen=True):
    """Somebody wants something done about one snapshot."""

    request: SnapshotRequest
    source: str


class ImportAsked(msgspec.Struct, frozen=True):
    """Somebody brings a snapshot from elsewhere, whose bytes are in the store."""

    request: ImportRequest
    source: str


class ForgetAsked(msgspec.Struct, frozen=True):
    """Somebody wants an id forgotten."""

    request: ForgetRequest
    source: str


class PodSeen(msgspec.Struct, frozen=True):
    """Something happened to a pod with protected containers."""

    told: PodEvent

    @property
    def source(self) -> str:
        """What happened, by the pod's uid: the same whoever tells it."""
        return self.told.source


class JobActed(msgspec.Struct, frozen=True):
    """Something was done about the end of a Job's pod: it was replaced by ``replacement``, or held against the Job."""

    keys: tuple[CheckpointKey, ...]
    """Those of the pod's protected containers."""
    pod: str
    uid: str
    job: str
    why: str
    replacement: str | None = None

    @property
    def source(self) -> str:
        """What was done, by the pod's uid: the same whoever did it and however often."""
        return f"job-acted/{self.uid}/{'counted' if self.replacement is None else 'replaced'}"


class NodeSeen(msgspec.Struct, frozen=True):
    """What a node's taints announce: ``ending`` says of what it will end, ``None`` that nothing is announced."""

    node: NodeName
    ending: str | None
    source: str


class NodeSilent(msgspec.Struct, frozen=True):
    """Nothing was heard of a worker for longer than it may be silent."""

    node: NodeName
    worker_id: WorkerId
    silent_seconds: float
    source: str


class NodeHeard(msgspec.Struct, frozen=True):
    """A worker gave a sign of life; its clock is ahead by ``clock_offset_seconds``, where that was measured."""

    heartbeat: Heartbeat
    source: str
    clock_offset_seconds: float | None = None


class Tick(msgspec.Struct, frozen=True):
    """Time has passed. ``turn`` counts on from tick to tick: with many ids, each tick looks after some of them."""

    source: str
    turn: int = 0


class HeadTaken(msgspec.Struct, frozen=True):
    """Where the log stood was signed."""

    head: LogHeadSigned
    source: str


Input = (
    ReportReceived
    | ResolveAsked
    | CheckpointAsked
    | SnapshotAsked
    | ImportAsked
    | ForgetAsked
    | PodSeen
    | JobActed
    | NodeSeen
    | NodeSilent
    | NodeHeard
    | Tick
    | HeadTaken
)

Answer = Resolution | CommandAccepted | Noted | Forgetting | Refusal


class Decision(msgspec.Struct, frozen=True):
    """What follows from an input: events to record, in this order and all or none, then the answer to give.

    No events and nothing rejected means that the input said nothing new.
    """

    events: tuple[Event, ...] = ()
    answer: Answer | None = None
    rejected: str | None = None
    """Why a report was not believed. It is to be logged and put aside, not recorded."""
    forgotten: bool = False
    """Whether that is because its id was forgotten."""
