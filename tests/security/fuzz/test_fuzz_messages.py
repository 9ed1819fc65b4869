"""What comes over NATS and over the worker's socket: it is read, or refused by the one exception that its readers expect."""

from __future__ import annotations

import base64
from contextlib import suppress
from datetime import UTC
from typing import Any, get_args

import pytest
from hypothesis import strategies as st
from support.fuzzing import bytes_of, corpus, fuzz, is_refusal, is_short, json_of
from support.golden import FOLDER
from support.world import KEY, World

from controlplane.bus import message_validation
from controlplane.bus.heartbeats import read_heartbeat
from controlplane.bus.pod_event_consumer import RefusedPodEventError, read_pod_event
from controlplane.bus.report_consumer import RefusedReportError, read_report
from controlplane.domain import CheckpointAsked, NodeHeard, ReportReceived, ResolveAsked, SnapshotAsked
from controlplane.kube import token_review
from controlplane.log.upcast import UPCASTS, UnreadableEventError
from woodfrog.protocol import subjects, wire
from woodfrog.protocol.commands import Command
from woodfrog.protocol.events import SCHEMA_VERSION
from woodfrog.protocol.failures import FailureError
from woodfrog.protocol.ids import CommandId, InvalidIdError
from woodfrog.protocol.reports import Heartbeat, Report, Vouched
from woodfrog.protocol.requests import CheckpointRequest, QueryRequest, Resolution, ResolveRequest, SnapshotRequest
from woodfrog.protocol.runtime_api import LocalAsk
from woodfrog.service import natsjwt

NODE = "node-1"
REPORTS, HEARTBEATS, NEWS = corpus("reports"), corpus("heartbeats"), corpus("pod-events")
REQUESTS = {
    name: corpus("requests")[number] for number, name in enumerate(("checkpoint", "query", "resolve", "snapshot"))
}


def world() -> World:
    """A control plane that knows the node of the corpus, and a container with a dump under way."""
    made = World(NODE)
    number = made.run("c1", NODE)
    made.dump(number, "20261123T214501Z-5f3a9c1e", final=False)
    return made


def test_every_specimen_is_read() -> None:
    for data in REPORTS:
        assert read_report(subjects.reports(NODE), data).node == NODE
    for data in HEARTBEATS:
        assert read_heartbeat(subjects.heartbeats(NODE), data).node == NODE
    for data in NEWS:
        assert read_pod_event(subjects.pods("default", "trainer-0"), data).uid == "u1"
    for kind, folder in ((Command, "commands"), (LocalAsk, "local"), (Resolution | Vouched, "answers")):
        for data in corpus(folder):
            assert any(_reads(data, one) for one in get_args(kind))
    assert token_review._claimed(token(corpus("tokens")[0])).exp > 0


def _reads(data: bytes, kind: Any) -> bool:
    with suppress(wire.MalformedMessageError):
        wire.decode(data, kind)
        return True
    return False


@fuzz(data=st.one_of(json_of(REPORTS), bytes_of(REPORTS)))
def test_a_report_is_decided_about_or_refused(data: bytes) -> None:
    try:
        report: Report = read_report(subjects.reports(NODE), data)
    except RefusedReportError as problem:
        is_short(problem)
        return
    report.at.astimezone(UTC)
    assert wire.decode(wire.encode(report), Report) == report
    made = world()
    decision = made.give(ReportReceived(report))
    if decision.rejected is not None:
        assert len(decision.rejected) < 20_000


@fuzz(data=st.one_of(json_of(HEARTBEATS), bytes_of(HEARTBEATS)))
def test_a_heartbeat_is_heard_or_refused(data: bytes) -> None:
    try:
        heartbeat: Heartbeat = read_heartbeat(subjects.heartbeats(NODE), data)
    except (wire.MalformedMessageError, InvalidIdError) as problem:
        is_short(problem)
        return
    made = world()
    made.give(NodeHeard(heartbeat, made.source()))


@fuzz(data=st.one_of(json_of(NEWS), bytes_of(NEWS)))
def test_news_of_a_pod_are_read_or_refused(data: bytes) -> None:
    try:
        event = read_pod_event(subjects.pods("default", "trainer-0"), data)
    except RefusedPodEventError as problem:
        is_short(problem)
        return
    event.at.astimezone(UTC)
    assert wire.decode(wire.encode(event), type(event)) == event


@fuzz(
    data=st.one_of(*(json_of([data]) for data in REQUESTS.values()), bytes_of(list(REQUESTS.values()))),
    kind=st.sampled_from([CheckpointRequest, QueryRequest, ResolveRequest, SnapshotRequest]),
)
def test_a_request_is_answered_or_refused(data: bytes, kind: Any) -> None:
    try:
        request = (
            message_validation.resolve_request(data)
            if kind is ResolveRequest
            else message_validation.request(data, kind)
        )
    except FailureError as problem:
        is_refusal(problem, {"request-too-new"})
        return
    except (wire.MalformedMessageError, InvalidIdError) as problem:
        is_short(problem)
        return
    made = world()
    with suppress(InvalidIdError):
        if isinstance(request, ResolveRequest):
            made.give(ResolveAsked(request, made.source()))
        elif isinstance(request, CheckpointRequest):
            made.give(CheckpointAsked(request, CommandId("command-2"), made.source()))
        elif isinstance(request, SnapshotRequest):
            made.give(SnapshotAsked(request, made.source()))


@fuzz(
    data=st.one_of(*(json_of(corpus(folder)) for folder in ("commands", "answers", "local"))),
    kind=st.sampled_from([Command, Resolution, LocalAsk, Vouched]),
)
def test_what_a_worker_is_told_is_read_or_refused(data: bytes, kind: Any) -> None:
    try:
        message = wire.decode(data, kind)
    except wire.MalformedMessageError as problem:
        is_short(problem)
        return
    assert wire.decode(wire.encode(message), kind) == message


EVENTS = [(path.name.removesuffix(".json"), path.read_bytes()) for path in sorted((FOLDER / "v1").glob("*.json"))]


@fuzz(data=json_of([data for _, data in EVENTS]), name=st.sampled_from([name for name, _ in EVENTS]))
def test_an_event_of_the_log_is_read_or_refused(data: bytes, name: str) -> None:
    try:
        UPCASTS.read(name, SCHEMA_VERSION, data.decode("utf-8", "replace"), str(KEY))
    except UnreadableEventError as problem:
        is_short(problem)


def token(payload: bytes) -> str:
    return f"e30.{base64.urlsafe_b64encode(payload).decode().rstrip('=')}.e30"


@fuzz(payload=json_of(corpus("tokens")), more=st.one_of(st.none(), st.text(max_size=50)))
def test_a_token_claims_something_or_is_refused(payload: bytes, more: str | None) -> None:
    presented = token(payload) if more is None else more + token(payload)
    with suppress(token_review.RefusedError):
        token_review._claimed(presented)
    with suppress(natsjwt.InvalidClaimError):
        natsjwt.read_request(presented.encode(), now_seconds=0)
    with pytest.raises(natsjwt.InvalidClaimError):
        natsjwt.read_request(payload, now_seconds=0)
