"""Events: what happened, in the past tense, never changed once recorded.

A worker *reports* some of them (it alone saw the dump); the control plane *decides* the others. Both kinds are recorded
in one log, so the history of an id reads as one story. Decoding is tolerant: an older reader ignores fields that a newer
writer added. Every event names its key or node, so that one event read alone, by an auditor on NATS or in SQL, makes sense.

Like every value that is made by the million (``gc=False``), an event is kept from Python's cyclic collector: frozen, it cannot
be part of a cycle.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Final, get_args

import msgspec

from woodfrog.protocol.commands import Command
from woodfrog.protocol.facts import ContainerFacts, NodeFacts
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import (
    CheckpointKey,
    CommandId,
    ContainerId,
    IncarnationNumber,
    NodeName,
    SnapshotId,
    WorkerId,
)
from woodfrog.protocol.pods import EndedBecause, Why


class Trigger(StrEnum):
    """Why a dump was taken."""

    STOP_SIGNAL = "stop-signal"
    COMMAND = "command"
    SCHEDULE = "schedule"


class DumpStage(StrEnum):
    """Where a dump was when it failed. Up to ``capture`` the container was frozen; afterwards it was not."""

    PREFLIGHT = "preflight"
    CAPTURE = "capture"
    REHEARSAL = "rehearsal"
    STORE = "store"


class RehearsalOutcome(StrEnum):
    """What a rehearsal of a snapshot's restore showed."""

    RESTORABLE = "restorable"
    FAILED = "failed"
    NOT_REHEARSED = "not-rehearsed"
    """It was due and could not be done: that says nothing about the snapshot."""


class RestoreStage(StrEnum):
    """Where a restore was when it failed."""

    FETCH = "fetch"
    APPLY = "apply"
    CRIU = "criu"
    GPU = "gpu"


class Outcome(StrEnum):
    """How a command ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    EXPIRED = "expired"


class _NodeEvent(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag_field="type", kw_only=True):
    node: NodeName
    worker_id: WorkerId


class NodeRegistered(_NodeEvent, frozen=True, tag="node.registered"):
    """A worker began its life on a node and said what the node offers."""

    boot_id: str
    facts: NodeFacts
    journal: str = ""
    """Identity of the worker's journal, which another start of the same node has again; unknown if empty."""


class NodeLost(_NodeEvent, frozen=True, tag="node.lost"):
    """Nothing was heard of a worker for ``silent_seconds``: nobody waits for its dumps any more."""

    silent_seconds: float


class NodeReturned(_NodeEvent, frozen=True, tag="node.returned"):
    """A lost worker was heard of again."""


class NodeClockMeasured(_NodeEvent, frozen=True, tag="node.clock-measured"):
    """The node's clock is ahead of the control plane's by so much, or behind it if negative; recorded when that changes."""

    offset_seconds: float


class NodeEnding(_NodeEvent, frozen=True, tag="node.ending"):
    """The node is about to be emptied or to end, because of ``reason``: what runs there is dumped while it can be."""

    reason: str


class NodeSpared(_NodeEvent, frozen=True, tag="node.spared"):
    """The node is not about to end any more."""


class _KeyEvent(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag_field="type", kw_only=True):
    key: CheckpointKey
    incarnation: IncarnationNumber


class IncarnationOpened(_KeyEvent, frozen=True, tag="incarnation.opened"):
    """A container under the key is about to be created on ``node``; it supersedes the incarnation before."""

    node: NodeName
    container_id: ContainerId
    container: ContainerFacts


class StartRefused(_KeyEvent, frozen=True, tag="incarnation.start-refused"):
    """A worker asked for a start that it has no right to; ``incarnation`` is 0, for none was opened."""

    node: NodeName
    container_id: ContainerId
    failure: Failure
    pod: str = ""
    """The name of the pod, as the worker says."""
    pod_uid: str = ""
    """Known where the start is refused for other reasons than that the pod is not there."""


