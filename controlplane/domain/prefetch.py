"""Having a node lay a snapshot ready when a pod is scheduled there, before its container is created.

Between the two the kubelet makes a sandbox and pulls an image, which takes longer than most snapshots do to fetch. What is
fetched is what would be chosen now. Where the choice is to wait, for a dump that is still to come, nothing is fetched: it would be
in vain.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from controlplane.domain.choose import choose
from controlplane.domain.handover import Asker
from controlplane.domain.state import KeyState, Restore, State
from woodfrog.protocol.commands import PrefetchCommand
from woodfrog.protocol.events import CommandIssued
from woodfrog.protocol.facts import ContainerFacts
from woodfrog.protocol.ids import CheckpointKey, CommandId, IncarnationNumber, NodeName, event_id

PREFETCH_SECONDS: Final = 120.0
"""After this the container has been created, or will not be."""


def prefetch(
    state: State, name: CheckpointKey, node: NodeName, source: str, now: datetime, *, owner_kind: str | None = None
) -> CommandIssued | None:
    """Return what a node should fetch that is about to get a container of a key; ``None`` if there is nothing to gain.

    ``owner_kind`` is that of the container's pod, as far as it is known.
    """
    there = state.nodes.get(node)
    key = state.keys.get(name, KeyState())
    if there is None or there.lost:
        return None
    last = key.current
    mappings = last.container.id_mappings if last is not None else ()
    container = ContainerFacts(id_mappings=mappings, owner_kind=owner_kind)
    asker = Asker(node=node, facts=there.facts, container=container, incarnation=IncarnationNumber(key.newest + 1))
    choice = choose(key, state.nodes, asker, now)
    if not isinstance(choice, Restore):
        return None
    snapshot = key.snapshots[choice.snapshot_id]
    if snapshot.waits_on(node):  # it lies there
        return None
    command = PrefetchCommand(
        command_id=CommandId(str(event_id(f"{source}/prefetch/{name}", 0))),
        node=node,
        key=name,
        incarnation=snapshot.incarnation,
        snapshot_id=snapshot.snapshot_id,
        manifest_digest=snapshot.manifest_digest,
        issued_at=now,
        deadline=now + timedelta(seconds=PREFETCH_SECONDS),
    )
    return CommandIssued(key=name, incarnation=snapshot.incarnation, command=command)
