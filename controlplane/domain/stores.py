"""Which store holds a snapshot's bytes: what its absence from a store proves, and which node can remove it.

The nodes of a cluster need not share a store: the directory may be a different one on each, or a file system that is not mounted
on one of them. Each store carries a mark with an identity of its own; nodes report it, and so does each snapshot that is stored.
That an object is missing proves something against a snapshot only where its bytes would have to be.

Snapshots and workers from before stores had identities report none. For them the store of the node that took the snapshot
is taken, as that node reports it now.
"""

from __future__ import annotations

from collections.abc import Mapping

from controlplane.domain.state import NodeState, Snapshot, State
from woodfrog.protocol.events import RestoreFailed
from woodfrog.protocol.failures import SNAPSHOT_MISSING
from woodfrog.protocol.ids import NodeName
from woodfrog.protocol.reports import Heartbeat


def is_proof(state: State, snapshot: Snapshot, event: RestoreFailed) -> bool:
    """Return whether a failure with a condemning code proves something against the snapshot itself.

    Damaged bytes do, unless they are known to lie in another store. Missing ones do only in the store that holds the snapshot,
    identified when they were looked for; where that store is unknown they never do, unless the node that took the snapshot is
    unknown as well, so that nobody else could have its bytes.
    """
    holds = store_of(state.nodes, snapshot)
    if event.failure.code != SNAPSHOT_MISSING:
        return event.store is None or holds is None or event.store == holds
    if event.store is None:
        return False
    return event.store == holds if holds is not None else snapshot.node not in state.nodes


def store_of(nodes: Mapping[NodeName, NodeState], snapshot: Snapshot) -> str | None:
    """Return the identity of the store that holds the snapshot, or ``None`` if it is unknown."""
    if snapshot.taken_on.store is not None:
        return snapshot.taken_on.store
    taken_at = None if snapshot.node is None else nodes.get(snapshot.node)
    return None if taken_at is None else taken_at.facts.store


def has_other_store(node: NodeState, heartbeat: Heartbeat) -> bool:
    """Return whether a worker reports a store that it was not registered with. One that it cannot read now is still its store."""
    return heartbeat.facts.store is not None and heartbeat.facts.store != node.facts.store


def remover(nodes: Mapping[NodeName, NodeState], snapshot: Snapshot) -> NodeName | None:
    """Choose the node that removes a snapshot: the one that took it, or another with the same store; after a failure the next.

    ``None`` while no node with that store is there: another would find nothing, and report that nothing is left.
    """
    holds = store_of(nodes, snapshot)
    there = sorted(
        name for name, node in nodes.items() if not node.lost and (holds is None or node.facts.store == holds)
    )
    if not there:
        return None
    first = there.index(snapshot.node) if snapshot.node in there else 0
    return there[(first + snapshot.deletes_failed) % len(there)]
