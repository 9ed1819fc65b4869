"""Decisions: what follows from one input, as events to record and an answer to give.

The order is always the same: input, decide, append, evolve. Nothing is sent from here and nothing is changed, so a crash
at any moment leaves either no trace of a decision or all of it. What is chosen is chosen in :mod:`controlplane.domain.choose`,
and whether a report is believed is asked in :mod:`controlplane.domain.report_validation`; what people wish is weighed in
:mod:`controlplane.domain.user_requests`, what time brings in :mod:`controlplane.domain.maintenance`, and what is seen of pods in
:mod:`controlplane.domain.observations`; here is what follows from the rest.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from controlplane.domain.choose import choose
from controlplane.domain.clock_skew import is_news
from controlplane.domain.decision_builder import DecisionBuilder, refuse
from controlplane.domain.forget_requests import forget
from controlplane.domain.fresh_starts import left_behind
from controlplane.domain.handover import Asker, Wait
from controlplane.domain.import_requests import take_in
from controlplane.domain.inputs import (
    CheckpointAsked,
    Decision,
    ForgetAsked,
    HeadTaken,
    ImportAsked,
    Input,
    JobActed,
    NodeHeard,
    NodeSeen,
    NodeSilent,
    PodSeen,
    Policy,
    ReportReceived,
    ResolveAsked,
    SnapshotAsked,
    Tick,
)
from controlplane.domain.maintenance import upkeep
from controlplane.domain.node_resets import lost_captures
from controlplane.domain.observations import job_acted, node_seen, pod_seen
from controlplane.domain.placement import Placement, identified, misplaced, not_here, not_its_own
from controlplane.domain.quotas import no_new_id
from controlplane.domain.report_validation import is_duplicate, is_of_forgotten_id, rejection_reason
from controlplane.domain.retention import expired, expiries
from controlplane.domain.state import Cold, Incarnation, KeyState, Restore, SnapshotStatus, State, namespace_of
from controlplane.domain.stores import has_other_store, is_proof
from controlplane.domain.user_requests import checkpoint, decide_about, demand
from woodfrog.protocol.events import (
    ColdStartChosen,
    CommandFinished,
    DumpFailed,
    IncarnationOpened,
    NodeClockMeasured,
    NodeLost,
    NodeRegistered,
    NodeReturned,
    Outcome,
    RestoreChosen,
    RestoreFailed,
    SnapshotDeleted,
    SnapshotInvalidated,
    SnapshotStored,
    StartDeferred,
    StartRefused,
)
from woodfrog.protocol.facts import ContainerFacts
from woodfrog.protocol.failures import CONDEMNING_CODES, Failure
from woodfrog.protocol.ids import CheckpointKey, CommandId, IncarnationNumber, InvalidIdError, NodeName, event_id
from woodfrog.protocol.reports import Report
from woodfrog.protocol.requests import Refusal, Resolution, ResolveRequest, RestoreFrom, StartCold, WaitFor

_OVER: Final = Failure(
    "start-given-up",
    "this start is over: it was given up, or its container has started or ended",
    "Create the container again.",
)


def decide(state: State, given: Input, now: datetime, policy: Policy) -> Decision:
    """Say what follows from ``given`` at ``now``. Pure and total: never changes ``state``, never raises.

    The events are to be appended all or none, in their order, and then folded in with
    :func:`~controlplane.domain.evolve.evolve` before the next input is decided.
    """
    match given:
        case ReportReceived(report=report):
            return _report(state, report, now, policy)
        case ResolveAsked():
            return _resolve(state, given, now, policy)
        case CheckpointAsked() | SnapshotAsked() | ImportAsked() | ForgetAsked():
            return _requested(state, given, now, policy)
        case PodSeen():
            return pod_seen(state, given, now, policy)
        case JobActed() | HeadTaken():
            return job_acted(state, given) if isinstance(given, JobActed) else Decision(events=(given.head,))
        case NodeSeen():
            return node_seen(state, given)
        case NodeSilent() | NodeHeard():
            return _silent(state, given) if isinstance(given, NodeSilent) else _heard(state, given)
        case Tick():
            return upkeep(state, given, now, policy)


def _requested(
    state: State, given: CheckpointAsked | SnapshotAsked | ImportAsked | ForgetAsked, now: datetime, policy: Policy
) -> Decision:
    match given:
        case CheckpointAsked():
            return checkpoint(state, given, now, policy)
        case SnapshotAsked():
            return decide_about(state, given, now, policy)
        case ImportAsked():
            return take_in(state, given, now, policy)
        case ForgetAsked():
            return forget(state, given, now)


def _report(state: State, report: Report, now: datetime, policy: Policy) -> Decision:
    problem = rejection_reason(state, report)
    if problem is not None:
        return Decision(rejected=problem, forgotten=is_of_forgotten_id(state, report))
    if is_duplicate(state, report):
        return Decision()
    event = report.event
    if isinstance(event, NodeRegistered):
        return Decision(events=(event, *lost_captures(state, event, now)))
    course = DecisionBuilder(state.keys.get(event.key, KeyState()), now)
    course.record(event)
    match event:
        case SnapshotStored():
            _finish_command(state, event, course)
            keep = policy.retention.of(event.key)
            for expiry in expiries(course.key, policy.retention, keep, now):
                course.record(expired(event.key, expiry, now, policy.retention.grace_seconds))
        case DumpFailed() | SnapshotDeleted():
            _finish_command(state, event, course)
        case RestoreFailed():
            _condemn(state, event, course)
        case _:
            pass
    return course.decision()


def _finish_command(
    state: State, event: SnapshotStored | DumpFailed | SnapshotDeleted, course: DecisionBuilder
) -> None:
    """End the command that asked for it, unless it has ended already: it has one end only."""
    command = state.commands.get(event.command_id) if event.command_id is not None else None
    if command is None or (command.key, command.incarnation) != (event.key, event.incarnation):
        return
    failure = event.failure if isinstance(event, DumpFailed) else None
    course.record(
        CommandFinished(
            key=event.key,
            incarnation=event.incarnation,
            command_id=command.command_id,
            outcome=Outcome.SUCCEEDED if failure is None else Outcome.FAILED,
            failure=failure,
        )
    )


def _condemn(state: State, event: RestoreFailed, course: DecisionBuilder) -> None:
    """Invalidate the snapshot if the failure proves that the fault is in it, or a second node says the same.

    One node's failure may be the node's own; two nodes failing alike are no accident, and a third try would only cost
    a third start. What is missing in a store proves something only if it is the store that holds the snapshot.
    """
    snapshot = course.key.snapshots.get(event.snapshot_id)
    if snapshot is None or snapshot.status is not SnapshotStatus.VALID:
        return
    nodes = sorted({node for node, _ in snapshot.failed_on})
    if event.failure.code in CONDEMNING_CODES and is_proof(state, snapshot, event):
        reason = f"{event.failure.cause} (found on node {event.node})"
    elif len(nodes) > 1 and not snapshot.pinned:
        reason = f"restoring it failed on nodes {' and '.join(nodes)}, at last with: {event.failure.cause}"
    else:
        return
    course.record(
        SnapshotInvalidated(
            key=event.key, incarnation=snapshot.incarnation, snapshot_id=snapshot.snapshot_id, reason=reason
        )
    )


def _resolve(state: State, asked: ResolveAsked, now: datetime, policy: Policy) -> Decision:
    request = asked.request
    try:
        CheckpointKey.checked(request.key.cluster, request.key.namespace, request.key.id)
    except InvalidIdError as problem:
        return refuse("invalid-id", str(problem), "Correct it where the container is declared and create it again.")
    key = state.keys.get(request.key, KeyState())
    start = _start_of(key, request)
    is_over = start is not None and (start.started or start.ended)
    if request.given_up or is_over:
        open_number = IncarnationNumber(0) if start is None or is_over else start.number
        return Decision(answer=Refusal(failure=_OVER, incarnation=open_number))
    if asked.placement is None:
        return _start(state, asked, request.container, DecisionBuilder(key, now), policy)
    pod = asked.placement.pod
    obstacle = misplaced(request, pod)
    if obstacle is None and pod is not None:
        obstacle = not_its_own(key, request, pod)
    if obstacle is not None or pod is None:
        return _not_here(asked, asked.placement, str(obstacle))
    return _start(state, asked, identified(request.container, pod), DecisionBuilder(key, now), policy)


def _start(
    state: State, asked: ResolveAsked, container: ContainerFacts, course: DecisionBuilder, policy: Policy
) -> Decision:
    """Decide how ``container`` starts, once it is known that it may."""
    request, now = asked.request, course.now
    start = _start_of(course.key, request)
    quota = no_new_id(state, request.key, policy.quotas)
    if quota is not None:
        return _refused(request, container, quota)
    if start is None:
        number = IncarnationNumber(
            (course.key.newest or state.floors.get(namespace_of(request.key), course.key.newest)) + 1
        )
        course.record(
            IncarnationOpened(
                key=request.key,
                incarnation=number,
                node=request.node,
                container_id=request.container_id,
                container=container,
                create_id=request.create_id,
            )
        )
    else:
        number = start.number
    newest = course.key.current
    assert newest is not None
    bounded = policy.privileges.bounds(request.key)
    if number < newest.number:
        cause = (
            f"Incarnation {number} of {request.key} was superseded by incarnation {newest.number} on node {newest.node}"
        )
        advice = "Two containers use one id at once. Give each its own id, or end the one that is not wanted."
        return Decision(answer=Refusal(failure=Failure("superseded", cause, advice), incarnation=number))
    if newest.choice is not None and _stands(course.key, newest.choice, request.node):
        return course.decision(_told(course.key, number, newest.choice, bounded=bounded))
    asker = Asker(request.node, request.facts, container, number, bounded, policy.ownership.same(request.key))
    choice = choose(course.key, state.nodes, asker, now, policy.handover_seconds, policy.restore_tries)
    match choice:
        case Wait(waiting_for=waiting_for, until=until, to_dump=before):
            if before is not None:
                course.record(demand(request.key, before, CommandId(str(event_id(asked.source, 0))), now, until))
            if newest.wait_until is None:
                course.record(StartDeferred(key=request.key, incarnation=number, waiting_for=waiting_for, until=until))
            return course.decision(WaitFor(incarnation=number, waiting_for=waiting_for, until=until))
        case Restore(snapshot_id=snapshot_id, reason=reason):
            course.record(
                RestoreChosen(
                    key=request.key, incarnation=number, snapshot_id=snapshot_id, reason=reason, left=choice.left
                )
            )
        case Cold(reason=reason):
            course.record(
                ColdStartChosen(
                    key=request.key, incarnation=number, reason=reason, fresh=choice.fresh, left=choice.left
                )
            )
    return course.decision(_told(course.key, number, choice, bounded=bounded))


def _not_here(asked: ResolveAsked, placement: Placement, problem: str) -> Decision:
    decision = _refused(asked.request, ContainerFacts(pod=asked.request.container.pod), not_here(problem))
    return decision if placement.recorded else Decision(answer=decision.answer)


def _refused(request: ResolveRequest, container: ContainerFacts, failure: Failure) -> Decision:
    """Refuse a start and record it; no key becomes known by it."""
    refused = StartRefused(
        key=request.key,
        incarnation=IncarnationNumber(0),
        node=request.node,
        container_id=request.container_id,
        pod=container.pod or "",
        pod_uid=container.pod_uid or "",
        failure=failure,
    )
    return Decision(events=(refused,), answer=Refusal(failure=failure))


def _start_of(key: KeyState, request: ResolveRequest) -> Incarnation | None:
    """Find the start that the request belongs to, or ``None`` if it begins a new one.

    Engines let people choose container ids and use them again, so it goes by the create. Where an older worker does not name it, a
    container that has started or ended is not created again: the same id then names a new container.
    """

    def is_its_own(start: Incarnation) -> bool:
        if (start.node, start.container_id) != (request.node, request.container_id):
            return False
        if request.create_id and start.create_id:
            return start.create_id == request.create_id
        return not start.started and not start.ended

    return max(filter(is_its_own, key.incarnations.values()), key=lambda start: start.number, default=None)


def _stands(key: KeyState, choice: Restore | Cold, node: NodeName) -> bool:
    """Whether a choice may be told again; a snapshot may have been condemned since."""
    if isinstance(choice, Cold):
        return True
    snapshot = key.snapshots.get(choice.snapshot_id)
    return snapshot is not None and (snapshot.status is SnapshotStatus.VALID or snapshot.waits_on(node))


def _told(key: KeyState, number: IncarnationNumber, choice: Restore | Cold, *, bounded: bool) -> Resolution:
    if isinstance(choice, Cold):
        left = len(left_behind(key, key.snapshots.values()))
        unusable = 0 if choice.fresh else left
        return StartCold(incarnation=number, reason=choice.reason, unusable=unusable, left=left)
    snapshot = key.snapshots[choice.snapshot_id]
    return RestoreFrom(
        incarnation=number,
        snapshot_id=choice.snapshot_id,
        manifest_digest=snapshot.manifest_digest or snapshot.local_digest,
        unstored=not snapshot.manifest_digest,
        reason=choice.reason,
        bounded=bounded,
        recorded=snapshot.taken_from.privileges,
        left=choice.left,
    )


def _silent(state: State, silence: NodeSilent) -> Decision:
    node = state.nodes.get(silence.node)
    if node is None or node.lost or node.worker_id != silence.worker_id:
        return Decision()
    lost = NodeLost(node=silence.node, worker_id=silence.worker_id, silent_seconds=silence.silent_seconds)
    return Decision(events=(lost,))


def _heard(state: State, heard: NodeHeard) -> Decision:
    """Take a lost node back; and register a worker that the log does not know, for a heartbeat says all that it takes.

    Without that, a worker that outlives a lost log would be answered and never believed until somebody restarts it. One that
    is thought to be an earlier life, while the one that is thought to live has fallen silent, is the one that lives: the word of
    an earlier life may come after the first sign of life of a later one. A worker whose store is another one than it registered
    with, because a file system was mounted since, is registered again.
    """
    heartbeat = heard.heartbeat
    node = state.nodes.get(heartbeat.node)
    other = node is None or heartbeat.worker_id != node.worker_id
    unknown = node is None or (other and (node.lost or heartbeat.worker_id not in node.earlier_workers))
    if node is None or unknown or (not other and has_other_store(node, heartbeat)):
        registered = NodeRegistered(
            node=heartbeat.node, worker_id=heartbeat.worker_id, boot_id=heartbeat.boot_id, facts=heartbeat.facts
        )
        return Decision(events=(registered,))
    if node.lost and heartbeat.worker_id == node.worker_id:
        return Decision(events=(NodeReturned(node=heartbeat.node, worker_id=heartbeat.worker_id),))
    if not other and is_news(node.clock_offset_seconds, heard.clock_offset_seconds):
        assert heard.clock_offset_seconds is not None
        offset_seconds = round(heard.clock_offset_seconds, 1)
        measured = NodeClockMeasured(node=heartbeat.node, worker_id=heartbeat.worker_id, offset_seconds=offset_seconds)
        return Decision(events=(measured,))
    return Decision()