class StartDeferred(_KeyEvent, frozen=True, tag="incarnation.start-deferred"):
    """The start waits, no longer than ``until``, because starting now would be a step back."""

    waiting_for: str
    until: datetime


class RestoreChosen(_KeyEvent, frozen=True, tag="incarnation.restore-chosen"):
    """The incarnation is to resume from ``snapshot_id``; ``reason`` says why this one, and why no newer one."""

    snapshot_id: SnapshotId
    reason: str
    left: int = 0
    """How many newer snapshots with captured or stored work are left behind."""


class ColdStartChosen(_KeyEvent, frozen=True, tag="incarnation.cold-start-chosen"):
    """The incarnation shall start from its image, because of ``reason``."""

    reason: str
    fresh: bool = False
    """Whether it was requested; no later start goes back before it."""
    left: int | None = None
    """How many snapshots with captured or stored work are left behind; unknown in logs of before."""


class RestoreFailed(_KeyEvent, frozen=True, tag="incarnation.restore-failed"):
    """A chosen snapshot could not be restored; everything done for it has been undone."""

    snapshot_id: SnapshotId
    node: NodeName
    stage: RestoreStage
    failure: Failure
    store: str | None = None
    """Identity of the store in which an object was missing, if the store could be identified before and after it was looked for."""


class ContainerStarted(_KeyEvent, frozen=True, tag="container.started"):
    """The container's processes run. ``restored_from`` is empty after a cold start."""

    node: NodeName
    container_id: ContainerId
    restored_from: SnapshotId | None = None
    create_seconds: float | None = None
    """From the runtime's ``create`` to its answer."""
    warnings: tuple[str, ...] = ()
    """What of the snapshot the container could not be given, and started without."""


class ContainerEnded(_KeyEvent, frozen=True, tag="container.ended"):
    """The container is gone from its node. ``exit_code`` is unknown where nobody who knew told the worker."""

    node: NodeName
    container_id: ContainerId
    exit_code: int | None = None
    stopped: bool | None = None
    """Whether it was sent a stop signal before; unknown of workers that did not report it."""


class DumpStarted(_KeyEvent, frozen=True, tag="snapshot.dump-started"):
    """A worker is about to freeze the container. ``final`` means that the container ends with this dump."""

    snapshot_id: SnapshotId
    node: NodeName
    trigger: Trigger
    final: bool
    command_id: CommandId | None = None


class SnapshotCaptured(_KeyEvent, frozen=True, tag="snapshot.captured"):
    """All that the dump takes along lies on the node; the container is thawed, or ended. Not yet valid."""

    snapshot_id: SnapshotId
    node: NodeName
    freeze_seconds: float
    raw_bytes: int


class SnapshotRehearsed(_KeyEvent, frozen=True, tag="snapshot.rehearsed"):
    """A restore of the capture was rehearsed in a container that never ran, or should have been. One that failed is never valid."""

    snapshot_id: SnapshotId
    node: NodeName
    outcome: RehearsalOutcome
    failure: Failure | None = None
    """Why it failed, or could not be done."""
    seconds: float = 0.0
    """How long it took."""


class SnapshotStoreDelayed(_KeyEvent, frozen=True, tag="snapshot.store-delayed"):
    """The store does not take a capture: it lies on the node only, and is tried again. Reported once for each reason."""

    snapshot_id: SnapshotId
    node: NodeName
    failure: Failure
    since: datetime
    """When the store refused it first."""
    manifest_digest: str = ""
    """BLAKE3 of the manifest of the capture as it lies on the node, by which it can be restored there meanwhile; empty if it cannot."""
    taken_on: NodeFacts | None = None
    taken_from: ContainerFacts | None = None


class SnapshotStored(_KeyEvent, frozen=True, tag="snapshot.stored"):
    """Every byte is in the store and was read back and checked: the snapshot is valid."""

    snapshot_id: SnapshotId
    node: NodeName
    manifest_digest: str
    """BLAKE3 of the manifest's bytes, 64 hex digits."""
    raw_bytes: int
    stored_bytes: int
    store_seconds: float
    taken_on: NodeFacts
    taken_from: ContainerFacts
    command_id: CommandId | None = None
    warnings: tuple[str, ...] = ()


