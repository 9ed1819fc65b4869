"""A node gets snapshots for the pods that Kubernetes has there, and for no others, whatever its worker says."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web
from msgspec.structs import replace
from support.kubeapi import Request, serving, status
from support.pods import CLASSES, Object, pod, read, seen, with_env
from support.world import ANY_NODE, KEY, World, stored_event

from controlplane.bus.refusal_limit import RefusalBudget
from controlplane.domain import PodSeen, ResolveAsked, SnapshotStatus
from controlplane.domain.placement import PlacedPod, Placement, misplaced
from controlplane.kube.api import KubernetesApi
from controlplane.kube.object_cache import PodCache
from controlplane.kube.placement import Placements, placed
from woodfrog.protocol.events import Event
from woodfrog.protocol.facts import ContainerFacts
from woodfrog.protocol.failures import KUBERNETES_UNREACHABLE, FailureError
from woodfrog.protocol.ids import CheckpointKey, ContainerId, NodeName, SnapshotId, WorkerId
from woodfrog.protocol.pods import CheckpointWanted, Owner, PodEvent, ProtectedContainer, Scheduled, Terminating, Why
from woodfrog.protocol.requests import Refusal, Resolution, ResolveRequest, RestoreFrom

pytestmark = pytest.mark.timeout(20)

A = NodeName("a")
MINE = PlacedPod("default", "train-1", "u1", A, ids=("trainer",), service_account="trainer", owner_kind="Job")


def request(node: str = "a", *, key: CheckpointKey = KEY, container_id: str = "c1", **said: Any) -> ResolveRequest:
    facts = ContainerFacts(**{"image": "db:1", "pod": "train-1", "pod_uid": "u1"} | said)
    return ResolveRequest(
        key, ContainerId(container_id), NodeName(node), WorkerId(f"worker-{node}"), ANY_NODE, facts, 0
    )


def asked(world: World, of: ResolveRequest, found: PlacedPod | None, **how: Any) -> tuple[Any, tuple[Event, ...]]:
    decision = world.give(ResolveAsked(of, world.source(), Placement(found, **how)))
    return decision.answer, decision.events


def refused(answer: Resolution) -> str:
    assert isinstance(answer, Refusal), answer
    assert answer.failure.code == "pod-not-here"
    return answer.failure.cause


@pytest.mark.parametrize(
    ("found", "node", "said", "cause"),
    [
        (None, "a", {}, "there is no pod default/train-1"),
        (None, "a", {"pod": None, "pod_uid": None}, "belongs to no pod"),
        (MINE, "b", {}, "is on node a, not on node b"),
        (replace(MINE, node=None), "a", {}, "is on no node yet"),
        (replace(MINE, namespace="other"), "a", {}, "is not in namespace default"),
        (MINE, "a", {"pod_uid": "u2"}, "another uid or name"),
        (MINE, "a", {"pod": "train-2"}, "another uid or name"),
        (replace(MINE, deleted=True), "a", {}, "is being deleted"),
        (replace(MINE, over=True), "a", {}, "has ended"),
        (replace(MINE, ids=("web", "cache")), "a", {}, "has the id trainer; they have web, cache"),
    ],
)
def test_a_start_is_answered_only_where_kubernetes_has_the_pod(
    found: PlacedPod | None, node: str, said: dict[str, Any], cause: str
) -> None:
    world = World("a", "b")
    answer, events = asked(world, request(node, **said), found)
    assert cause in refused(answer)
    assert [type(event).__name__ for event in events] == ["StartRefused"]
    assert KEY not in world.state.keys, "a name that a node makes up takes no memory"


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (MINE, {}),
        (MINE, {"pod_uid": None}),
        (replace(MINE, ids=("web",), may_have_others=True), {}),
        (replace(MINE, uid="mirror", static_uid="u1", owner_kind="Node"), {}),
    ],
    ids=["known", "an engine that tells no uid", "an id out of a Secret", "a static pod"],
)
def test_what_is_recorded_of_a_pod_is_the_apis_word(found: PlacedPod, said: dict[str, Any]) -> None:
    world = World("a")
    answer, _ = asked(world, request(**said), found)
    opened = world.opened(answer.incarnation).container
    assert (opened.pod, opened.pod_uid) == ("train-1", found.uid)
    assert (opened.service_account, opened.owner_kind) == ("trainer", found.owner_kind)
    world.started(1)
    world.stored(1, "s1", taken_from=ContainerFacts(image="db:1", pod="forged", service_account="admin"))
    kept = world.key.snapshots[SnapshotId("s1")].taken_from
    assert (kept.pod, kept.service_account, kept.image) == ("train-1", "trainer", "db:1")


def test_a_node_that_lies_takes_no_id_over_and_feeds_no_other_node() -> None:
    world = World("a", "b", "c")
    victim, replacement = MINE, replace(MINE, uid="u2", name="train-2", node=NodeName("c"))
    first, _ = asked(world, request("a"), victim)
    world.started(first.incarnation)
    world.snapshot(1, "s1")
    for said in ({}, {"pod": "nobody", "pod_uid": "no-such-pod"}):
        answer, _ = asked(world, request("b", container_id="x", **said), victim if not said else None)
        refused(answer)
    about = {"key": KEY, "snapshot_id": SnapshotId("evil"), "node": NodeName("b")}
    for number in (1, 2):
        told = world.report(stored_event(**about, incarnation=number), node="b")
        assert told.rejected is not None
    world.dump(1, "s2", final=True)
    world.captured(1, "s2")
    world.stored(1, "s2")
    world.ended(1)
    assert world.key.snapshots[SnapshotId("s2")].status is SnapshotStatus.VALID
    answer, _ = asked(world, request("c", container_id="cc", pod="train-2", pod_uid="u2"), replacement)
    assert isinstance(answer, RestoreFrom)
    assert answer.snapshot_id == "s2"


def test_a_static_pod_goes_on_with_its_own_and_never_takes_an_id_over() -> None:
    """A kubelet may show the API a mirror pod in any namespace, so one that was broken into may, too."""
    world = World("a", "b")
    static = replace(MINE, uid="mirror", static_uid="u1", owner_kind="Node")
    answer, _ = asked(world, request(container_id="c1"), static)
    world.started(answer.incarnation)
    world.snapshot(1, "s1")
    world.ended(1)
    again, _ = asked(world, request(container_id="c2"), static)
    assert getattr(again, "snapshot_id", None) == "s1"
    elsewhere, _ = asked(world, request("b", container_id="c3"), replace(static, node=NodeName("b")))
    assert "a static pod of node b" in refused(elsewhere)
    of_a_job = World("a", "b")
    answer, _ = asked(of_a_job, request(container_id="c1"), MINE)
    taken, _ = asked(of_a_job, request("b", container_id="x"), replace(static, node=NodeName("b")))
    assert "a static pod of node b" in refused(taken)
    assert of_a_job.key.newest == answer.incarnation


def test_a_static_pod_from_before_owners_were_recorded_goes_on_where_it_was() -> None:
    static = replace(MINE, uid="mirror", static_uid="u1", owner_kind="Node")
    for node, may in (("a", True), ("b", False)):
        world = World("a", "b")
        world.run("c1", "a")
        world.snapshot(1, "s1", final=True)
        world.ended(1)
        answer, _ = asked(world, request(node, container_id="c2"), replace(static, node=NodeName(node)))
        assert isinstance(answer, RestoreFrom) == may


@pytest.mark.parametrize(
    "happened",
    [Scheduled(), CheckpointWanted(value="now"), Terminating(why=Why.DELETED)],
    ids=lambda each: type(each).__name__,
)
def test_what_a_static_pod_is_seen_to_do_says_nothing_about_an_id_of_other_pods(happened: Any) -> None:
    """A mirror pod would else have its node lay the snapshot ready, or have the container dumped where it really runs."""
    world = World("a", "b")
    answer, _ = asked(world, request(container_id="c1"), MINE)
    world.started(answer.incarnation)
    world.snapshot(1, "s1")

    def seen_of(kind: str) -> PodEvent:
        return PodEvent(
            version=1,
            cluster=KEY.cluster,
            namespace=KEY.namespace,
            pod="p",
            uid=f"u-{kind}",
            node=NodeName("b"),
            owner=Owner(kind, "o", "o1"),
            containers=(ProtectedContainer("main", KEY.id),),
            at=world.now,
            happened=happened,
        )

    assert world.give(PodSeen(seen_of("Node"))).events == ()
    assert world.give(PodSeen(seen_of("Job"))).events


def test_the_same_refusal_is_recorded_once_and_a_node_fills_no_log() -> None:
    now = [0.0]
    budget = RefusalBudget(lambda: now[0])
    keys = [CheckpointKey("lab", "default", f"id-{number}") for number in range(100)]
    assert [budget.take(A, keys[0]) for _ in range(3)] == [True, False, False]
    assert sum(budget.take(A, key) for key in keys) == 19
    assert budget.take(NodeName("b"), keys[0])
    now[0] = 600.0
    assert budget.take(A, keys[0])
    world = World("a")
    answer, events = asked(world, request(), None, recorded=False)
    refused(answer)
    assert events == ()


def of_node(written: Object, node: str = "a") -> PlacedPod:
    written["spec"]["nodeName"] = node
    return placed(read(written), CLASSES)


def test_a_pod_is_read_as_the_api_gives_it() -> None:
    owner = {"kind": "Job", "name": "train", "uid": "j1", "controller": True}
    found = of_node(pod(meta={"ownerReferences": [owner]}, status={"phase": "Running"}))
    assert (found.node, found.ids, found.owner_kind, found.may_have_others) == ("a", ("trainer",), "Job", False)
    assert of_node(pod(status={"phase": "Failed"})).over
    assert of_node(pod(meta={"deletionTimestamp": "2026-11-23T12:00:00Z"})).deleted
    mirror = {"kubernetes.io/config.mirror": "h1", "kubernetes.io/config.hash": "h1"}
    static = of_node(pod(meta={"annotations": mirror, "ownerReferences": [owner]}))
    assert (static.static_uid, static.owner_kind) == ("h1", "Node")


@pytest.mark.parametrize(
    ("container", "may"),
    [
        ({"env": [{"name": "CEDANA_CHECKPOINT", "value": "x"}]}, False),
        ({"env": [{"name": "CEDANA_CHECKPOINT", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}, True),
        ({"envFrom": [{"configMapRef": {"name": "c"}}]}, True),
        ({}, False),
    ],
)
def test_an_id_that_the_declaration_does_not_hold_is_known_as_such(container: Object, may: bool) -> None:
    main = {"name": "main", "env": [{"name": "CEDANA_CHECKPOINT", "value": "trainer"}]}
    spec = {"containers": [main, {"name": "other", **container}]}
    assert of_node(pod(spec=spec)).may_have_others == may
    assert not of_node(pod(spec=spec | {"runtimeClassName": "runc"})).may_have_others


def test_an_id_that_only_the_image_may_hold_is_known_as_such() -> None:
    assert of_node(with_env()).may_have_others


class Api:
    """Pods by their path; counts what is asked."""

    def __init__(self, *pods: Object) -> None:
        self.pods = {one["metadata"]["name"]: one for one in pods}
        self.asked: list[str] = []
        self.answer: Any = None

    def __call__(self, raw: Request) -> Any:
        self.asked.append(raw.method)
        if self.answer is not None:
            return self.answer
        if not self.pods:
            return status(404, "NotFound")
        return next(iter(self.pods.values()))


def placements(api: KubernetesApi, *watched: PlacedPod, listed: bool = True, clock: Any = None) -> Placements:
    by_uid = {each.static_uid or each.uid: each for each in watched}
    known = asyncio.Event()
    if listed:
        known.set()
    extra = {} if clock is None else {"clock": clock}
    return Placements(api, by_uid.get, known, runtime_classes=CLASSES, **extra)


def on_node(node: str, **changes: Any) -> Object:
    written = pod(**changes)
    written["spec"]["nodeName"] = node
    return written


async def test_a_pod_that_the_watch_shows_costs_no_question() -> None:
    api = Api()
    async with serving(api) as client:
        found = placements(client, MINE)
        assert await found.look(request()) is MINE
        assert api.asked == []


async def test_a_watch_that_is_behind_is_asked_past() -> None:
    """It has not shown the pod, or not its node yet; that somebody else's pod is elsewhere is asked once as well."""
    api = Api(on_node("a"))
    async with serving(api) as client:
        for watched in ((), (replace(MINE, node=None),)):
            found = await placements(client, *watched).look(request())
            assert misplaced(request(), found) is None
        refusal = await placements(client, MINE).look(request("b"))
        assert "is on node a" in str(misplaced(request("b"), refusal))
        assert len(api.asked) == 3


