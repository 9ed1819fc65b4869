"""``python -m woodfrog.cli.helm_hooks``: what the Helm chart's hooks and its test do inside of the cluster.

A release goes in an order that Helm alone cannot keep: first no node is ready for protected pods any more and the workers end, then every node is put back as it was, and only then the
rest goes. The chart's hooks are a Job that ends the workers (``stop-nodes``), a DaemonSet that uninstalls on every node, and a Job
that waits for it (``await-uninstalled``). Neither waits for a node that is away: nothing can be put back there now, and it is named.
At the very end, when no control plane is left to keep them ahead, the ``backoffLimit`` of Jobs are put back (``give-back-jobs``).

Exit codes: 0 done, 1 not done in time (what is missing is said), 2 it was asked for wrongly.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from os import environ
from typing import Any, Final, NamedTuple

import msgspec

from controlplane.kube.api import ApiError, KubernetesApi, kubernetes
from controlplane.kube.jobs.actions import JobActions
from controlplane.kube.jobs.limit_reset import give_back
from controlplane.kube.models import Node, NodeStatus, PodStatus
from controlplane.kube.node_conditions import READY
from controlplane.log.records import utc_now
from woodfrog import client as ask
from woodfrog.cli.context import reach_of
from woodfrog.protocol.failures import FailureError

_LOOK_SECONDS: Final = 1.0
_REQUEST_SECONDS: Final = 10.0
_REPORT_SECONDS: Final = 15.0
_LONGEST_COMPLAINT: Final = 300
_NODES: Final = "/api/v1/nodes"


class _Pod(NamedTuple):
    """One pod of a DaemonSet: on which node, whether it is ready, and what its last failed attempt said."""

    node: str
    ready: bool
    complaint: str


class _PodSpec(msgspec.Struct, rename="camel"):
    node_name: str | None = None
    affinity: Any = None


class _PodObject(msgspec.Struct):
    spec: _PodSpec
    status: PodStatus = PodStatus()


class _Pods(msgspec.Struct):
    items: list[_PodObject]


class _Nodes(msgspec.Struct):
    items: list[Node]


class _Generation(msgspec.Struct, rename="camel"):
    generation: int = 1


class _DaemonSetStatus(msgspec.Struct, rename="camel"):
    desired_number_scheduled: int = 0
    observed_generation: int = 0


class _DaemonSet(msgspec.Struct):
    metadata: _Generation
    status: _DaemonSetStatus


class _Cluster:
    """The few questions that the hooks have to the API server."""

    def __init__(self, api: KubernetesApi, namespace: str, selector: str) -> None:
        self._api = api
        self._daemonsets = f"/apis/apps/v1/namespaces/{namespace}/daemonsets"
        self._pods = f"/api/v1/namespaces/{namespace}/pods"
        self._selector = selector

    async def delete_daemonset(self, name: str) -> None:
        """Delete it with its pods; nothing if it is not there."""
        try:
            await self._api.ask("DELETE", f"{self._daemonsets}/{name}", dict, propagationPolicy="Foreground")
        except ApiError as problem:
            if problem.status != HTTPStatus.NOT_FOUND:
                raise

    async def wanted_pods(self, daemonset: str) -> int | None:
        """Return how many nodes shall have a pod; ``None`` until the controller has seen the DaemonSet."""
        found = await self._api.ask("GET", f"{self._daemonsets}/{daemonset}", _DaemonSet)
        if found.status.observed_generation < found.metadata.generation:
            return None
        return found.status.desired_number_scheduled

    async def pods(self) -> list[_Pod]:
        """List the pods."""
        found = await self._api.ask("GET", self._pods, _Pods, labelSelector=self._selector)
        return [_Pod(_node_of(pod), _is(pod.status, "Ready"), _complaint(pod.status)) for pod in found.items]

    async def nodes_away(self) -> set[str]:
        """Name the nodes that are not ready."""
        found = await self._api.ask("GET", _NODES, _Nodes)
        return {node.metadata.name for node in found.items if not _is(node.status, "Ready")}

    async def take_labels(self) -> None:
        """Take the label away by which the RuntimeClass selects nodes; the control plane sets it for new workers only."""
        found = await self._api.ask("GET", _NODES, _Nodes, labelSelector=READY)
        for node in found.items:
            patch = {"metadata": {"labels": {READY: None}}}
            await self._api.ask("PATCH", f"{_NODES}/{node.metadata.name}", dict, patch)

    async def nodes(self) -> set[str]:
        """Name all nodes."""
        found = await self._api.ask("GET", _NODES, _Nodes)
        return {node.metadata.name for node in found.items}


def _is(status: NodeStatus | PodStatus, condition: str) -> bool:
    return any(each.type == condition and each.status == "True" for each in status.conditions or ())


def _node_of(pod: _PodObject) -> str:
    """Name a pod's node: a DaemonSet's pod that is not scheduled yet says in its affinity where it is meant for."""
    if pod.spec.node_name:
        return pod.spec.node_name
    try:
        terms = pod.spec.affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        return str(terms[0]["matchFields"][0]["values"][0])
    except (KeyError, IndexError, TypeError):
        return ""


def _complaint(status: PodStatus) -> str:
    for container in status.init_container_statuses or ():
        for state in (container.state, container.last_state):
            ended = state.terminated if state else None
            if ended and ended.exit_code:
                return " ".join(str(ended.message or f"exit code {ended.exit_code}").split())[-_LONGEST_COMPLAINT:]
    return ""


async def _remaining_workers(cluster: _Cluster, away: set[str]) -> set[str]:
    existing = await cluster.nodes()
    return {pod.node for pod in await cluster.pods() if pod.node in existing - away}


async def _remaining_installations(cluster: _Cluster, away: set[str], daemonset: str) -> set[str]:
    wanted = await cluster.wanted_pods(daemonset)
    pods = await cluster.pods()
    existing = await cluster.nodes()
    remaining = {
        f"{pod.node} ({pod.complaint})" if pod.complaint else pod.node
        for pod in pods
        if not pod.ready and pod.node in existing - away
    }
    if wanted is None or len(pods) < wanted:
        remaining.add("(pods that are not made yet)")
    return remaining


async def _until_none(
    cluster: _Cluster,
    remaining: Callable[[set[str]], Awaitable[set[str]]],
    *,
    doing: str,
    limit_seconds: float,
    tolerate_failed: bool,
) -> int:
    """Wait until nothing remains on any node that is ready. An API server that does not answer is asked again."""
    deadline = time.monotonic() + limit_seconds
    told_at = 0.0
    left: set[str] | None = None
    away: set[str] = set()
    while time.monotonic() < deadline:
        try:
            away = await cluster.nodes_away()
            left = await remaining(away)
        except ApiError as problem:
            _say(f"{doing}: the API server does not answer: {problem}")
        else:
            if not left:
                break
            if time.monotonic() - told_at > _REPORT_SECONDS:
                told_at = time.monotonic()
                _say(f"{doing}: waiting for {', '.join(sorted(left))}")
        await asyncio.sleep(_LOOK_SECONDS)
    if away:
        _say(f"{doing}: these nodes are away and were left as they are: {', '.join(sorted(away))}")
    if left is None or left:
        _say(f"{doing}: not done in {limit_seconds:g} s on {', '.join(sorted(left or {'any node'}))}")
        return 0 if tolerate_failed else 1
    _say(f"{doing}: done")
    return 0


async def _stop_nodes(asked: argparse.Namespace) -> int:
    async with kubernetes() as api:
        cluster = _Cluster(api, asked.namespace, asked.selector)

        async def remaining(away: set[str]) -> set[str]:
            await cluster.take_labels()
            await cluster.delete_daemonset(asked.daemonset)
            return await _remaining_workers(cluster, away)

        return await _until_none(
            cluster,
            remaining,
            doing="ending the node workers",
            limit_seconds=asked.limit_seconds,
            tolerate_failed=asked.tolerate_failed,
        )


async def _await_uninstalled(asked: argparse.Namespace) -> int:
    async with kubernetes() as api:
        cluster = _Cluster(api, asked.namespace, asked.selector)
        return await _until_none(
            cluster,
            lambda away: _remaining_installations(cluster, away, asked.daemonset),
            doing="uninstalling",
            limit_seconds=asked.limit_seconds,
            tolerate_failed=asked.tolerate_failed,
        )


async def _give_back_jobs(asked: argparse.Namespace) -> int:
    """Wait until the control plane's pods are gone, and put the users' ``backoffLimit`` back."""
    deadline = time.monotonic() + asked.limit_seconds
    problem: object = "the control plane has not ended"
    async with kubernetes() as api:
        cluster = _Cluster(api, asked.namespace, asked.selector)
        actions = JobActions(api, runtime_classes=(), instance="uninstall", clock=utc_now)
        while time.monotonic() < deadline:
            try:
                if not await cluster.pods():
                    _say(f"backoffLimit of Jobs put back: {await give_back(api, actions)}")
                    return 0
            except ApiError as failed:
                problem = failed
            await asyncio.sleep(_LOOK_SECONDS)
    _say(f"backoffLimit of Jobs not put back in {asked.limit_seconds:g} s: {problem}")
    return 1


def _check(asked: argparse.Namespace) -> int:
    """Make sure that the control plane is ready and has heard of a node, and show the nodes."""
    deadline = time.monotonic() + asked.limit_seconds
    while True:
        problem = _unready(asked.ready_url) or _without_nodes()
        if problem is None:
            return 0
        if time.monotonic() > deadline:
            _say(problem)
            return 1
        time.sleep(_LOOK_SECONDS)


def _unready(url: str) -> str | None:
    try:
        with urllib.request.urlopen(url, timeout=_REQUEST_SECONDS):  # noqa: S310 - the chart names it
            return None
    except urllib.error.HTTPError as refusal:
        with refusal:
            return f"{url} says: {refusal.read().decode(errors='replace').strip()}"
    except OSError as problem:
        return f"{url} does not answer: {problem}"


def _without_nodes() -> str | None:
    try:
        nodes = ask.view(reach_of(None, environ), "nodes")
    except FailureError as problem:
        return str(problem)
    for node in nodes:
        _say(" ".join(f"{name}={node[name]}" for name in ("node", "status", "worker_id") if name in node))
    return None if nodes else "the control plane is ready, but no node worker has registered"


def main() -> int:
    """Do what is asked; answer the exit code."""
    parser = argparse.ArgumentParser(prog="python -m woodfrog.cli.helm_hooks", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("stop-nodes", "await-uninstalled", "give-back-jobs", "check"):
        arguments = verbs.add_parser(verb)
        arguments.add_argument("--limit-seconds", type=float, default=120.0)
        if verb == "check":
            arguments.add_argument("--ready-url", required=True)
            continue
        arguments.add_argument("--namespace", required=True)
        arguments.add_argument("--selector", required=True)
        if verb == "give-back-jobs":
            continue
        arguments.add_argument("--daemonset", required=True)
        arguments.add_argument("--tolerate-failed", action="store_true", help="end well with nodes not done")
    asked = parser.parse_args()
    if asked.verb == "check":
        return _check(asked)
    doing = {"stop-nodes": _stop_nodes, "await-uninstalled": _await_uninstalled, "give-back-jobs": _give_back_jobs}
    return asyncio.run(doing[asked.verb](asked))


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
