"""Who is woken by what."""

from __future__ import annotations

from controlplane.core.key_waiters import KeyWaiters
from woodfrog.protocol.events import ContainerStarted, NodeLost
from woodfrog.protocol.ids import CheckpointKey, ContainerId, IncarnationNumber, NodeName, WorkerId

KEY = CheckpointKey("c", "n", "a")
OTHER = CheckpointKey("c", "n", "b")


def started(key: CheckpointKey) -> ContainerStarted:
    return ContainerStarted(
        key=key, incarnation=IncarnationNumber(1), node=NodeName("n"), container_id=ContainerId("c")
    )


def test_whoever_waits_for_a_key_is_woken_by_its_events_alone() -> None:
    waiters = KeyWaiters()
    with waiters.of(KEY) as one, waiters.of(KEY) as two, waiters.of(OTHER) as other:
        waiters.tell([started(KEY)])
        assert (one.is_set(), two.is_set(), other.is_set()) == (True, True, False)


def test_the_loss_of_a_node_wakes_everybody_since_it_may_concern_any_key() -> None:
    waiters = KeyWaiters()
    with waiters.of(KEY) as one, waiters.of(OTHER) as other:
        waiters.tell([NodeLost(node=NodeName("n"), worker_id=WorkerId("w"), silent_seconds=9)])
        assert one.is_set()
        assert other.is_set()


def test_who_waits_no_more_is_forgotten_and_others_stay() -> None:
    waiters = KeyWaiters()
    with waiters.of(KEY) as one:
        with waiters.of(KEY):
            pass
        waiters.tell([started(KEY)])
        assert one.is_set()
    assert waiters._waiting == {}
