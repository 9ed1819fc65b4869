"""What a node's taints and conditions announce: that it ends soon, takes no new pods, or does not answer. Pure.

Every cloud has a taint of its own for "this machine goes away", set by an agent that listens to the cloud's notices. The list
is a setting; what is in it by default was taken from the agents' documentation.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import msgspec

from controlplane.kube.models import Node

ENDING: Final = (
    "node.kubernetes.io/unschedulable",  # kubectl cordon, with which every drain begins
    "node.kubernetes.io/out-of-service",
    "ToBeDeletedByClusterAutoscaler",
    "karpenter.sh/disrupted",
    "karpenter.sh/disruption",
    "aws-node-termination-handler/spot-itn",
    "aws-node-termination-handler/scheduled-maintenance",
    "aws-node-termination-handler/rebalance-recommendation",
    "aws-node-termination-handler/asg-lifecycle-termination",
    "cloud.google.com/impending-node-termination",
    "kubernetes.azure.com/scheduled-event",
    "remediation.medik8s.io/will-be-remediated",
)
"""Taints, and conditions that are true, of a node that is about to be emptied or to end."""


READY: Final = "woodfrog.io/ready"
"""Label of a node whose worker is there; the RuntimeClass selects nodes by it."""


class NodeView(msgspec.Struct, frozen=True, gc=False):
    """All that is kept of a node."""

    name: str
    ending: str | None
    """Which taint or condition announces its end."""
    cordoned: bool
    not_ready: str | None
    """Why it is not ready, as Kubernetes says; ``None`` if it is, or nobody knows."""
    labelled: bool = False
    """Whether it is labelled as ready for protected pods."""


def view(node: Node, ending: Collection[str] = ENDING) -> NodeView:
    """Keep what matters of a node."""
    taints = [taint.key for taint in node.spec.taints or ()]
    true = [each.type for each in node.status.conditions or () if each.status == "True"]
    found = next((name for name in (*taints, *true) if name in ending), None)
    ready = next((each for each in node.status.conditions or () if each.type == "Ready"), None)
    answers = ready is None or ready.status == "True"
    return NodeView(
        name=node.metadata.name,
        labelled=(node.metadata.labels or {}).get(READY) == "true",
        ending=found,
        cordoned=bool(node.spec.unschedulable),
        not_ready=None if answers or ready is None else f"{ready.reason or ready.status}: {ready.message or ''}"[:200],
    )
