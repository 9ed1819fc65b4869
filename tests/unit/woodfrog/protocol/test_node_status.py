"""What a worker says of itself goes with its signs of life, between versions that know it and versions that do not."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from woodfrog.protocol import subjects, wire
from woodfrog.protocol.facts import NodeFacts
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import CheckpointKey, NodeName, WorkerId
from woodfrog.protocol.node_status import DiskSpace, NodeStatus, SelfTest, Work, is_sound
from woodfrog.protocol.reports import Heartbeat

pytestmark = pytest.mark.timeout(5)

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
KEY = CheckpointKey("local", "team", "train")
STATUS = NodeStatus(
    self_test=SelfTest(NOON, "restore", Failure("criu-failed", "CRIU gave up", "Try another CRIU.")),
    disk=DiskSpace(total_bytes=100, free_bytes=30, waiting_captures=1, waiting_bytes=7),
    work=(Work("dump", KEY, NOON, "waits for its turn"),),
    more_work=2,
)
PLAIN = Heartbeat(NodeName("a"), WorkerId("w"), "boot", NodeFacts(), at=NOON)


class HeartbeatOfBefore(msgspec.Struct, frozen=True):
    """What a control plane of before reads."""

    node: NodeName
    worker_id: WorkerId
    boot_id: str
    facts: NodeFacts
    at: datetime | None = None


def test_it_survives_the_wire_in_a_heartbeat() -> None:
    sent = msgspec.structs.replace(PLAIN, status=STATUS)
    assert wire.decode(wire.encode(sent), Heartbeat) == sent


def test_a_control_plane_of_before_reads_the_heartbeat_that_has_it() -> None:
    sent = wire.encode(msgspec.structs.replace(PLAIN, status=STATUS))
    assert wire.decode(sent, HeartbeatOfBefore) == HeartbeatOfBefore(
        PLAIN.node, PLAIN.worker_id, "boot", NodeFacts(), NOON
    )


def test_of_a_worker_of_before_it_is_unknown() -> None:
    assert b"status" not in wire.encode(PLAIN)
    assert wire.decode(wire.encode(PLAIN), Heartbeat).status is None


def test_a_newer_worker_may_say_more() -> None:
    said = wire.encode(STATUS).replace(b'"total_bytes"', b'"from_the_future":1,"total_bytes"')
    assert wire.decode(said, NodeStatus) == STATUS


@pytest.mark.parametrize(
    "wrong",
    [
        {"self_test": SelfTest(datetime(2026, 11, 23))},  # noqa: DTZ001 -- that is what is wrong
        {"work": (Work("dump", KEY, datetime(2026, 11, 23)),)},  # noqa: DTZ001
        {"disk": DiskSpace(total_bytes=-1, free_bytes=0)},
        {"disk": DiskSpace(total_bytes=1, free_bytes=1 << 63)},
        {"more_work": -1},
    ],
)
def test_times_that_cannot_be_placed_and_amounts_that_are_none_are_not_sound(wrong: dict[str, Any]) -> None:
    assert is_sound(STATUS)
    assert is_sound(NodeStatus())
    assert not is_sound(msgspec.structs.replace(STATUS, **wrong))


@pytest.mark.parametrize("node", ["a", "node.with.dots", "gpu-1.example", "ünïcode~1"])
def test_the_subject_of_heartbeats_names_its_node(node: str) -> None:
    assert subjects.node_of_heartbeats(subjects.heartbeats(NodeName(node))) == node
