"""How a container of an id would start on each node, now or at an earlier position of the log.

The same decision is made that a worker's question leads to, on the state as of that position, and thrown away. What decides about an
id is in its own events and in those of the nodes, so only these are folded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from controlplane.domain import Policy, ResolveAsked, State, decide, evolve
from controlplane.log.read import tell_rows
from controlplane.log.upcast import UPCASTS
from woodfrog.protocol.facts import ContainerFacts
from woodfrog.protocol.ids import CheckpointKey, ContainerId, NodeName
from woodfrog.protocol.requests import Refusal, Resolution, ResolveRequest, RestoreFrom, WaitFor

MOST_EVENTS: Final = 50_000
"""Of an id, and of the nodes, so many newest events are folded."""


class Choice(msgspec.Struct, frozen=True):
    """How a container would start on a node."""

    node: str
    lost: bool
    answer: str
    """``restore``, ``wait``, ``cold`` or ``refused``."""
    reason: str
    snapshot_id: str | None = None
    until: datetime | None = None


def fold(rows: Iterable[Mapping[str, Any]]) -> State:
    """Fold rows of ``events``, oldest first."""
    state = State()
    for event, at in tell_rows(list(rows), UPCASTS):
        evolve(state, event, at)
    return state


def used_nodes(state: State, key: CheckpointKey) -> frozenset[NodeName]:
    """Name the nodes that an id's containers and snapshots are, or were, on: what is chosen may depend on them."""
    history = state.keys.get(key)
    if history is None:
        return frozenset()
    places = [
        *(each.node for each in history.incarnations.values()),
        *(each.node for each in history.snapshots.values()),
    ]
    return frozenset(node for node in places if node is not None)


def choices(
    state: State, key: CheckpointKey, nodes: Sequence[NodeName], moment: datetime, policy: Policy
) -> list[Choice]:
    """Say it for those of the nodes that are known."""
    return [_choice(state, request_of(state, key, node), moment, policy) for node in nodes if node in state.nodes]


def request_of(state: State, key: CheckpointKey, node: NodeName) -> ResolveRequest:
    """Ask for a container like the last one of the id, on a node that is known."""
    history, known = state.keys.get(key), state.nodes[node]
    last = history.current if history is not None else None
    return ResolveRequest(
        key=key,
        container_id=ContainerId("what-if"),
        node=node,
        worker_id=known.worker_id,
        facts=known.facts,
        container=last.container if last is not None else ContainerFacts(),
        reports_sequence=0,
    )


def answer(state: State, request: ResolveRequest, moment: datetime, policy: Policy) -> Resolution:
    """Decide, and change nothing."""
    decided = decide(state, ResolveAsked(request, "what-if"), moment, policy).answer
    assert isinstance(decided, Resolution)
    return decided


def _choice(state: State, request: ResolveRequest, moment: datetime, policy: Policy) -> Choice:
    node, lost = request.node, state.nodes[request.node].lost
    match answer(state, request, moment, policy):
        case RestoreFrom(snapshot_id=snapshot_id, reason=reason):
            return Choice(node, lost, "restore", reason, snapshot_id)
        case WaitFor(waiting_for=waiting_for, until=until):
            return Choice(node, lost, "wait", waiting_for, until=until)
        case Refusal(failure=failure):
            return Choice(node, lost, "refused", str(failure))
        case cold:
            return Choice(node, lost, "cold", cold.reason)
