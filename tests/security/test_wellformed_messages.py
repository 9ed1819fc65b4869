"""What a node calls things stands in paths, tables and terminals later: it is checked where it comes in."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from support.examples import example
from support.world import stored_event

from controlplane.bus import message_validation
from controlplane.bus.report_consumer import RefusedReportError, read_report
from woodfrog.protocol import requests, subjects, wire
from woodfrog.protocol.events import ContainerStarted, DumpFailed, DumpStage, NodeRegistered, ReportedEvent
from woodfrog.protocol.facts import ContainerFacts, NodeFacts
from woodfrog.protocol.failures import Failure, FailureError
from woodfrog.protocol.ids import (
    CheckpointKey,
    ContainerId,
    IncarnationNumber,
    InvalidIdError,
    NodeName,
    SnapshotId,
    WorkerId,
)
from woodfrog.protocol.reports import Report
from woodfrog.protocol.requests import NEWEST_VERSION, ResolveRequest

pytestmark = pytest.mark.timeout(5)

NODE = NodeName("node-1")
ABOUT: dict[str, Any] = {
    "key": CheckpointKey("local", "default", "job"),
    "incarnation": IncarnationNumber(1),
    "node": NODE,
}
REQUESTS = (
    requests.ResolveRequest,
    requests.CheckpointRequest,
    requests.SnapshotRequest,
    requests.ImportRequest,
    requests.QueryRequest,
)
HOSTILE = ["../../../etc/cron.d/x", "a/b", "", "\x1b[2J", "s1\n", "s" * 254]


def told(event: ReportedEvent, worker: str = "life-1") -> Report:
    report = Report(uuid.uuid4(), NODE, WorkerId(worker), datetime.now(UTC), event)
    return read_report(subjects.reports(NODE), wire.encode(report))


def stored(snapshot: str = "s1", digest: str = "ab" * 32) -> ReportedEvent:
    event = stored_event(**ABOUT, snapshot_id=SnapshotId(snapshot))
    return type(event)(**{name: getattr(event, name) for name in event.__struct_fields__} | {"manifest_digest": digest})


def test_an_honest_report_is_read() -> None:
    assert told(stored()).event == stored()


@pytest.mark.parametrize("bad", HOSTILE)
def test_names_that_are_none_are_refused(bad: str) -> None:
    with pytest.raises(RefusedReportError, match="snapshot id"):
        told(stored(bad))
    with pytest.raises(RefusedReportError, match="digest"):
        told(stored(digest=bad))
    with pytest.raises(RefusedReportError, match="snapshot id"):
        told(ContainerStarted(**ABOUT, container_id=ContainerId("c1"), restored_from=SnapshotId(bad)))
    with pytest.raises(RefusedReportError, match="container"):
        told(ContainerStarted(**ABOUT, container_id=ContainerId(bad)))
    with pytest.raises(RefusedReportError, match="worker id"):
        told(NodeRegistered(node=NODE, worker_id=WorkerId(bad), boot_id="boot", facts=NodeFacts()), bad)
    with pytest.raises(RefusedReportError, match="boot id"):
        told(NodeRegistered(node=NODE, worker_id=WorkerId("life-1"), boot_id=bad, facts=NodeFacts()))
    failure = Failure(bad, "a cause", "an advice")
    with pytest.raises(RefusedReportError, match="code"):
        told(DumpFailed(**ABOUT, snapshot_id=SnapshotId("s1"), stage=DumpStage.CAPTURE, failure=failure))


@pytest.mark.parametrize("field", ["stored_bytes", "raw_bytes", "store_seconds"])
@pytest.mark.parametrize("amount", [-1, -(10**15), 10**18])
def test_an_amount_by_which_a_quota_would_be_evaded_is_refused(field: str, amount: int) -> None:
    with pytest.raises(RefusedReportError, match=field):
        told(msgspec.structs.replace(stored(), **{field: amount}))


@pytest.mark.parametrize("name", [".", "..", "a b"])
def test_a_container_is_called_as_runc_allows(name: str) -> None:
    with pytest.raises(RefusedReportError, match="container"):
        told(ContainerStarted(**ABOUT, container_id=ContainerId(name)))


@pytest.mark.parametrize("name", ["c1", "_c", "a+b", "a.b-c_d", "5c" * 32])
def test_names_that_engines_give_are_read(name: str) -> None:
    assert told(ContainerStarted(**ABOUT, container_id=ContainerId(name)))


def question(**changes: Any) -> bytes:
    facts = ContainerFacts(**{"pod": "train-1", "pod_uid": "0b7c-1"} | changes.pop("facts", {}))
    asked = {"container_id": ContainerId("c1"), "worker_id": WorkerId("life-1")} | changes
    return wire.encode(
        ResolveRequest(key=ABOUT["key"], node=NODE, facts=NodeFacts(), container=facts, reports_sequence=0, **asked)
    )


@pytest.mark.parametrize(
    "bad",
    [
        {"container_id": ContainerId("../c")},
        {"worker_id": WorkerId("a/b")},
        {"facts": {"pod": "../../secrets/x"}},
        {"facts": {"pod_uid": "\x1b]0;owned"}},
        {"create_id": "\x1b]0;owned"},
        {"create_id": "a" * 33},
    ],
)
def test_a_question_with_names_that_are_none_is_refused(bad: dict[str, Any]) -> None:
    assert message_validation.resolve_request(question()).container.pod == "train-1"
    with pytest.raises((wire.MalformedMessageError, InvalidIdError)):
        message_validation.resolve_request(question(**bad))


@pytest.mark.parametrize("kind", REQUESTS)
def test_a_request_that_says_more_than_is_known_is_answered_and_one_of_another_version_is_not(kind: Any) -> None:
    """A DaemonSet that is upgraded before the control plane goes on starting containers."""
    known = example(kind)
    plain = json.loads(wire.encode(known)) | {"version": NEWEST_VERSION, "from_the_future": True}
    read = message_validation.request(json.dumps(plain).encode(), kind)
    assert {name: getattr(read, name) for name in read.__struct_fields__ if name != "version"} == {
        name: getattr(known, name) for name in known.__struct_fields__ if name != "version"
    }
    with pytest.raises(FailureError, match="request-too-new"):
        message_validation.request(json.dumps(plain | {"version": NEWEST_VERSION + 1}).encode(), kind)


def test_a_request_of_today_says_nothing_that_a_control_plane_of_before_does_not_know() -> None:
    assert "version" not in json.loads(question())
