"""What was last seen of pods and nodes, and what follows from the next look: the memory of the watcher.

Of pods only those with protected containers are kept, of each some hundred bytes. A list that comes after a watch lost its
place is compared with what was seen before, so that what happened in between is told as if it had been watched.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

from controlplane.domain.placement import PlacedPod
from controlplane.kube import node_conditions, pod_diff
from controlplane.kube.models import Node, Pod
from controlplane.kube.node_conditions import NodeView
from controlplane.kube.pod_diff import PodView
from woodfrog.protocol import wire
from woodfrog.protocol.pods import Happened, NodeGone, NodeNotReady

TellOfPod = Callable[[PodView, Happened], Awaitable[None]]
TellOfNode = Callable[[str, Happened], Awaitable[None]]
"""Tells the same of every pod on a node."""
PodChanged = Callable[[PodView | None, PodView | None], None]
Announce = Callable[[NodeView], Awaitable[None]]
"""Hands on whether a node is about to end."""


def ignore_change(_before: PodView | None, _now: PodView | None) -> None:
    """Do nothing about a pod that has changed."""


class NodeCache:
    """Every node. A :class:`~controlplane.kube.listwatch.Follower`."""

    def __init__(self, tell: TellOfNode, announce: Announce, *, ending: Collection[str]) -> None:
        self._tell = tell
        self._announce = announce
        self._ending = ending
        self.seen: dict[str, NodeView] = {}
        self.cordoned: set[str] = set()

    def keep(self, data: bytes) -> tuple[str, NodeView]:
        """Read a node. It is known by its name, as its worker names it."""
        seen = node_conditions.view(wire.decode(data, Node), self._ending)
        return seen.name, seen

    async def replaced(self, objects: dict[str, NodeView]) -> None:
        """Take in all nodes."""
        for name in self.seen.keys() - objects.keys():
            await self.changed(name, None)
        for name, now in objects.items():
            await self.changed(name, now)

    async def changed(self, uid: str, now: NodeView | None) -> None:
        """Take in how a node is now; of one that is new here it is said whether it is about to end, for that may have changed unseen."""
        before = self.seen.get(uid)
        if now is None:
            self.seen.pop(uid, None)
            self.cordoned.discard(uid)
            if before is not None:
                await self._tell(uid, NodeGone())
            return
        self.seen[uid] = now
        if now.cordoned:
            self.cordoned.add(uid)
        else:
            self.cordoned.discard(uid)
        if before is None or before.ending != now.ending:
            await self._announce(now)
        if now.not_ready is not None and (before is None or before.not_ready is None):
            await self._tell(uid, NodeNotReady(detail=now.not_ready))


class PodCache:
    """The pods with protected containers. A :class:`~controlplane.kube.listwatch.Follower`."""

    def __init__(
        self,
        cordoned: Collection[str],
        tell: TellOfPod,
        *,
        runtime_classes: Collection[str],
        changed: PodChanged = ignore_change,
    ) -> None:
        """``cordoned`` is live: the nodes that take no new pods. ``changed`` is called with every pod before and after a change."""
        self._cordoned = cordoned
        self._tell = tell
        self._runtime_classes = runtime_classes
        self._changed = changed
        self.seen: dict[str, PodView] = {}
        self._static: dict[str, str] = {}
        """Uids of mirror pods, by what the kubelet calls the static pods themselves."""

    def find(self, uid: str) -> PlacedPod | None:
        """Show where the pod with a uid is, or the static pod that the kubelet calls so; None if none was seen."""
        seen = self.seen.get(uid) or self.seen.get(self._static.get(uid, ""))
        return None if seen is None else seen.placed

    def keep(self, data: bytes) -> tuple[str, PodView] | None:
        """Read a pod; None if nothing in it is protected."""
        seen = pod_diff.view(wire.decode(data, Pod), runtime_classes=self._runtime_classes, cordoned=self._cordoned)
        return None if seen is None else (seen.uid, seen)

    async def replaced(self, objects: dict[str, PodView]) -> None:
        """Take in all pods; those that were seen and are not there any more are told as deleted."""
        for uid in self.seen.keys() - objects.keys():
            await self.changed(uid, None)
        for uid, now in objects.items():
            await self.changed(uid, now)

    async def changed(self, uid: str, now: PodView | None) -> None:
        """Take in how a pod is now."""
        before = self.seen.get(uid)
        if now is None:
            self.seen.pop(uid, None)
        else:
            self.seen[uid] = now
        self._note_static(before, now)
        self._changed(before, now)
        about = now or before
        if about is not None:
            for what in pod_diff.happened(before, now):
                await self._tell(about, what)

    def _note_static(self, before: PodView | None, now: PodView | None) -> None:
        if (
            before is not None
            and before.placed is not None
            and self._static.get(before.placed.static_uid) == before.uid
        ):
            del self._static[before.placed.static_uid]
        if now is not None and now.placed is not None and now.placed.static_uid:
            self._static[now.placed.static_uid] = now.uid
