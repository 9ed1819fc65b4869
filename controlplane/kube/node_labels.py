"""The label by which the RuntimeClass selects nodes: set here, for a worker that registered and lives, and by nobody on the nodes.

A right to change nodes cannot be limited to one's own node in RBAC. Whoever holds it on one node could relabel and untaint all
others, and so draw any pod to itself or empty the cluster; therefore workers have no rights at the Kubernetes API at all. A
worker registers only after its node's self-test succeeded (``woodfrog-node run``), so what it registers with is the outcome.

The label is changed when something happens to a node's worker: it registered, came back, or was lost for a while. It is not
insisted upon in between, so that whoever uninstalls, or wants no new pods on a node, may take it away. A worker that is
restarted by an update is silent for less than that while and keeps it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime
from http import HTTPStatus
from typing import Final

import structlog

from controlplane.domain.state import NodeState
from controlplane.kube.api import ApiError, KubernetesApi
from controlplane.kube.models import Node
from controlplane.kube.node_conditions import READY, NodeView
from woodfrog.protocol.ids import NodeName, WorkerId

_log = structlog.get_logger(component="node-labels")

GRACE_SECONDS: Final = 60.0
"""How long a worker may be lost, or unknown to a control plane that has just begun, before its node's label goes."""
_LOOK_SECONDS: Final = 1.0
_RETRY_SECONDS: Final = 5.0

_Seen = tuple[WorkerId | None, datetime | None, bool]
"""A worker, since when it is as it is, and whether its node should have the label."""


class NodeLabels:
    """Keeps the labels of one cluster's nodes, while this process leads."""

    def __init__(
        self,
        api: KubernetesApi,
        views: Mapping[str, NodeView],
        nodes: Callable[[], Mapping[NodeName, NodeState]],
        *,
        clock: Callable[[], datetime],
    ) -> None:
        """``views`` is live: the nodes that Kubernetes has. ``nodes`` shows what is known of workers, as last decided."""
        self._api = api
        self._views = views
        self._nodes = nodes
        self._clock = clock
        self._began = clock()
        self._settled: dict[str, _Seen] = {}
        self.changed = 0
        """How many labels were set or taken away."""

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            done = await self.look()
            await asyncio.sleep(_LOOK_SECONDS if done else _RETRY_SECONDS)

    async def look(self) -> bool:
        """Change what has to be changed; return whether the API let all of it be done."""
        done = True
        known = self._nodes()
        for gone in self._settled.keys() - self._views.keys():
            del self._settled[gone]
        for name, view in list(self._views.items()):
            seen = self._wanted(known.get(NodeName(name)))
            if seen is None or self._settled.get(name) == seen:
                continue
            if view.labelled != seen[2] and not await self._label(name, ready=seen[2]):
                done = False
                continue
            self._settled[name] = seen
        return done

    def _wanted(self, node: NodeState | None) -> _Seen | None:
        """Return whether a node should have the label; ``None`` if it may be either way for now."""
        if node is not None and not node.lost:
            return node.worker_id, node.since, True
        since = self._began if node is None or node.since is None else max(node.since, self._began)
        if (self._clock() - since).total_seconds() < GRACE_SECONDS:
            return None
        return None if node is None else node.worker_id, None if node is None else node.since, False

    async def _label(self, node: str, *, ready: bool) -> bool:
        patch = {"metadata": {"labels": {READY: "true" if ready else None}}}
        try:
            await self._api.ask("PATCH", f"/api/v1/nodes/{node}", Node, patch)
        except ApiError as problem:
            if problem.status == HTTPStatus.NOT_FOUND:
                return True
            await _log.awarning("a node's label cannot be changed", node=node, ready=ready, error=str(problem))
            return False
        self.changed += 1
        await _log.ainfo("a node's label was changed", node=node, ready=ready)
        return True
