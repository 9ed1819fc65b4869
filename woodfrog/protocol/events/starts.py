"""What happens to the containers of an id, from the question how to start one to its end, and to the id itself."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from woodfrog.protocol.amounts import to_the_second
from woodfrog.protocol.events.base import AboutKey
from woodfrog.protocol.events.measures import Measure, Metric
from woodfrog.protocol.facts import ContainerFacts
from woodfrog.protocol.failures import QUOTA, Failure
from woodfrog.protocol.ids import ContainerId, NodeName, SnapshotId

__all__ = [
    "CheckpointForgotten",
    "ColdStartChosen",
    "ContainerEnded",
    "ContainerStarted",
    "IncarnationOpened",
    "ReportedStartEvent",
    "RestoreChosen",
    "RestoreFailed",
    "RestoreStage",
    "StartDeferred",
    "StartEvent",
    "StartRefused",
]


class RestoreStage(StrEnum):
    """Where a restore was when it failed."""

    FETCH = "fetch"
    APPLY = "apply"
    CRIU = "criu"
    GPU = "gpu"


class IncarnationOpened(AboutKey, frozen=True, tag="incarnation.opened"):
    """A container under the key is about to be created on ``node``; it supersedes the incarnation before."""

    node: NodeName
    container_id: ContainerId
    container: ContainerFacts
    create_id: str = ""
    """Names the create, in every question of its worker about it; empty from older workers."""

    def __str__(self) -> str:
        return f"container {self.container_id} is to be created on node {self.node}"


class StartRefused(AboutKey, frozen=True, tag="incarnation.start-refused"):
    """A worker asked for a start that it has no right to; ``incarnation`` is 0, for none was opened."""

    node: NodeName
    container_id: ContainerId
    failure: Failure
    pod: str = ""
    """The name of the pod, as the worker says."""
    pod_uid: str = ""
    """Known where the start is refused for other reasons than that the pod is not there."""

    def __str__(self) -> str:
        if self.failure.code == QUOTA:
            return f"a start on node {self.node} gets no protection: {self.failure}"
        return f"node {self.node} asked for a start that it has no right to: {self.failure}"


class StartDeferred(AboutKey, frozen=True, tag="incarnation.start-deferred"):
    """The start waits, no longer than ``until``, because starting now would be a step back."""

    waiting_for: str
    until: datetime

    def __str__(self) -> str:
        return f"the start waits, until {to_the_second(self.until)} at most: {self.waiting_for}"


class RestoreChosen(AboutKey, frozen=True, tag="incarnation.restore-chosen"):
    """The incarnation is to resume from ``snapshot_id``; ``reason`` says why this one, and why no newer one."""

    snapshot_id: SnapshotId
    reason: str
    left: int = 0
    """How many newer snapshots with captured or stored work are left behind."""

    def __str__(self) -> str:
        return f"snapshot {self.snapshot_id} was chosen: {self.reason}{self.left_behind()}"

    def left_behind(self) -> str:
        """Return what is left behind as the end of a sentence; empty if nothing is."""
        return _left(self.left, "newer ")

    def measures(self) -> tuple[Measure, ...]:
        """Count it if work is left behind."""
        return (Measure(Metric.STARTS_LEAVING_WORK, ("older",)),) if self.left else ()


class ColdStartChosen(AboutKey, frozen=True, tag="incarnation.cold-start-chosen"):
    """The incarnation is to start from its image, because of ``reason``."""

    reason: str
    fresh: bool = False
    """Whether it was requested; no later start goes back before it."""
    left: int | None = None
    """How many snapshots with captured or stored work are left behind; unknown in logs of before."""

    def __str__(self) -> str:
        return f"a cold start was chosen: {self.reason}{self.left_behind()}"

    def left_behind(self) -> str:
        """Return what is left behind as the end of a sentence; empty if nothing is."""
        return _left(self.left)

    def measures(self) -> tuple[Measure, ...]:
        """Count it if work is left behind."""
        return (Measure(Metric.STARTS_LEAVING_WORK, ("fresh" if self.fresh else "cold",)),) if self.left else ()


class RestoreFailed(AboutKey, frozen=True, tag="incarnation.restore-failed"):
    """A chosen snapshot could not be restored; everything done for it has been undone."""

    snapshot_id: SnapshotId
    node: NodeName
    stage: RestoreStage
    failure: Failure
    store: str | None = None
    """Identity of the store in which an object was missing, if the store could be identified before and after it was looked for."""

    def __str__(self) -> str:
        return f"snapshot {self.snapshot_id} could not be restored ({self.stage}): {self.failure}"

    def measures(self) -> tuple[Measure, ...]:
        """Count it by stage and code."""
        return (Measure(Metric.RESTORE_FAILURES, (self.stage.value, self.failure.code)),)


class ContainerStarted(AboutKey, frozen=True, tag="container.started"):
    """The container's processes run. ``restored_from`` is empty after a cold start."""

    node: NodeName
    container_id: ContainerId
    restored_from: SnapshotId | None = None
    create_seconds: float | None = None
    """From the runtime's ``create`` to its answer."""
    warnings: tuple[str, ...] = ()
    """What of the snapshot the container could not be given, and started without."""

    def __str__(self) -> str:
        origin = f"from snapshot {self.restored_from}" if self.restored_from else "cold"
        return "; ".join((f"the container runs, {origin}", *self.warnings))

    def measures(self) -> tuple[Measure, ...]:
        """Count it by how it started, and how long that took."""
        outcome = ("cold" if self.restored_from is None else "restored",)
        started = Measure(Metric.STARTS, outcome)
        if self.create_seconds is None:
            return (started,)
        return (started, Measure(Metric.CREATE_SECONDS, outcome, self.create_seconds))


class ContainerEnded(AboutKey, frozen=True, tag="container.ended"):
    """The container is gone from its node. ``exit_code`` is unknown where nobody who knew reported it to the worker."""

    node: NodeName
    container_id: ContainerId
    exit_code: int | None = None
    stopped: bool | None = None
    """Whether it was sent a stop signal before; unknown of workers that did not report it."""
    never_ran: bool = False
    """Whether its processes certainly never ran: it was given up before it was started. What ran beside it lost nothing to it."""

    def __str__(self) -> str:
        if self.never_ran:
            return "the start was given up: the container never ran"
        return f"the container ended{'' if self.exit_code is None else f' with exit code {self.exit_code}'}"


class CheckpointForgotten(AboutKey, frozen=True, tag="checkpoint.forgotten"):
    """The key was not used for ``idle_seconds``, or somebody wanted it forgotten, and nothing is stored of it any more.

    It is known no more, and may be used again.

    ``incarnation`` is its last. Later starts under it have higher numbers.
    """

    idle_seconds: float
    """0 if somebody wanted it."""
    reason: str = ""
    """Theirs."""

    def __str__(self) -> str:
        if self.idle_seconds:
            return f"forgotten: nothing was started as this id for {self.idle_seconds:g} s"
        return f"forgotten, as was requested{f': {self.reason}' if self.reason else ''}"


StartEvent = (
    IncarnationOpened
    | StartRefused
    | StartDeferred
    | RestoreChosen
    | ColdStartChosen
    | RestoreFailed
    | ContainerStarted
    | ContainerEnded
    | CheckpointForgotten
)
ReportedStartEvent = RestoreFailed | ContainerStarted | ContainerEnded


def _left(count: int | None, what: str = "") -> str:
    return f"; {count} {what}snapshot{'s' * (count != 1)} with captured work left behind" if count else ""
