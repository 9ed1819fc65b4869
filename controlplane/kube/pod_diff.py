"""What happened to a pod, found by comparing how it was with how it is. Pure: no clock, no requests.

A watch may leave out what lay in between, tell a thing twice, or begin in the middle; so nothing is concluded from the kind of
a watch event, only from two states of the pod. A pod that is seen for the first time in the midst of its life gives all that
can still be said of it: whoever gets the news knows what is new (:attr:`woodfrog.protocol.pods.PodEvent.source`).

Why a pod ends is told by Kubernetes 1.26 and later in the condition DisruptionTarget (KEP-3329); before, only the pod's status,
its node and Events give hints.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime
from typing import Final

import msgspec

from controlplane.domain.free_text import word_of
from controlplane.domain.placement import PlacedPod
from controlplane.kube.env_expansion import VARIABLE, checkpoint_ids
from controlplane.kube.jobs.models import JobPod, job_pod
from controlplane.kube.models import ContainerStatus, Pod, Terminated
from controlplane.kube.placement import placed
from woodfrog.protocol.ids import NodeName
from woodfrog.protocol.pods import (
    CheckpointWanted,
    Ended,
    EndedBecause,
    Gone,
    Happened,
    Owner,
    PodEvent,
    ProtectedContainer,
    Scheduled,
    Terminating,
    Why,
)

ANNOTATIONS: Final = "woodfrog.io/"
CHECKPOINT: Final = "woodfrog.io/checkpoint"
"""Annotation: any new value asks for a dump now."""
_LONGEST_TEXT: Final = 1024
_DEFAULT_GRACE_SECONDS: Final = 30

_BY_CONDITION: Final = {
    "PreemptionByScheduler": Why.PREEMPTED,
    "PreemptionByKubeScheduler": Why.PREEMPTED,  # its name in 1.25
    "EvictionByEvictionAPI": Why.EVICTED,
    "DeletionByTaintManager": Why.TAINTED,
    "DeletionByPodGC": Why.COLLECTED,
    "TerminationByKubelet": Why.EVICTED,
}
"""Reasons of DisruptionTarget (core/v1, PodReasonPreemptionByScheduler and others). The kubelet's covers its shutdown, too."""
_BY_STATUS: Final = {
    "Evicted": Why.EVICTED,
    "Preempting": Why.PREEMPTED,  # by the kubelet, for a critical pod
    "NodeShutdown": Why.NODE_SHUTDOWN,
    "Shutdown": Why.NODE_SHUTDOWN,
    "Terminated": Why.NODE_SHUTDOWN,
    "NodeLost": Why.COLLECTED,
}
"""Reasons in a pod's status, set by the kubelet (pkg/kubelet/eviction, nodeshutdown, preemption) or the node controller."""


class PodView(msgspec.Struct, frozen=True, gc=False):
    """All that is kept of a pod with protected containers."""

    namespace: str
    name: str
    uid: str
    resource_version: str
    node: NodeName | None
    owner: Owner | None
    containers: tuple[ProtectedContainer, ...]
    annotations: dict[str, str]
    terminating: Terminating | None
    ended: tuple[Ended, ...]
    job: JobPod | None = None
    """What a Job's pod is to the Job controller."""
    placed: PlacedPod | None = None
    """Where its containers may start."""

    @property
    def has_run(self) -> bool:
        """Whether any of its protected containers was ever created."""
        return any(one.container_id for one in self.containers)


def view(
    pod: Pod, *, runtime_classes: Collection[str], cordoned: Collection[str], variable: str = VARIABLE
) -> PodView | None:
    """Keep what matters of a pod; ``None`` if nothing in it is protected. ``cordoned`` names nodes that take no new pods."""
    if pod.spec.runtime_class_name not in runtime_classes:
        return None
    ids = checkpoint_ids(pod, variable)
    if not ids:
        return None
    meta = pod.metadata
    statuses = {
        each.name: each
        for each in (*(pod.status.container_statuses or ()), *(pod.status.init_container_statuses or ()))
    }
    owner = next((each for each in meta.owner_references or () if each.controller), None)
    return PodView(
        namespace=meta.namespace,
        name=meta.name,
        uid=meta.uid,
        resource_version=meta.resource_version,
        node=None if not pod.spec.node_name else NodeName(pod.spec.node_name),
        owner=None if owner is None else Owner(owner.kind, owner.name, owner.uid),
        containers=tuple(
            ProtectedContainer(name, checkpoint_id, _container_id(statuses.get(name)))
            for name, checkpoint_id in ids.items()
        ),
        annotations={
            name: value[:_LONGEST_TEXT]
            for name, value in (meta.annotations or {}).items()
            if name.startswith(ANNOTATIONS)
        },
        terminating=_terminating(pod, cordoned),
        ended=tuple(_endings(ids, statuses)),
        job=job_pod(pod),
        placed=placed(pod, runtime_classes),
    )


