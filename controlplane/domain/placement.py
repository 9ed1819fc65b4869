"""Whether a start is asked for where Kubernetes has the pod, and what the API says of that pod.

A worker says itself which container it is about to start, of which pod, namespace and id. On a node that somebody has broken
into that may be anything, and the answer names a snapshot: the memory of whoever had the id before. So with Kubernetes the
API's word is put beside the worker's. A start is answered for a pod that is bound to the asking node, that is not over, and
of which a container has the id; and what is recorded of the pod (name, uid, ServiceAccount, owner) is what the API says.

*Static pods* are the node's own word: the kubelet makes them from files on the node and shows them to the API as mirror pods,
which it may create in any namespace (the admission plugin NodeRestriction asks no more than that they are bound to itself). So
such a pod begins ids of its own and goes on with those, on its node, and never takes over an id that any other pod has had.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec.structs import replace

from controlplane.domain.state import KeyState
from woodfrog.protocol.facts import ContainerFacts
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import NodeName
from woodfrog.protocol.requests import ResolveRequest

STATIC_OWNER: Final = "Node"
"""The kind of a static pod's owner."""
_ADVICE: Final = (
    "The kubelet tries again by itself. If it persists, find out who asks on that node for what does not run there: "
    "docs/how-to/isolate-nodes.md."
)


class PlacedPod(msgspec.Struct, frozen=True, gc=False):
    """What the API says of a pod, as far as it matters for a start."""

    namespace: str
    name: str
    uid: str
    node: NodeName | None
    ids: tuple[str, ...] = ()
    """The checkpoint ids of its containers that can be read off its declaration."""
    may_have_others: bool = False
    """Whether a container has an id that cannot be read there: from a Secret, a ConfigMap or the image."""
    service_account: str = ""
    owner_kind: str = ""
    """The kind of the controller that made it; empty if nobody did."""
    static_uid: str = ""
    """What the kubelet calls a static pod, of which this is the mirror; empty for all others."""
    deleted: bool = False
    """Whether it is being deleted."""
    over: bool = False
    """Whether all of its containers have ended for good."""


class Placement(msgspec.Struct, frozen=True):
    """What the API said when it was asked about the pod of a start; ``pod`` is ``None`` if it knows no such pod."""

    pod: PlacedPod | None
    recorded: bool = True
    """Whether a refusal is to be recorded: one in a row of the same is enough."""


def misplaced(request: ResolveRequest, pod: PlacedPod | None) -> str | None:
    """Say why the request is not about a container that Kubernetes has on the asking node; ``None`` if it is."""
    said = request.container
    if pod is None:
        if said.pod is None:
            return f"the container on node {request.node} belongs to no pod"
        return f"there is no pod {request.key.namespace}/{said.pod}"
    name = f"pod {pod.namespace}/{pod.name}"
    if pod.namespace != request.key.namespace:
        return f"{name} is not in namespace {request.key.namespace}"
    if said.pod not in {None, pod.name} or said.pod_uid not in {None, pod.uid, pod.static_uid or None}:
        return f"{name} has another uid or name than node {request.node} says"
    if pod.node != request.node:
        return f"{name} is on {'no node yet' if pod.node is None else f'node {pod.node}'}, not on node {request.node}"
    if pod.deleted or pod.over:
        return f"{name} {'has ended' if pod.over else 'is being deleted'}"
    if request.key.id not in pod.ids and not pod.may_have_others:
        return f"no container of {name} has the id {request.key.id}; they have {', '.join(pod.ids)}"
    return None


def not_its_own(key: KeyState, request: ResolveRequest, pod: PlacedPod) -> str | None:
    """Say why a static pod may not go on under this id; ``None`` if it may, or is none."""
    if not pod.static_uid or not is_others(key, request.node):
        return None
    return f"pod {pod.namespace}/{pod.name} is a static pod of node {request.node}, and the id was another pod's before"


def is_others(key: KeyState, node: NodeName | None) -> bool:
    """Say whether a key was another pod's than a static one of ``node``; then what such a pod says of it means nothing.

    Of a start from before owners were recorded, it is enough that it was on that node.
    """
    before = key.current
    if before is None:
        return False
    return before.node != node or before.container.owner_kind not in {None, STATIC_OWNER}


def identified(container: ContainerFacts, pod: PlacedPod) -> ContainerFacts:
    """Put what the API says of the pod in the place of what the worker says."""
    return replace(
        container, pod=pod.name, pod_uid=pod.uid, service_account=pod.service_account, owner_kind=pod.owner_kind
    )


def not_here(problem: str) -> Failure:
    """Word the refusal."""
    return Failure("pod-not-here", problem, _ADVICE)
