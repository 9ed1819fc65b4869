"""The selection law: from which snapshot a container goes on.

One walk through the key's snapshots, newest first, decides. Each rule is here for a reason:

*Newest incarnation first, then newest dump.* Every start of a container takes the work further, so the latest dump of
the latest start is the furthest that the work has come. "Latest" is the order of the log and of capture, never a clock's:
two nodes' clocks differ, and the upload of an older dump may end after that of a newer one.

*A pin wins.* Somebody who pins a snapshot wants to go back to it, knowing what that costs. While it is valid and fits it is
chosen before all others; of several the newest. Unpinned, it takes its old place, and the law is as before.

*Only what is valid.* A snapshot of which a byte is missing is found out half-way through a restore, when the older one
may be gone. Valid means that every byte is stored and was read back.

*Or what lies here.* A capture that the store does not take is whole on the node that took it, and that node has reported the digest of
its manifest. There, and nowhere else, it counts as if it were valid.

*Never what was superseded.* Once a later incarnation has started without a snapshot, the two are branches of which only
the later one has been seen by the world since. Going over to the other would be a step back: people may decide on it, by a retry
or a pin, and nobody else.

*Not what failed here before.* The same node, the same image and the same bytes fail in the same way; trying again would
put the same pod into a loop. Another node, or a repaired image, deserves its own try. What this start has tried in vain
it does not try again, whatever the reason was.

*Not what does not fit.* A process that uses a CPU feature which this node lacks dies later, at a random place, of
SIGILL: that is worse than an older snapshot, and much worse than a cold start.

*Wait rather than step back.* A replacement is often created while its predecessor is still being dumped. If the walk
comes upon a dump in flight before it finds something usable, then that dump, once valid, is what would be chosen, so
it is worth waiting for. A dump that would not be chosen is never waited for, because the walk ends before it. If the
predecessor has not even begun to be dumped, what to do is said in :mod:`controlplane.domain.handover`.

*But never for ever.* The wait is bounded by a moment that is recorded when it begins, so that neither asking again
nor a restart of the control plane prolongs it; and a dump on a node that is lost is not waited for at all.

*Not into the same death, nor into the past.* See :mod:`controlplane.domain.start_outcomes`. A pin overrides both, and that a restore failed
before.

*Not behind a fresh start.* Somebody who asked for one wants the id to begin again: see :mod:`controlplane.domain.fresh_starts`.

*Never more than the new container allows.* CRIU restores privileges as they were dumped. What of them cannot be lowered to what
the new container's spec allows speaks against the snapshot, as far as the log knows it; the worker looks at the rest.

*At last, cold.* If nothing usable is left the container starts from its image: late work is better than no work.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from itertools import takewhile

from controlplane.domain import choice_wording as wording
from controlplane.domain import fresh_starts
from controlplane.domain.choice_wording import Skipped
from controlplane.domain.handover import Asker, Wait, awaited, remark, running_before
from controlplane.domain.privilege_policy import lowered
from controlplane.domain.start_outcomes import RESTORE_TRIES, short_lives
from controlplane.domain.state import (
    Cold,
    Incarnation,
    KeyState,
    NodeState,
    Restore,
    Snapshot,
    SnapshotStatus,
    image_of,
)
from woodfrog.protocol.facts import at_start
from woodfrog.protocol.ids import NodeName


def choose(
    key: KeyState,
    nodes: Mapping[NodeName, NodeState],
    asker: Asker,
    now: datetime,
    handover_seconds: float = 120.0,
    restore_tries: int = RESTORE_TRIES,
) -> Restore | Wait | Cold:
    """Say how ``asker`` shall start, given all that is known of its key at ``now``. Pure and total.

    ``handover_seconds`` bounds a wait that begins now; a wait that has begun ends at the moment recorded then. A snapshot from
    which ``restore_tries`` containers in a row went on only to fail soon is passed over.
    """
    if fresh_starts.is_asked(key, asker.container):
        return fresh_starts.cold(key, key.newest_first())
    start = key.incarnations.get(asker.incarnation, Incarnation(number=asker.incarnation))
    until = start.wait_until or now + timedelta(seconds=handover_seconds)
    skipped: list[Skipped] = []
    before = running_before(key, nodes, asker)
    wait = awaited(key, before, start, now, until) if before is not None else None
    also = remark(before) if before is not None else ""
    for snapshot in key.candidates():
        if wait is not None and not snapshot.pinned:
            return wait
        obstacle = _obstacle(key, nodes, asker, start, snapshot, restore_tries)
        if obstacle is None and snapshot.status.in_flight and not snapshot.waits_on(asker.node):
            if now < until:
                return Wait(wording.awaited(snapshot), until)
            obstacle = wording.waited_for_in_vain(snapshot)
        if obstacle is None:
            less = lowered(snapshot.taken_from, asker.container) if asker.bounded else ""
            newer = takewhile(lambda each: each is not snapshot, key.newest_first())  # noqa: B023 - used up at once
            left = 0 if snapshot.pinned else len(fresh_starts.left_behind(key, newer))
            return Restore(snapshot.snapshot_id, wording.chosen(snapshot, asker.node, skipped, less, also), left)
        skipped.append(Skipped(snapshot, obstacle))
    if wait is not None:
        return wait
    left = len(fresh_starts.left_behind(key, key.snapshots.values()))
    return Cold(wording.nothing_usable(skipped, also), left=left)


def _obstacle(
    key: KeyState,
    nodes: Mapping[NodeName, NodeState],
    asker: Asker,
    start: Incarnation,
    snapshot: Snapshot,
    restore_tries: int,
) -> str | None:
    """Say why the snapshot cannot be chosen, or if in flight why it could not be once it is valid; ``None`` if it can."""
    if snapshot.status is SnapshotStatus.VALID:
        taken_on, taken_from = snapshot.taken_on, snapshot.taken_from
    elif not snapshot.status.in_flight:
        return wording.fate(snapshot)
    else:
        if not key.has_a_future(snapshot):
            return wording.overtaken(key)
        node = nodes.get(snapshot.node) if snapshot.node is not None else None
        if node is not None and node.lost and snapshot.node != asker.node:  # who asks is not lost
            return wording.on_lost_node(snapshot)
        origin = key.incarnations.get(snapshot.incarnation)
        taken_on = node.facts if node is not None else snapshot.taken_on
        taken_from = at_start(origin.container) if origin is not None else snapshot.taken_from
        if snapshot.waits_on(asker.node):
            taken_on, taken_from = snapshot.taken_on, snapshot.taken_from
    if snapshot.snapshot_id in start.set_aside:
        return start.too_much.get(snapshot.snapshot_id, wording.NOT_IN_THIS_START)
    against = None if snapshot.pinned else _held_against(key, asker, snapshot, restore_tries)
    return against or asker.misfit(taken_on, taken_from, taken_at=snapshot.node)


def _held_against(key: KeyState, asker: Asker, snapshot: Snapshot, restore_tries: int) -> str | None:
    """Say what earlier starts speak against the snapshot, or ``None``."""
    if (asker.node, image_of(asker.container)) in snapshot.failed_on:
        return wording.NOT_ON_THIS_NODE
    if snapshot.incarnation <= key.done_through > snapshot.retried_at:
        return wording.behind_work_done(key)
    if fresh_starts.lies_behind(key, snapshot):
        return wording.behind_fresh_start(key)
    lives = short_lives(key, snapshot)
    return wording.ends_soon(lives) if len(lives) >= restore_tries else None