class SnapshotImported(_KeyEvent, frozen=True, tag="snapshot.imported"):
    """Somebody brought an exported snapshot: every byte is in the store and was read back and checked, so it is valid.

    Its ``incarnation`` is a number of its own, as if the container had run elsewhere in between: earlier ones are older.
    """

    snapshot_id: SnapshotId
    origin: str
    """What it was where it was exported: cluster, namespace, id and snapshot, separated by ``/``."""
    manifest_digest: str
    """BLAKE3 of the manifest's bytes, 64 hex digits."""
    raw_bytes: int
    stored_bytes: int
    taken_at: datetime
    taken_on: NodeFacts
    taken_from: ContainerFacts
    reason: str = ""


class DumpFailed(_KeyEvent, frozen=True, tag="snapshot.dump-failed"):
    """The dump came to nothing; the container was left as it was, or was ending anyway."""

    snapshot_id: SnapshotId
    node: NodeName
    stage: DumpStage
    failure: Failure
    command_id: CommandId | None = None


class SnapshotSuperseded(_KeyEvent, frozen=True, tag="snapshot.superseded"):
    """The snapshot came too late: incarnation ``by`` had started without it. It never becomes the latest."""

    snapshot_id: SnapshotId
    by: IncarnationNumber


class SnapshotInvalidated(_KeyEvent, frozen=True, tag="snapshot.invalidated"):
    """The snapshot proved unusable and is never chosen again."""

    snapshot_id: SnapshotId
    reason: str


class SnapshotExpired(_KeyEvent, frozen=True, tag="snapshot.expired"):
    """The snapshot shall go, because of ``reason``: it is never chosen again, and deleted from ``delete_after`` on."""

    snapshot_id: SnapshotId
    reason: str
    delete_after: datetime


class SnapshotDeleted(_KeyEvent, frozen=True, tag="snapshot.deleted"):
    """No byte of the snapshot is in the store any more. ``node`` is where the worker is that removed it."""

    snapshot_id: SnapshotId
    node: NodeName
    command_id: CommandId


class SnapshotPinned(_KeyEvent, frozen=True, tag="snapshot.pinned"):
    """Somebody wants this snapshot kept, and chosen before all others while it is valid."""

    snapshot_id: SnapshotId
    reason: str = ""


class SnapshotUnpinned(_KeyEvent, frozen=True, tag="snapshot.unpinned"):
    """The snapshot is one like the others again."""

    snapshot_id: SnapshotId
    reason: str = ""


class SnapshotRetried(_KeyEvent, frozen=True, tag="snapshot.retried"):
    """Somebody wants the snapshot chosen again: failed restores and short lives until now do not count, nor that it was invalidated."""

    snapshot_id: SnapshotId
    reason: str = ""


class PodScheduled(_KeyEvent, frozen=True, tag="pod.scheduled"):
    """A pod with a container under the key was given ``node``; ``incarnation`` is 0 while no start was asked for."""

    pod: str
    uid: str
    node: NodeName
    owner: str = ""
    """Kind and name of what made it, such as ``Job/train``."""


class PodTerminating(_KeyEvent, frozen=True, tag="pod.terminating"):
    """A pod with a container under the key was asked to end: its last dump is to be expected, and worth waiting for."""

    pod: str
    uid: str
    why: Why
    by: str = ""
    node: NodeName | None = None
    grace_seconds: float = 30.0
    dumps_at_stop: bool = True
    """Whether its containers are dumped when they are told to stop (annotation ``woodfrog.io/on-stop``)."""


class PodContainerEnded(_KeyEvent, frozen=True, tag="pod.container-ended"):
    """The kubelet says how a container under the key ended. Whether it was dumped before, only its worker can say."""

    pod: str
    uid: str
    container: str
    because: EndedBecause
    exit_code: int
    signal: int = 0
    """The signal that ended it, 0 if none did or the kubelet does not say."""
    detail: str = ""
    """The kubelet's word for it, such as ``OOMKilled``. Never what the container wrote."""


