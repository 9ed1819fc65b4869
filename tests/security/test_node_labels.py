"""Nodes are labelled by the control plane, as their workers come and go, and by no node."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from support.kubeapi import Request, serving, status

from controlplane.domain.state import NodeState
from controlplane.kube.node_conditions import NodeView
from controlplane.kube.node_labels import GRACE_SECONDS, NodeLabels
from woodfrog.cli import helm_hooks
from woodfrog.protocol.ids import NodeName, WorkerId

pytestmark = pytest.mark.timeout(20)

NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)


class Cluster:
    """Two nodes, what is known of their workers, and an API server that takes patches."""

    def __init__(self) -> None:
        self.now = NOON
        self.views = {name: self._view(name) for name in ("a", "b")}
        self.workers: dict[NodeName, NodeState] = {}
        self.patches: list[Any] = []
        self.answer: Any = None
        self.labels: NodeLabels

    @staticmethod
    def _view(name: str, *, labelled: bool = False) -> NodeView:
        return NodeView(name, None, cordoned=False, not_ready=None, labelled=labelled)

    def heard(self, name: str, worker: str = "w1", *, lost: bool = False) -> None:
        self.workers[NodeName(name)] = NodeState(WorkerId(worker), lost=lost, since=self.now)

    def label(self, name: str, *, labelled: bool = True) -> None:
        self.views[name] = self._view(name, labelled=labelled)

    def __call__(self, request: Request) -> Any:
        if self.answer is not None:
            return self.answer
        self.patches.append(request.data["metadata"])
        return {"metadata": {"name": "a"}}

    async def later(self, seconds: float) -> list[Any]:
        """Let time pass and look; return what was patched since the last time."""
        self.now += timedelta(seconds=seconds)
        await self.labels.look()
        done, self.patches = self.patches, []
        return [patch["labels"]["woodfrog.io/ready"] for patch in done]


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    made = Cluster()
    async with serving(made) as api:
        made.labels = NodeLabels(api, made.views, lambda: made.workers, clock=lambda: made.now)
        yield made


async def test_a_worker_that_registers_has_its_node_labelled_once(cluster: Cluster) -> None:
    assert await cluster.later(0) == []
    cluster.heard("a")
    assert await cluster.later(1) == ["true"]
    cluster.label("a")
    assert await cluster.later(1) == []
    cluster.heard("a", "w2")
    assert await cluster.later(1) == [], "it has the label"


async def test_whoever_takes_the_label_away_is_not_contradicted_before_another_worker_registers(
    cluster: Cluster,
) -> None:
    cluster.heard("a")
    assert await cluster.later(1) == ["true"]
    cluster.label("a", labelled=False)
    assert await cluster.later(1) == []
    assert await cluster.later(3600) == []
    cluster.heard("a", "w2")
    assert await cluster.later(1) == ["true"]


async def test_a_lost_worker_costs_its_node_the_label_after_a_while(cluster: Cluster) -> None:
    cluster.heard("a")
    cluster.label("a")
    await cluster.later(100)
    cluster.heard("a", lost=True)
    assert await cluster.later(GRACE_SECONDS - 1) == [], "an update takes so long"
    assert await cluster.later(2) == [None]
    cluster.label("a", labelled=False)
    cluster.heard("a")
    assert await cluster.later(1) == ["true"]


async def test_a_node_of_which_nobody_knows_a_worker_loses_the_label_and_not_at_once(cluster: Cluster) -> None:
    cluster.label("b")
    assert await cluster.later(GRACE_SECONDS - 1) == [], "this control plane has just begun"
    assert await cluster.later(2) == [None]


async def test_an_api_that_does_not_answer_is_asked_again_and_a_node_that_is_gone_is_not(cluster: Cluster) -> None:
    cluster.heard("a")
    cluster.answer = status(500, "InternalError")
    assert not await cluster.labels.look()
    cluster.answer = None
    assert await cluster.later(1) == ["true"]
    cluster.heard("b")
    cluster.answer = status(404, "NotFound")
    assert await cluster.labels.look()
    cluster.answer = None
    assert await cluster.later(1) == []


async def test_uninstalling_takes_the_labels_away_before_the_workers_end(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    class Api:
        async def ask(self, method: str, path: str, answer: type[Any], body: Any = None, /, **query: str) -> Any:
            match method, path:
                case "PATCH", _:
                    assert body == {"metadata": {"labels": {"woodfrog.io/ready": None}}}
                    done.append(f"unlabel {path.removeprefix('/api/v1/nodes/')}")
                    return {}
                case "DELETE", _:
                    done.append(f"delete {path.removeprefix('/apis/apps/v1/namespaces/n/daemonsets/')}")
                    return {}
                case "GET", "/api/v1/nodes":
                    assert query in ({}, {"labelSelector": "woodfrog.io/ready"})
                    names = ["a", "b"] if not query or not done else []
                    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
                    return msgspec.convert(
                        {"items": [{"metadata": {"name": name}, "status": ready} for name in names]}, answer
                    )
                case "GET", "/api/v1/namespaces/n/pods":
                    return msgspec.convert({"items": []}, answer)
                case _:
                    raise AssertionError((method, path))

    @asynccontextmanager
    async def api() -> AsyncIterator[Api]:
        yield Api()

    monkeypatch.setattr(helm_hooks, "kubernetes", api)
    asked = SimpleNamespace(namespace="n", selector="s", daemonset="workers", limit_seconds=5.0, tolerate_failed=False)
    assert await helm_hooks._stop_nodes(asked) == 0  # type: ignore[arg-type]
    assert done == ["unlabel a", "unlabel b", "delete workers"]


def test_no_worker_speaks_to_the_kubernetes_api() -> None:
    code = Path(__file__).parents[2] / "nodeworker"
    assert [path for path in code.rglob("*.py") if "kubernetes.io/serviceaccount" in path.read_text()] == []
