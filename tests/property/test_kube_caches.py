"""Random lives of pods, watched through a connection that leaves out whatever it likes: what is told is told once, and right."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from support.pods import CLASSES, pod, status_of
from support.world import NOON

from controlplane.kube.node_conditions import NodeView
from controlplane.kube.object_cache import NodeCache, PodCache
from controlplane.kube.pod_diff import PodView, told
from woodfrog.protocol.pods import Gone, Happened, NodeGone, NodeNotReady, PodEvent, Terminating

DELETED = {"deletionTimestamp": "2026-11-23T12:00:30Z", "deletionGracePeriodSeconds": 30}
PODS = ["u1", "u2", "u3"]
STAGES = ["pending", "placed", "running", "ended", "terminating", "gone"]


def at_stage(uid: str, stage: str, version: int) -> dict[str, Any]:
    """A pod as it is at a stage of its life."""
    meta = DELETED if stage == "terminating" else {}
    spec = {} if stage == "pending" else {"nodeName": "a"}
    status = {
        "running": status_of(uid),
        "ended": status_of(uid, terminated={"exitCode": 1, "reason": "Error", "containerID": f"x://{uid}"}),
        "terminating": status_of(uid),
    }.get(stage, {})
    return pod(uid, name=f"pod-{uid}", version=str(version), meta=meta, spec=spec, status=status)


class Watching:
    """A cache, and what it tells."""

    def __init__(self) -> None:
        self.told: list[PodEvent] = []
        self.cache = PodCache(set(), self.tell, runtime_classes=CLASSES)

    async def tell(self, seen: PodView, what: Happened) -> None:
        self.told.append(told(seen, what, cluster="lab", at=NOON))

    async def change(self, written: dict[str, Any], *, gone: bool = False) -> None:
        kept = self.cache.keep(json.dumps(written).encode())
        assert kept is not None
        await self.cache.changed(kept[0], None if gone else kept[1])

    async def list_anew(self, there: dict[str, dict[str, Any]]) -> None:
        kept = [self.cache.keep(json.dumps(written).encode()) for written in there.values()]
        await self.cache.replaced(dict(one for one in kept if one is not None))


STEPS = st.lists(
    st.tuples(st.sampled_from(PODS), st.sampled_from(["seen", "missed", "repeated", "list"])), min_size=5, max_size=60
)


async def watched(steps: list[tuple[str, str]]) -> tuple[Watching, dict[str, int]]:
    watching, life = Watching(), dict.fromkeys(PODS, -1)

    def there() -> dict[str, dict[str, Any]]:
        return {uid: at_stage(uid, STAGES[s], s) for uid, s in life.items() if 0 <= s < len(STAGES) - 1}

    for uid, how in steps:
        if how == "list":
            await watching.list_anew(there())
            continue
        if how != "repeated" and life[uid] < len(STAGES) - 1:
            life[uid] += 1
        stage = life[uid]
        if how == "missed" or stage < 0:
            continue
        gone = stage == len(STAGES) - 1
        await watching.change(at_stage(uid, "terminating" if gone else STAGES[stage], stage), gone=gone)
    await watching.list_anew(there())
    return watching, life


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_nothing_is_told_twice_and_every_pod_that_was_told_of_is_told_to_be_gone_once_it_is(
    steps: list[tuple[str, str]],
) -> None:
    watching, life = asyncio.run(watched(steps))
    # That a pod is seen again after it was told to be gone cannot be helped: a late line of the watch says so.
    names = [event.source for event in watching.told if not isinstance(event.happened, Gone)]
    gone = {event.uid for event in watching.told if isinstance(event.happened, Gone)}
    again = {event.uid for event in watching.told} & gone
    assert len(set(names)) == len(names) or again
    for uid, stage in life.items():
        if any(event.uid == uid for event in watching.told):
            assert (uid in gone) == (stage == len(STAGES) - 1)


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_whatever_was_missed_what_is_there_at_the_end_is_known_and_its_end_was_told(
    steps: list[tuple[str, str]],
) -> None:
    watching, life = asyncio.run(watched(steps))
    assert set(watching.cache.seen) == {uid for uid, stage in life.items() if 0 <= stage < len(STAGES) - 1}
    for uid, stage in life.items():
        if STAGES[stage] == "terminating" and stage >= 0:
            assert any(event.uid == uid and isinstance(event.happened, Terminating) for event in watching.told)


class Roll:
    """A node cache, and what it says."""

    def __init__(self) -> None:
        self.of_pods: list[tuple[str, Happened]] = []
        self.announced: list[tuple[str, str | None]] = []
        self.cache = NodeCache(self.tell, self.announce, ending=["end"])

    async def tell(self, node: str, what: Happened) -> None:
        self.of_pods.append((node, what))

    async def announce(self, seen: NodeView) -> None:
        self.announced.append((seen.name, seen.ending))


NODES = st.lists(
    st.tuples(
        st.sampled_from("ab"),
        st.sampled_from([None, "end"]),
        st.booleans(),
        st.sampled_from([None, "not ready"]),
        st.sampled_from(["change", "list", "remove"]),
    ),
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(NODES)
def test_the_last_word_on_a_node_is_how_it_is(steps: list[tuple[str, str | None, bool, str | None, str]]) -> None:
    async def play() -> tuple[Roll, dict[str, NodeView]]:
        roll, there = Roll(), dict[str, NodeView]()
        for name, ending, cordoned, not_ready, how in steps:
            if how == "remove":
                there.pop(name, None)
                await roll.cache.changed(name, None)
                continue
            there[name] = NodeView(name, ending, cordoned, not_ready)
            if how == "list":
                await roll.cache.replaced(dict(there))
            else:
                await roll.cache.changed(name, there[name])
        return roll, there

    roll, there = asyncio.run(play())
    assert roll.cache.seen == there
    assert roll.cache.cordoned == {name for name, one in there.items() if one.cordoned}
    last = dict(roll.announced)
    for name, one in there.items():
        assert last.get(name) == one.ending
    assert all(isinstance(what, NodeGone | NodeNotReady) for _, what in roll.of_pods)
