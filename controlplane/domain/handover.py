"""Whether the container before still runs, and what its successor does about that: nothing, wait, or have it dumped now.

The successor must not step back behind work that is still going on. Three cases:

*Its pod was asked to end.* The stop signal is on its way, and with it the last dump; asking for another would freeze the
container twice. The successor waits until that dump begins (from then on it waits for the dump), until the worker says that
the container has ended, or until the pod's grace period and a margin are over.

*Nobody knows that it ends.* Perhaps nothing watches over pods, or the news is not here yet; perhaps the pod was deleted by
force, is cut off, or has died and nobody said so; perhaps two containers use one id by mistake. In all of these its node is
asked to dump it now. If the container runs, the successor resumes from that very moment. If it does not, the worker says so,
and by then has said everything else that it knows: its words come in order.

*Nobody can answer.* A container on a node that is lost is not waited for, nor one whose dump could not be restored here, nor one
whose owner wants no dump at its stop. Whatever happens, the wait ends at the moment that was set when it began.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import msgspec

from controlplane.domain.ownership import stranger
from controlplane.domain.pods import ending_until, ends_undumped, pod_of
from controlplane.domain.state import Incarnation, KeyState, NodeState, Snapshot
from woodfrog.protocol.facts import ContainerFacts, NodeFacts, at_start, misfit
from woodfrog.protocol.ids import IncarnationNumber, NodeName


class Asker(msgspec.Struct, frozen=True):
    """The container that is about to start, and where."""

    node: NodeName
    facts: NodeFacts
    container: ContainerFacts
    incarnation: IncarnationNumber
    bounded: bool = True
    """Whether a snapshot's processes may hold no more than it allows (:mod:`controlplane.domain.privilege_policy`)."""
    owned: bool = True
    """Whether a snapshot has to be of a pod of the same ServiceAccount and owner (:mod:`controlplane.domain.ownership`)."""

    def misfit(
        self, taken_on: NodeFacts, taken_from: ContainerFacts, *, taken_at: NodeName | None = None
    ) -> str | None:
        """Say why a snapshot that was taken there cannot be restored here."""
        another = stranger(taken_from, self.container) if self.owned else None
        return another or misfit(
            taken_on, taken_from, self.facts, self.container, taken_at=taken_at, bounded=self.bounded
        )


class Wait(msgspec.Struct, frozen=True):
    """Ask again soon, and no later than ``until``."""

    waiting_for: str
    until: datetime
    to_dump: Incarnation | None = None
    """The container before, if its node is to be asked to dump it now."""


class Predecessor(msgspec.Struct, frozen=True):
    """The container before, which still runs as far as is known, on a node that is there."""

    start: Incarnation
    told_to_end: bool
    """Whether its pod was asked to end."""
    where: str


def running_before(key: KeyState, nodes: Mapping[NodeName, NodeState], asker: Asker) -> Predecessor | None:
    """Find the container before if its next dump would be worth having: it runs, and no final dump of it has begun."""
    before = key.incarnations.get(key.latest_start)
    if before is None or before.number >= asker.incarnation or not before.running or before.node is None:
        return None
    node = nodes.get(before.node)
    if node is None or (node.lost and before.node != asker.node):  # who asks is not lost
        return None
    if any(dump.final and dump.incarnation == before.number for dump in key.snapshots.values()):
        return None
    if ends_undumped(key, before) or asker.misfit(node.facts, at_start(before.container)) is not None:
        return None
    pod = pod_of(key, before)
    name = before.container.pod
    where = f"on node {before.node}" if name is None else f"in pod {name} on node {before.node}"
    return Predecessor(before, pod is not None and pod.terminating_at is not None, where)


def awaited(key: KeyState, before: Predecessor, start: Incarnation, now: datetime, until: datetime) -> Wait | None:
    """Say what ``start`` waits for before it looks at what there is; ``None`` if for nothing, or not any more."""
    if now >= until:
        return None
    number = before.start.number
    ending = ending_until(key, before.start)
    if ending is not None and now < ending:
        pod = pod_of(key, before.start)
        why = f" ({pod.why})" if pod is not None and pod.why else ""
        return Wait(f"the last dump of incarnation {number} {before.where}, which was asked to end{why}", until)
    if any(
        dump.incarnation == number and dump.status.in_flight and not _is_of_before(dump, before.start, start)
        for dump in key.snapshots.values()
    ):
        return None  # the walk comes upon it
    if before.start.dump_command is None and before.start.dump_asked_for >= start.number:
        return None  # it was asked and has answered
    return Wait(
        f"a dump of incarnation {number}, which still runs {before.where}",
        until,
        to_dump=before.start if before.start.dump_command is None else None,
    )


def _is_of_before(dump: Snapshot, before: Incarnation, start: Incarnation) -> bool:
    """Whether a capture could be restored by ``start`` now, and is older than the wish of ``start`` to have a dump.

    It may have waited for its store for hours, in which the container went on.
    """
    if start.node is None or not dump.waits_on(start.node):
        return False
    asked_at = before.dump_asked_at if before.dump_asked_for >= start.number else None
    return asked_at is None or dump.since is None or dump.since <= asked_at


def remark(before: Predecessor) -> str:
    """Say what a choice means for a container before that still runs."""
    number = before.start.number
    if before.told_to_end:
        return f"incarnation {number} {before.where} was asked to end and has not, nor did its last dump begin in time"
    return (
        f"incarnation {number} still runs {before.where} and is superseded: two containers use one id; "
        "if both are meant to run, give each its own"
    )
