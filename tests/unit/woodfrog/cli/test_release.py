"""What the chart's hooks wait for, and what they do not wait for."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.fake_cluster import PlayedCluster
from support.kubeapi import Request, serving, status

from controlplane.kube.api import ApiError
from controlplane.kube.jobs.models import LEDGER
from controlplane.kube.node_conditions import READY
from woodfrog.cli import helm_hooks
from woodfrog.cli.helm_hooks import (
    _Cluster,
    _Pod,
    _remaining_installations,
    _remaining_workers,
    _until_none,
)
from woodfrog.dev_state import Reach

DONE, NOT = True, False


class Nodes:
    """A cluster with nodes that are away, which no test can have of a real one without breaking it for all others."""

    def __init__(
        self, *pods: _Pod, away: set[str] | None = None, wanted: int | None = None, gone: set[str] | None = None
    ) -> None:
        self._pods, self._away, self._gone = list(pods), away or set(), gone or set()
        self._wanted = len(pods) if wanted is None else wanted

    async def pods(self) -> list[_Pod]:
        return self._pods

    async def nodes(self) -> set[str]:
        return {pod.node for pod in self._pods} - self._gone

    async def nodes_away(self) -> set[str]:
        return self._away

    async def wanted_pods(self, daemonset: str) -> int:
        return self._wanted


async def wait(cluster: Any, *, tolerate_failed: bool = False) -> int:
    return await _until_none(
        cluster, lambda away: _remaining_installations(cluster, away, "d"),
        doing="uninstalling", limit_seconds=0.05, tolerate_failed=tolerate_failed,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helm_hooks, "_LOOK_SECONDS", 0.01)


async def test_it_ends_when_every_node_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    assert await wait(Nodes(_Pod("a", DONE, ""), _Pod("b", DONE, ""))) == 0
    assert capsys.readouterr().out == "uninstalling: done\n"


async def test_a_node_that_is_away_is_named_and_not_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert await wait(Nodes(_Pod("a", DONE, ""), _Pod("b", NOT, ""), away={"b"})) == 0
    assert "these nodes are away and were left as they are: b" in capsys.readouterr().out


async def test_a_node_that_no_longer_exists_is_not_waited_for() -> None:
    assert await wait(Nodes(_Pod("a", DONE, ""), _Pod("b", NOT, ""), gone={"b"})) == 0


async def test_a_node_that_fails_is_told_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    cluster = Nodes(_Pod("a", DONE, ""), _Pod("b", NOT, "containerd does not answer"))
    assert await wait(cluster) == 1
    assert "not done in 0.05 s on b (containerd does not answer)" in capsys.readouterr().out
    assert await wait(cluster, tolerate_failed=True) == 0


async def test_pods_that_are_not_made_yet_are_waited_for() -> None:
    assert await wait(Nodes(_Pod("a", DONE, ""), wanted=2)) == 1


async def test_workers_on_nodes_that_are_there_have_to_end() -> None:
    cluster: Any = Nodes(_Pod("a", DONE, ""), _Pod("b", DONE, ""))
    assert await _remaining_workers(cluster, {"b"}) == {"a"}


async def test_an_api_server_that_does_not_answer_is_asked_again(capsys: pytest.CaptureFixture[str]) -> None:
    cluster = Nodes(_Pod("a", DONE, ""))
    answers = iter([ApiError(0, "refused"), ApiError(503, "later")])

    async def nodes_away() -> set[str]:
        for problem in answers:
            raise problem
        return set()

    cluster.nodes_away = nodes_away  # type: ignore[method-assign]
    assert await wait(cluster) == 0
    assert "the API server does not answer: refused" in capsys.readouterr().out


def daemonset_pod(spec: dict[str, Any], **status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "p"}, "spec": spec, "status": status}


async def test_a_pod_says_its_node_before_it_is_scheduled_and_why_it_failed() -> None:
    terms = [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["meant"]}]}]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    ended = {"name": "uninstall", "lastState": {"terminated": {"exitCode": 1, "message": "no\n room"}}}
    pods = [
        daemonset_pod({"affinity": {"nodeAffinity": required}}),
        daemonset_pod({"affinity": {"podAffinity": {}}}),
        daemonset_pod(
            {"nodeName": "n"}, conditions=[{"type": "Ready", "status": "True"}], initContainerStatuses=[ended]
        ),
    ]
    async with serving(lambda _: {"items": pods}) as api:
        found = await _Cluster(api, "woodfrog-system", "app=x").pods()
    assert found == [_Pod("meant", NOT, ""), _Pod("", NOT, ""), _Pod("n", DONE, "no room")]


async def test_nodes_lose_their_label_and_the_workers_go_however_often_that_is_asked() -> None:
    asked: list[Request] = []
    nodes = [
        {"metadata": {"name": "a"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}},
        {"metadata": {"name": "b"}, "status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}},
    ]

    def answer(request: Request) -> Any:
        asked.append(request)
        return {"items": nodes} if request.method == "GET" else status(404, "NotFound")

    async with serving(answer) as api:
        cluster = _Cluster(api, "woodfrog-system", "app=x")
        await cluster.delete_daemonset("woodfrog-node")
        assert (await cluster.nodes(), await cluster.nodes_away()) == ({"a", "b"}, {"b"})
        with pytest.raises(ApiError, match="NotFound"):
            await cluster.take_labels()
    assert asked[0] == Request("DELETE", {"propagationPolicy": "Foreground"}, {})
    assert asked[-1] == Request("PATCH", {}, {"metadata": {"labels": {READY: None}}})


async def test_a_daemonset_that_its_controller_has_not_seen_wants_an_unknown_number_of_pods() -> None:
    seen = {"metadata": {"generation": 2}, "status": {"observedGeneration": 1, "desiredNumberScheduled": 3}}
    async with serving(lambda _: seen) as api:
        cluster = _Cluster(api, "woodfrog-system", "app=x")
        assert await cluster.wanted_pods("woodfrog-uninstall") is None
        seen["status"]["observedGeneration"] = 2
        assert await cluster.wanted_pods("woodfrog-uninstall") == 3


async def test_the_numbers_of_jobs_are_put_back_once_the_control_plane_is_gone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = PlayedCluster()
    job = cluster.create_job({"metadata": {"name": "train"}, "spec": {"backoffLimit": 7, "template": {"spec": {}}}})
    job["metadata"]["annotations"] = {LEDGER: '{"limit":1,"set":7}'}
    job["status"]["failed"] = 4
    left = [_Pod("a", DONE, "")] * 3

    class Pods(Nodes):
        async def pods(self) -> list[_Pod]:
            return [left.pop()] if left else []

    @asynccontextmanager
    async def kubernetes() -> AsyncIterator[PlayedCluster]:
        yield cluster

    monkeypatch.setattr(helm_hooks, "kubernetes", kubernetes)
    monkeypatch.setattr(helm_hooks, "_Cluster", lambda *_: Pods())
    asked = Namespace(namespace="woodfrog-system", selector="x=y", limit_seconds=5.0)
    assert await helm_hooks._give_back_jobs(asked) == 0
    assert (job["spec"]["backoffLimit"], job["metadata"]["annotations"], left) == (5, {}, [])
    assert capsys.readouterr().out == "backoffLimit of Jobs put back: 1\n"
    left += [_Pod("a", DONE, "")] * 1000
    asked.limit_seconds = 0.05
    assert await helm_hooks._give_back_jobs(asked) == 1
    assert "the control plane has not ended" in capsys.readouterr().out


def test_the_installation_is_checked_over_the_connection_that_the_chart_describes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Reach] = []

    def view(reach: Reach, name: str) -> list[dict[str, Any]]:
        asked.append(reach)
        return [{"node": "n", "status": "ready"}]

    monkeypatch.setattr(helm_hooks.ask, "view", view)
    for name, value in {
        "WOODFROG_NATS_URL": "tls://nats:4222",
        "WOODFROG_NATS_SEED_FILE": "/run/operator.seed",
        "WOODFROG_NATS_CA_FILE": "/run/ca.crt",
    }.items():
        monkeypatch.setenv(name, value)
    assert helm_hooks._without_nodes() is None
    (reach,) = asked
    assert (reach.nats_url, reach.seed_file, reach.trust.ca_file) == (
        "tls://nats:4222", Path("/run/operator.seed"), Path("/run/ca.crt"),
    )  # fmt: skip
