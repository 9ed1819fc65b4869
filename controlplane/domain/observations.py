"""What follows from things seen of pods and nodes: facts for the log, a dump that an annotation asks for, a node that ends.

The same thing may be told any number of times, by several who watch. It is recorded once: what the state shows already is no
news. A word about a pod that nobody ever heard of is kept, for its start may be about to be asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

from controlplane.domain.free_text import word_of
from controlplane.domain.inputs import CheckpointAsked, Decision, JobActed, NodeSeen, PodSeen, Policy
from controlplane.domain.placement import STATIC_OWNER, is_others
from controlplane.domain.pods import start_of
from controlplane.domain.prefetch import prefetch
from controlplane.domain.state import KeyState, State
from controlplane.domain.user_requests import checkpoint
from woodfrog.protocol.events import (
    Event,
    NodeEnding,
    NodeSpared,
    PodContainerEnded,
    PodEndCounted,
    PodGone,
    PodReplaced,
    PodScheduled,
    PodTerminating,
)
from woodfrog.protocol.ids import CheckpointKey, CommandId, InvalidIdError, event_id
from woodfrog.protocol.pods import (
    CheckpointWanted,
    Ended,
    Gone,
    NodeGone,
    NodeNotReady,
    PodEvent,
    Scheduled,
    Terminating,
)
from woodfrog.protocol.requests import CheckpointRequest

ON_STOP: Final = "woodfrog.io/on-stop"
"""Annotation: ``ignore`` has a container stopped without a dump."""


def pod_seen(state: State, seen: PodSeen, now: datetime, policy: Policy) -> Decision:
    """Say what follows from something that happened to a pod."""
    told = seen.told
    try:
        keys = told.keys()
    except InvalidIdError as problem:
        return Decision(rejected=str(problem))
    events: list[Event] = []
    for container, name in keys.items():
        if name in list(keys.values())[: list(keys).index(container)]:
            continue  # two containers of one pod with one id: the runtime will say what is wrong with that
        key = state.keys.get(name, KeyState())
        kind = None if told.owner is None else told.owner.kind
        if kind == STATIC_OWNER and is_others(key, told.node):
            continue  # the kubelet's own word, of whatever pod it likes
        if isinstance(told.happened, CheckpointWanted):
            wish = CheckpointAsked(
                request=CheckpointRequest(key=name),
                command_id=CommandId(str(event_id(f"{seen.source}/{container}", 0))),
                source=seen.source,
            )
            events += checkpoint(state, wish, now, policy).events
        else:
            facts = list(_facts(key, name, container, told))
            events += facts
            for fact in facts:
                if isinstance(fact, PodScheduled):
                    ready = prefetch(state, name, fact.node, seen.source, now, owner_kind=kind)
                    events += () if ready is None else (ready,)
    return Decision(events=tuple(events))


def _facts(key: KeyState, name: CheckpointKey, container: str, told: PodEvent) -> Iterator[Event]:
    pod = key.pods.get(told.uid)
    number = start_of(key, told.uid, told.pod)
    match told.happened:
        case Scheduled():
            if told.node is not None and (pod is None or pod.node != told.node):
                owner = "" if told.owner is None else f"{told.owner.kind}/{told.owner.name}"
                yield PodScheduled(
                    key=name, incarnation=number, pod=told.pod, uid=told.uid, node=told.node, owner=owner
                )
        case Terminating(why=why, by=by, grace_seconds=grace_seconds):
            if pod is None or pod.terminating_at is None:
                yield PodTerminating(
                    key=name,
                    incarnation=number,
                    pod=told.pod,
                    uid=told.uid,
                    why=why,
                    by=by,
                    node=told.node,
                    grace_seconds=grace_seconds,
                    dumps_at_stop=told.annotations.get(ON_STOP) != "ignore",
                )
        case Ended() as ended:
            if ended.container == container:
                yield PodContainerEnded(
                    key=name,
                    incarnation=number,
                    pod=told.pod,
                    uid=told.uid,
                    container=container,
                    because=ended.because,
                    exit_code=ended.exit_code,
                    signal=ended.signal,
                    detail=word_of(ended.detail),
                )
        case Gone() | NodeGone():
            known = pod is not None or number > 0
            if known and (pod is None or pod.gone_at is None):
                yield PodGone(key=name, incarnation=number, pod=told.pod, uid=told.uid)
        case NodeNotReady() | CheckpointWanted():
            pass  # whether its worker is there, its own heartbeats say


def job_acted(state: State, acted: JobActed) -> Decision:
    """Record what was done about the end of a Job's pod, under each of its keys."""
    events: list[Event] = []
    for key in acted.keys:
        about: dict[str, Any] = {
            "key": key,
            "incarnation": start_of(state.keys.get(key, KeyState()), acted.uid, acted.pod),
            "pod": acted.pod,
            "uid": acted.uid,
            "job": acted.job,
            "why": acted.why,
        }
        replaced = acted.replacement
        events.append(PodEndCounted(**about) if replaced is None else PodReplaced(**about, by=replaced))
    return Decision(events=tuple(events))


def node_seen(state: State, seen: NodeSeen) -> Decision:
    """Say what follows from what a node's taints announce."""
    node = state.nodes.get(seen.node)
    if node is None:
        return Decision()
    if seen.ending is not None and node.ending_since is None:
        return Decision(events=(NodeEnding(node=seen.node, worker_id=node.worker_id, reason=seen.ending),))
    if seen.ending is None and node.ending_since is not None:
        return Decision(events=(NodeSpared(node=seen.node, worker_id=node.worker_id),))
    return Decision()