class PodGone(_KeyEvent, frozen=True, tag="pod.gone"):
    """A pod with a container under the key is not in the API any more, or its node is gone."""

    pod: str
    uid: str


class PodReplaced(_KeyEvent, frozen=True, tag="pod.replaced"):
    """Pod ``by`` was created in place of one of a Job that was ended from outside, so that nothing waits for the Job controller."""

    pod: str
    uid: str
    job: str
    by: str
    why: str = ""


class PodEndCounted(_KeyEvent, frozen=True, tag="pod.end-counted"):
    """The end of a Job's pod from outside counts against the Job's ``backoffLimit``: its work was not captured."""

    pod: str
    uid: str
    job: str
    why: str = ""


class CheckpointForgotten(_KeyEvent, frozen=True, tag="checkpoint.forgotten"):
    """The key was not used for ``idle_seconds``, or somebody wanted it forgotten, and nothing is stored of it any more.

    It is known no more, and may be used again.

    ``incarnation`` is its last. Later starts under it have higher numbers.
    """

    idle_seconds: float
    """0 if somebody wanted it."""
    reason: str = ""
    """Theirs."""


class CommandIssued(_KeyEvent, frozen=True, tag="command.issued"):
    """A command was decided; the relay sends it from the log."""

    command: Command


class CommandFinished(_KeyEvent, frozen=True, tag="command.finished"):
    """A command reached its one end."""

    command_id: CommandId
    outcome: Outcome
    failure: Failure | None = None


class LogHeadSigned(
    msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag_field="type", kw_only=True, tag="log.head-signed"
):
    """Where all chains of the log stood at a position, signed by a key that the database does not hold."""

    cluster: str
    position: int
    heads: str
    """BLAKE3 over the version and hash of every stream there, 64 hex digits."""
    signed_at: datetime
    public_key: str
    """Ed25519, 64 hex digits."""
    signature: str
    """128 hex digits."""


ReportedEvent = (
    NodeRegistered
    | RestoreFailed
    | ContainerStarted
    | ContainerEnded
    | DumpStarted
    | SnapshotCaptured
    | SnapshotRehearsed
    | SnapshotStoreDelayed
    | SnapshotStored
    | DumpFailed
    | SnapshotDeleted
    | CommandFinished
)
"""What a worker may say; anything else in a report is refused."""

NodeEvent = NodeRegistered | NodeLost | NodeReturned | NodeClockMeasured | NodeEnding | NodeSpared
PodFact = PodScheduled | PodTerminating | PodContainerEnded | PodGone
"""What was seen of pods; their incarnation is 0 where no start is known that belongs to the pod."""
JobOutcome = PodReplaced | PodEndCounted
"""What was done about Jobs; the incarnation is that of the pod that ended, 0 where no start of it is known."""
KeyEvent = (
    IncarnationOpened
    | StartRefused
    | StartDeferred
    | RestoreChosen
    | ColdStartChosen
    | RestoreFailed
    | ContainerStarted
    | ContainerEnded
    | DumpStarted
    | SnapshotCaptured
    | SnapshotRehearsed
    | SnapshotStoreDelayed
    | SnapshotStored
    | SnapshotImported
    | DumpFailed
    | SnapshotSuperseded
    | SnapshotInvalidated
    | SnapshotExpired
    | SnapshotDeleted
    | SnapshotPinned
    | SnapshotUnpinned
    | SnapshotRetried
    | CheckpointForgotten
    | CommandIssued
    | CommandFinished
    | PodFact
    | JobOutcome
)
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
    if isinstance(event, _NodeEvent):
        return f"node/{event.node}"
    if isinstance(event, LogHeadSigned):
        return f"log/{event.cluster}"
    return f"checkpoint/{event.key}"
