"""What happens to pods, as the PODS stream tells it: a public contract, for whoever makes pods in a way of their own as well.

A cluster's watcher publishes these, and anything else may: a scheduler that starts containers without Kubernetes, a test, a
simulator. What is decided from them is never more than a reason to wait a little or to dump a little earlier; that a container
runs, has ended or was dumped is believed of its node's worker alone.

A message is about one pod and one thing that happened to it. It must be complete and of this version, or it is refused;
fields that a newer writer added are ignored. ``docs/reference/pod-events.md`` says the same for people.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Literal

import msgspec

from woodfrog.protocol.ids import CheckpointKey, NodeName

POD_EVENT_VERSION = 1


class Why(StrEnum):
    """Why a pod was asked to end."""

    DELETED = "deleted"
    """Somebody, or the controller that owns it, deleted it."""
    EVICTED = "evicted"
    """The eviction API, or the kubelet for want of memory or disk."""
    PREEMPTED = "preempted"
    """The scheduler wanted its place for a pod of higher priority."""
    DRAINED = "drained"
    """Evicted or deleted from a node that takes no new pods."""
    TAINTED = "tainted"
    """It does not tolerate a taint of its node."""
    NODE_SHUTDOWN = "node-shutdown"
    """The node shuts down in an orderly way."""
    COLLECTED = "collected"
    """Its node is gone, or it was forgotten: the control plane of Kubernetes cleaned up."""


class EndedBecause(StrEnum):
    """Why a container ended."""

    COMPLETED = "completed"
    """Exit code 0."""
    ERROR = "error"
    OOM_KILLED = "oom-killed"
    OTHER = "other"


class _Happened(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type", kw_only=True):
    pass


class Scheduled(_Happened, frozen=True, tag="scheduled"):
    """The pod has its node, and its containers will be created there soon."""


class Terminating(_Happened, frozen=True, tag="terminating"):
    """The pod was asked to end; its containers get their stop signal about now, unless a preStop hook comes first."""

    why: Why
    by: str = ""
    """Who wanted it, as far as that is known: for a preemption the pod that takes the place."""
    grace_seconds: float = 30.0
    """How long its containers may take to end."""
    deadline: datetime | None = None
    """When that time is up, by the clock of whoever set it."""


class Ended(_Happened, frozen=True, tag="container-ended"):
    """One of the pod's protected containers has ended, as its node's kubelet says."""

    container: str
    because: EndedBecause
    exit_code: int
    container_id: str = ""
    """The container engine's id of the one that ended; the pod may have another by that name already."""
    signal: int = 0
    detail: str = ""
    """The kubelet's own word, such as ``OOMKilled``, and its message."""


class Gone(_Happened, frozen=True, tag="deleted"):
    """The pod is not in the API any more. Its containers have ended, unless it was deleted by force."""


class CheckpointWanted(_Happened, frozen=True, tag="checkpoint-wanted"):
    """The pod's annotation ``woodfrog.io/checkpoint`` has this value now: dump its protected containers."""

    value: str


class NodeNotReady(_Happened, frozen=True, tag="node-not-ready"):
    """The pod's node does not answer Kubernetes, or says that it is not well."""

    detail: str = ""


class NodeGone(_Happened, frozen=True, tag="node-gone"):
    """The pod's node was taken out of the cluster."""


Happened = Scheduled | Terminating | Ended | Gone | CheckpointWanted | NodeNotReady | NodeGone
"""Everything that may be told of a pod."""


class Owner(msgspec.Struct, frozen=True):
    """The controller that made the pod and may make its replacement."""

    kind: str
    name: str
    uid: str


class ProtectedContainer(msgspec.Struct, frozen=True, omit_defaults=True):
    """A container with a checkpoint id."""

    name: str
    checkpoint_id: str
    container_id: str = ""
    """The container engine's id of it, once it has one, without the engine's name before."""


class PodEvent(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One thing that happened to one pod that has protected containers."""

    version: Literal[1]
    cluster: str
    namespace: str
    pod: str
    uid: str
    resource_version: str = ""
    """Of the pod as it was then; only to be compared for being the same."""
    node: NodeName | None = None
    owner: Owner | None = None
    containers: tuple[ProtectedContainer, ...]
    annotations: dict[str, str] = {}
    """Those of the pod that begin with ``woodfrog.io/``."""
    at: datetime
    """When it was noticed, by the clock of whoever tells."""
    happened: Happened

    def keys(self) -> dict[str, CheckpointKey]:
        """Name the checkpoint key of each container.

        Raises:
            InvalidIdError: naming the id that may not be one.
        """
        return {
            one.name: CheckpointKey.checked(self.cluster, self.namespace, one.checkpoint_id) for one in self.containers
        }

    @property
    def source(self) -> str:
        """Name what happened, the same whoever notices it and however often: a pod is told to end only once."""
        match self.happened:
            case Ended(container=container, container_id=container_id):
                detail = f"{container}/{container_id}"
            case CheckpointWanted(value=value):
                detail = value
            case NodeNotReady():
                detail = self.resource_version
            case _:
                detail = ""
        return f"pod/{self.uid}/{kind_of(self.happened)}/{detail}"

    @property
    def message_id(self) -> str:
        """What the broker knows repetitions by."""
        return f"{self.uid}/{self.resource_version}/{self.source.split('/', 2)[2]}"


def kind_of(happened: Happened) -> str:
    """Name the kind of what happened, as it stands in ``happened.type``."""
    tag = happened.__struct_config__.tag
    assert isinstance(tag, str)
    return tag
