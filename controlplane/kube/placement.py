"""Where Kubernetes has a pod: read off its object, and found when a worker asks about a start in it.

The watch knows most pods by the time their containers are created. What it does not show, or shows otherwise than the worker says,
is asked of the API once more: a watch is late by moments, and a pod whose ids stand in a Secret is not kept by it at all. Such a
question costs the API server one GET, which reads what is stored and not a cache; what it said counts for a few seconds, so that a
worker that asks on and on does not become the API server's load.

An API that does not answer decides nothing: known pods are believed as they were last seen, for no pod is bound while
the API is away; of an unknown one nobody can say where it belongs, and its worker asks again.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection
from http import HTTPStatus
from typing import Final

from controlplane.domain.placement import STATIC_OWNER, PlacedPod, misplaced
from controlplane.kube.api import ApiError, KubernetesApi
from controlplane.kube.env_expansion import checkpoint_ids, ids_elsewhere
from controlplane.kube.models import Pod
from woodfrog.protocol.failures import KUBERNETES_UNREACHABLE, Failure, FailureError
from woodfrog.protocol.ids import NodeName
from woodfrog.protocol.requests import ResolveRequest

_MIRROR: Final = "kubernetes.io/config.mirror"
_HASH: Final = "kubernetes.io/config.hash"
"""Annotations of a static pod's mirror (pkg/kubelet/types): the second is what the kubelet calls the pod itself."""
_TERMINAL: Final = frozenset({"Succeeded", "Failed"})
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_ASK_SECONDS: Final = 2.5
_LISTED_SECONDS: Final = 1.0
"""How long a question waits for the first list of pods, before its pod is asked for by itself."""
_HERE_SECONDS: Final = 5.0
_NOT_HERE_SECONDS: Final = 2.0
_REMEMBERED: Final = 4096
_AT_ONCE: Final = 32
_AT_ONCE_OF_A_NODE: Final = 2

Find = Callable[[str], PlacedPod | None]
"""Shows the pod with a uid, or the static pod that the kubelet calls so, as it was last seen."""


def placed(pod: Pod, runtime_classes: Collection[str]) -> PlacedPod:
    """Keep what matters of a pod for where its containers may start."""
    meta, spec = pod.metadata, pod.spec
    annotations = meta.annotations or {}
    owner = next((each for each in meta.owner_references or () if each.controller), None)
    ids = tuple(dict.fromkeys(checkpoint_ids(pod).values()))
    static = _MIRROR in annotations
    return PlacedPod(
        namespace=meta.namespace,
        name=meta.name,
        uid=meta.uid,
        node=NodeName(spec.node_name) if spec.node_name else None,
        ids=ids,
        may_have_others=spec.runtime_class_name in runtime_classes and (not ids or ids_elsewhere(pod)),
        service_account=spec.service_account_name or "",
        owner_kind=STATIC_OWNER if static else "" if owner is None else owner.kind,
        static_uid=(annotations.get(_HASH) or annotations[_MIRROR]) if static else "",
        deleted=meta.deletion_timestamp is not None,
        over=pod.status.phase in _TERMINAL,
    )


class Placements:
    """Finds the pod of a start."""

    def __init__(
        self,
        api: KubernetesApi,
        find: Find,
        listed: asyncio.Event,
        *,
        runtime_classes: Collection[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``listed`` is set once all pods were seen."""
        self._api = api
        self._find = find
        self._listed = listed
        self._runtime_classes = runtime_classes
        self._clock = clock
        self._said: OrderedDict[tuple[str, str], tuple[float, PlacedPod | None]] = OrderedDict()
        self._asking = asyncio.Semaphore(_AT_ONCE)
        self._of_node: Counter[str] = Counter()
        self.asked = 0
        """How often the API was asked."""

    async def look(self, request: ResolveRequest) -> PlacedPod | None:
        """Find the pod that a start is asked for in; ``None`` if there is none.

        Raises:
            FailureError: ``kubernetes-unreachable``: it cannot be found out now.
        """
        if not self._listed.is_set():
            try:
                async with asyncio.timeout(_LISTED_SECONDS):
                    await self._listed.wait()
            except TimeoutError:
                pass
        container = request.container
        seen = self._find(container.pod_uid) if container.pod_uid else None
        if seen is not None and misplaced(request, seen) is None:
            return seen
        namespace, name = request.key.namespace, container.pod
        if name is None or not _NAME.fullmatch(name) or not _NAME.fullmatch(namespace):
            return seen
        known = self._said.get((namespace, name))
        if known is not None and known[0] > self._clock():
            return known[1]
        found = await self._ask(namespace, name, request.node)
        lasts_seconds = _NOT_HERE_SECONDS if misplaced(request, found) else _HERE_SECONDS
        self._said[namespace, name] = (self._clock() + lasts_seconds, found)
        self._said.move_to_end((namespace, name))
        if len(self._said) > _REMEMBERED:
            self._said.popitem(last=False)
        return found

    async def _ask(self, namespace: str, name: str, node: NodeName) -> PlacedPod | None:
        if self._of_node[node] >= _AT_ONCE_OF_A_NODE:
            raise _unreachable(f"node {node} asks about more than {_AT_ONCE_OF_A_NODE} unknown pods at once")
        self._of_node[node] += 1
        try:
            async with asyncio.timeout(_ASK_SECONDS), self._asking:
                self.asked += 1
                pod = await self._api.ask("GET", f"/api/v1/namespaces/{namespace}/pods/{name}", Pod)
        except ApiError as problem:
            if problem.status == HTTPStatus.NOT_FOUND:
                return None
            raise _unreachable(str(problem)) from problem
        except TimeoutError as problem:
            raise _unreachable(f"no answer within {_ASK_SECONDS:g} s") from problem
        finally:
            self._of_node[node] -= 1
            if not self._of_node[node]:
                del self._of_node[node]
        return placed(pod, self._runtime_classes)


def _unreachable(problem: str) -> FailureError:
    return FailureError(
        Failure(
            KUBERNETES_UNREACHABLE,
            f"the Kubernetes API does not say where the pod is: {problem}",
            "The worker asks again by itself. See whether the API server answers the control plane.",
        )
    )