async def test_what_the_api_said_counts_for_a_moment_and_no_longer() -> None:
    api, now = Api(), [0.0]
    async with serving(api) as client:
        found = placements(client, clock=lambda: now[0])
        assert [await found.look(request()) for _ in range(5)] == [None] * 5
        assert found.asked == 1
        now[0] = 2.5
        api.pods = {"train-1": on_node("a")}
        assert misplaced(request(), await found.look(request())) is None
        assert found.asked == 2


@pytest.mark.parametrize("answer", [status(500, "InternalError"), status(403, "Forbidden")], ids=["broken", "denied"])
async def test_an_api_that_does_not_answer_decides_nothing(answer: web.Response) -> None:
    api = Api()
    api.answer = answer
    async with serving(api) as client:
        assert await placements(client, MINE).look(request()) is MINE
        with pytest.raises(FailureError, match=KUBERNETES_UNREACHABLE):
            await placements(client).look(request())


@pytest.mark.parametrize(
    "said",
    [
        {"pod": "../../secrets/x"},
        {"pod": "a%2Fb"},
        {"pod": "Train"},
        {"pod": None, "pod_uid": None},
        {"pod": "a" * 300},
    ],
)
async def test_a_name_that_no_pod_can_have_is_not_asked_for(said: dict[str, Any]) -> None:
    api = Api(on_node("a"))
    async with serving(api) as client:
        assert await placements(client).look(request(**said)) is None
        assert api.asked == []


async def test_one_node_does_not_ask_the_api_server_about_many_pods_at_once() -> None:
    api = Api()
    api.answer = (5.0,)
    async with serving(api) as client:
        found = placements(client)
        waiting = [asyncio.create_task(found.look(request(pod=f"p{number}", pod_uid=None))) for number in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(FailureError, match="more than 2 unknown pods at once"):
            await found.look(request(pod="p3", pod_uid=None))
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_static_pod_is_found_by_what_the_kubelet_calls_it() -> None:
    async def tell(*_: Any) -> None:
        pass

    cache = PodCache((), tell, runtime_classes=CLASSES)
    mirror = {"kubernetes.io/config.mirror": "h1", "kubernetes.io/config.hash": "h1"}
    await cache.changed("m1", seen(pod("m1", meta={"annotations": mirror})))
    assert getattr(cache.find("h1"), "uid", None) == "m1"
    assert getattr(cache.find("m1"), "uid", None) == "m1"
    await cache.changed("m1", None)
    assert cache.find("h1") is None
