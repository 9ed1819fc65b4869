"""What nodes' workers say of themselves is kept as it was said last, and decides nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from controlplane.bus import heartbeats, node_statuses
from controlplane.bus.heartbeats import Heartbeats
from controlplane.bus.node_statuses import NodeNow, NodeStatuses
from woodfrog.protocol import subjects, wire
from woodfrog.protocol.facts import NodeFacts
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import NodeName, WorkerId
from woodfrog.protocol.node_status import DiskSpace, NodeStatus, SelfTest
from woodfrog.protocol.reports import Heartbeat

pytestmark = pytest.mark.timeout(5)

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
A, DOTTED = NodeName("a"), NodeName("b.example")
FULL = NodeStatus(disk=DiskSpace(total_bytes=10, free_bytes=0))
FREE = NodeStatus(disk=DiskSpace(total_bytes=10, free_bytes=9))
FAILED = NodeStatus(self_test=SelfTest(NOON, "dump", Failure("criu-failed", "CRIU gave up", "Try another.")))


class Clock:
    """Says what time it is; a second passes whenever it is asked."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


@pytest.fixture
def statuses() -> NodeStatuses:
    return NodeStatuses(cast("Any", None), clock=Clock())


def say(statuses: NodeStatuses, node: NodeName, status: NodeStatus | None, *, over: NodeName | None = None) -> None:
    heartbeat = Heartbeat(node, WorkerId("w"), "boot", NodeFacts(), status=status)
    statuses.hear(subjects.heartbeats(over or node), wire.encode(heartbeat))


def test_what_a_node_said_last_is_known_with_when_it_was_heard(statuses: NodeStatuses) -> None:
    for status in (FULL, FREE):
        say(statuses, A, status)
    say(statuses, DOTTED, FULL)
    assert statuses.of(A) == NodeNow(NOON + timedelta(seconds=2), WorkerId("w"), FREE)
    assert statuses.of(NodeName("silent")) is None
    assert statuses.nodes() == [A, DOTTED]


def test_a_worker_of_before_is_heard_and_says_nothing_of_itself(statuses: NodeStatuses) -> None:
    say(statuses, A, None)
    assert statuses.of(A) == NodeNow(NOON + timedelta(seconds=1), WorkerId("w"), None)


def test_what_cannot_be_believed_is_not_shown(statuses: NodeStatuses) -> None:
    say(statuses, A, NodeStatus(disk=DiskSpace(total_bytes=-1, free_bytes=0)))
    assert statuses.of(A) == NodeNow(NOON + timedelta(seconds=1), WorkerId("w"), None)
    say(statuses, A, FULL, over=DOTTED)
    assert statuses.of(DOTTED) is None, "it speaks for another node"
    statuses.hear(subjects.heartbeats(A), b"{")
    assert statuses.of(A) is None
    statuses.hear(subjects.heartbeats(NodeName("huge")), b" " * 1_000_000)
    assert NodeName("huge") not in statuses.nodes()


def test_those_that_were_silent_longest_are_given_up_for_others(
    statuses: NodeStatuses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_statuses, "_MOST_NODES", 2)
    for node in ("a", "b", "a", "c"):
        say(statuses, NodeName(node), FULL)
    assert statuses.nodes() == ["a", "c"]


@pytest.mark.parametrize(("status", "news"), [(FAILED, 0), (FREE, 1), (None, 1)])
async def test_a_worker_that_says_that_its_self_test_failed_is_not_registered_however_long_it_is_heard(
    status: NodeStatus | None, news: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeats, "_STRANGE_SECONDS", 0.0)
    presence = Heartbeats(cast("Any", None), cast("Any", None), dict, lost_seconds=15.0)
    heartbeat = Heartbeat(A, WorkerId("w"), "boot", NodeFacts(), status=status)
    await presence._hear(
        cast("Any", SimpleNamespace(subject=subjects.heartbeats(A), data=wire.encode(heartbeat), reply=""))
    )
    assert presence._heartbeats.qsize() == news
