"""A control plane without I/O, for tests of decisions: what is decided is folded in at once, and the log of it is kept."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from controlplane.domain import (
    CheckpointAsked,
    Decision,
    Input,
    KeyState,
    NodeHeard,
    NodeSilent,
    Policy,
    ReportReceived,
    ResolveAsked,
    SnapshotAsked,
    State,
    Tick,
    decide,
    evolve,
)
from woodfrog.protocol.events import (
    ContainerEnded,
    ContainerStarted,
    DumpFailed,
    DumpStage,
    DumpStarted,
    Event,
    IncarnationOpened,
    NodeRegistered,
    ReportedEvent,
    RestoreFailed,
    RestoreStage,
    SnapshotCaptured,
    SnapshotStored,
    SnapshotStoreDelayed,
    Trigger,
)
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
from woodfrog.protocol.reports import Heartbeat, Report
from woodfrog.protocol.requests import CheckpointRequest, ResolveRequest, SnapshotRequest

KEY = CheckpointKey("lab", "default", "trainer")
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
ANY_NODE = NodeFacts()
ANY_CONTAINER = ContainerFacts()
BROKEN = Failure("criu-error", "CRIU could not restore the processes", "Look at its log.")
CORRUPT = Failure("snapshot-corrupt", "A chunk differs from its digest", "Use an older snapshot.")


class World:
    """Gives inputs to ``decide`` one after another, as the input loop does. Words about ``KEY`` unless told otherwise."""

    def __init__(self, *nodes: str, policy: Policy | None = None) -> None:
        self.state = State()
        self.log: list[tuple[Event, datetime]] = []
        self.now = NOON
        self.policy = policy or Policy()
        self.given = 0
        for node in nodes:
            self.register(node)

    def give(self, given: Input) -> Decision:
        decision = decide(self.state, given, self.now, self.policy)
        for event in decision.events:
            self.log.append((event, self.now))
            evolve(self.state, event, self.now)
        return decision

    def fold(self, event: Event) -> None:
        """Put an event into the log, as if it had been decided."""
        self.log.append((event, self.now))
        evolve(self.state, event, self.now)

    def source(self) -> str:
        self.given += 1
        return f"input-{self.given}"

    def report(self, event: ReportedEvent, *, node: str | None = None, worker: str | None = None) -> Decision:
        teller = node or getattr(event, "node", None) or "a"
        self.source()
        report = Report(UUID(int=self.given), NodeName(teller), WorkerId(worker or f"worker-{teller}"), self.now, event)
        return self.give(ReportReceived(report))

    def register(
        self, node: str, facts: NodeFacts = ANY_NODE, worker: str | None = None, journal: str = ""
    ) -> Decision:
        worker_id = WorkerId(worker or f"worker-{node}")
        event = NodeRegistered(node=NodeName(node), worker_id=worker_id, boot_id="boot", facts=facts, journal=journal)
        return self.report(event, node=node, worker=worker_id)

    def ask(
        self,
        container_id: str,
        node: str = "a",
        *,
        facts: NodeFacts = ANY_NODE,
        container: ContainerFacts = ANY_CONTAINER,
        key: CheckpointKey = KEY,
        create: str = "",
        given_up: bool = False,
    ) -> Decision:
        worker_id = WorkerId(f"worker-{node}")
        name = ContainerId(container_id)
        request = ResolveRequest(
            key, name, NodeName(node), worker_id, facts, container, 0, create_id=create, given_up=given_up
        )
        return self.give(ResolveAsked(request, self.source()))

    def run(self, container_id: str, node: str = "a", **how: Any) -> int:
        """Ask and start; return the incarnation's number."""
        answer = self.ask(container_id, node, **how).answer
        number = int(getattr(answer, "incarnation"))  # noqa: B009  (a refusal has none, and the test shall fail)
        self.started(number)
        return number

    def opened(self, number: int) -> IncarnationOpened:
        return next(
            event for event, _ in self.log if isinstance(event, IncarnationOpened) and event.incarnation == number
        )

    def started(self, number: int, *, restored_from: str | None = None) -> Decision:
        start = self.opened(number)
        about = {"key": KEY, "incarnation": start.incarnation, "node": start.node, "container_id": start.container_id}
        proved = None if restored_from is None else SnapshotId(restored_from)
        return self.report(ContainerStarted(**about, restored_from=proved))

    def ended(
        self, number: int, *, exit_code: int | None = 0, stopped: bool | None = None, never_ran: bool = False
    ) -> Decision:
        start = self.opened(number)
        about = {"key": KEY, "incarnation": start.incarnation, "node": start.node, "container_id": start.container_id}
        return self.report(ContainerEnded(**about, exit_code=exit_code, stopped=stopped, never_ran=never_ran))

    def about(self, number: int, snapshot: str) -> dict[str, Any]:
        return {
            "key": KEY,
            "incarnation": IncarnationNumber(number),
            "snapshot_id": SnapshotId(snapshot),
            "node": self.opened(number).node,
        }

    def dump(self, number: int, snapshot: str, *, final: bool = True, command: str | None = None) -> Decision:
        trigger = Trigger.STOP_SIGNAL if final else Trigger.COMMAND
        command_id = CommandId(command) if command else None
        return self.report(
            DumpStarted(**self.about(number, snapshot), trigger=trigger, final=final, command_id=command_id)
        )

    def captured(self, number: int, snapshot: str) -> Decision:
        return self.report(SnapshotCaptured(**self.about(number, snapshot), freeze_seconds=0.1, raw_bytes=1000))

    def delayed(self, number: int, snapshot: str, *, vouched: bool = True, taken_on: NodeFacts = ANY_NODE) -> Decision:
        """Say that the store does not take a capture; ``vouched`` if it can be restored on its node."""
        more: dict[str, Any] = (
            {"manifest_digest": f"local digest of {snapshot}", "taken_on": taken_on, "taken_from": ANY_CONTAINER}
            if vouched
            else {}
        )
        refused = Failure("store-unreachable", "the store does not answer", "Mount it.")
        return self.report(SnapshotStoreDelayed(**self.about(number, snapshot), failure=refused, since=NOON, **more))

    def stored(self, number: int, snapshot: str, **other: Any) -> Decision:
        return self.report(stored_event(**self.about(number, snapshot), **other))

    def dump_failed(
        self, number: int, snapshot: str, *, command: str | None = None, failure: Failure = BROKEN
    ) -> Decision:
        command_id = CommandId(command) if command else None
        about = self.about(number, snapshot)
        return self.report(DumpFailed(**about, stage=DumpStage.CAPTURE, failure=failure, command_id=command_id))

    def restore_failed(
        self,
        number: int,
        snapshot: str,
        failure: Failure = BROKEN,
        stage: RestoreStage = RestoreStage.CRIU,
        store: str | None = None,
    ) -> Decision:
        about = self.about(number, snapshot)
        return self.report(RestoreFailed(**about, stage=stage, failure=failure, store=store))

    def snapshot(self, number: int, snapshot: str, *, final: bool = False, **other: Any) -> Decision:
        """Report a whole dump, from its start to its being stored."""
        self.dump(number, snapshot, final=final)
        self.captured(number, snapshot)
        return self.stored(number, snapshot, **other)

    def checkpoint(self, command: str, *, timeout_seconds: float = 60.0, key: CheckpointKey = KEY) -> Decision:
        return self.give(CheckpointAsked(CheckpointRequest(key, timeout_seconds), CommandId(command), self.source()))

    def silent(self, node: str, worker: str | None = None) -> Decision:
        return self.give(NodeSilent(NodeName(node), WorkerId(worker or f"worker-{node}"), 15.0, self.source()))

    def heartbeat(self, heartbeat: Heartbeat) -> Decision:
        return self.give(NodeHeard(heartbeat, self.source()))

    def delete(self, snapshot: str) -> Decision:
        """Have a snapshot deleted, even the latest."""
        return self.wish("delete", snapshot)

    def wish(self, what: Literal["pin", "unpin", "invalidate", "retry", "delete"], snapshot: str) -> Decision:
        request = SnapshotRequest(KEY.cluster, KEY.namespace, SnapshotId(snapshot), what, force=True)
        return self.give(SnapshotAsked(request, self.source()))

    def heard(self, node: str, worker: str | None = None) -> Decision:
        return self.heartbeat(Heartbeat(NodeName(node), WorkerId(worker or f"worker-{node}"), "boot", ANY_NODE))

    def later(self, seconds: float) -> Decision:
        """Let time pass, and say so."""
        self.now += timedelta(seconds=seconds)
        return self.give(Tick(self.source()))

    @property
    def key(self) -> KeyState:
        return self.state.keys[KEY]

    def types(self) -> list[str]:
        return [str(event.__struct_config__.tag) for event, _ in self.log]


def stored_event(
    *,
    taken_on: NodeFacts = ANY_NODE,
    taken_from: ContainerFacts = ANY_CONTAINER,
    command: str | None = None,
    **about: Any,
) -> SnapshotStored:
    """Return a stored snapshot with every number filled in."""
    return SnapshotStored(
        **about,
        manifest_digest=f"digest of {about['snapshot_id']}",
        raw_bytes=1000,
        stored_bytes=500,
        store_seconds=0.2,
        taken_on=taken_on,
        taken_from=taken_from,
        command_id=CommandId(command) if command else None,
    )


def types(decision: Decision) -> list[str]:
    """Name the events of a decision, in order."""
    return [str(event.__struct_config__.tag) for event in decision.events]