def happened(before: PodView | None, now: PodView | None) -> Iterator[Happened]:
    """Say what happened between two states of one pod; ``None`` is: not seen before, and: not there any more."""
    if now is None:
        if before is not None:
            yield Gone()
        return
    if now.node is not None and (before is None or before.node is None):
        yield Scheduled()
    wanted = now.annotations.get(CHECKPOINT, "")
    # What a pod was created with asks for nothing: there is nothing to dump yet.
    if wanted and (now.has_run if before is None else before.annotations.get(CHECKPOINT, "") != wanted):
        yield CheckpointWanted(value=wanted)
    if now.terminating is not None and (before is None or before.terminating is None):
        yield now.terminating
    known = () if before is None else before.ended
    for ended in now.ended:
        if ended not in known:
            yield ended


def told(seen: PodView, what: Happened, *, cluster: str, at: datetime) -> PodEvent:
    """Put what happened into the words of the contract."""
    return PodEvent(
        version=1,
        cluster=cluster,
        namespace=seen.namespace,
        pod=seen.name,
        uid=seen.uid,
        resource_version=seen.resource_version,
        node=seen.node,
        owner=seen.owner,
        containers=seen.containers,
        annotations=seen.annotations,
        at=at,
        happened=what,
    )


def _terminating(pod: Pod, cordoned: Collection[str]) -> Terminating | None:
    meta, status = pod.metadata, pod.status
    target = next(
        (each for each in status.conditions or () if (each.type, each.status) == ("DisruptionTarget", "True")), None
    )
    by_status = _BY_STATUS.get(status.reason or "")
    if meta.deletion_timestamp is None and target is None and by_status is None:
        return None
    why = by_status or (_BY_CONDITION.get(target.reason or "") if target is not None else None) or Why.DELETED
    if why in {Why.DELETED, Why.EVICTED} and by_status is None and pod.spec.node_name in cordoned:
        why = Why.DRAINED
    grace_seconds = meta.deletion_grace_period_seconds
    if grace_seconds is None:
        grace_seconds = pod.spec.termination_grace_period_seconds
    return Terminating(
        why=why,
        by=_text(status.message or (target.message if target is not None else None) or ""),
        grace_seconds=float(_DEFAULT_GRACE_SECONDS if grace_seconds is None else grace_seconds),
        deadline=meta.deletion_timestamp,
    )


def _endings(ids: dict[str, str], statuses: dict[str, ContainerStatus]) -> Iterator[Ended]:
    for name in ids:
        status = statuses.get(name)
        states = () if status is None else (status.last_state, status.state)
        for state in states:
            if state is not None and state.terminated is not None:
                yield _ended(name, state.terminated)


def _ended(name: str, end: Terminated) -> Ended:
    if end.reason == "OOMKilled":
        because = EndedBecause.OOM_KILLED
    elif end.exit_code == 0:
        because = EndedBecause.COMPLETED
    else:
        because = EndedBecause.ERROR if end.reason in {None, "", "Error"} else EndedBecause.OTHER
    return Ended(
        container=name,
        container_id=_plain(end.container_id),
        because=because,
        exit_code=end.exit_code,
        signal=end.signal or 0,
        detail=word_of(end.reason or ""),  # what the container wrote about it is its own and stays on the pod
    )


def _text(said: str) -> str:
    """Cut what a container may have written (its termination message); PostgreSQL holds no NUL."""
    return said[:_LONGEST_TEXT].replace("\0", "\ufffd")


def _container_id(status: ContainerStatus | None) -> str:
    return "" if status is None else _plain(status.container_id)


def _plain(container_id: str | None) -> str:
    """``containerd://5c1f…`` without the engine's name."""
    return (container_id or "").rpartition("://")[2]
