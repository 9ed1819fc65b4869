"""Messages and specs that are small and cost much, or that a decoder complains of in an unusual way, are refused like any others."""

from __future__ import annotations

import base64
import json
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from support import examples

from controlplane.bus.heartbeats import read_heartbeat
from controlplane.bus.pod_event_consumer import RefusedPodEventError, read_pod_event
from controlplane.bus.report_consumer import RefusedReportError, read_report
from controlplane.kube import token_review
from controlplane.kube.env_expansion import checkpoint_ids
from controlplane.kube.models import Pod
from nodeworker import bundle
from nodeworker.runtime import container
from nodeworker.store.snapshots import check_manifest
from woodfrog.protocol import subjects, wire
from woodfrog.protocol.events import ContainerStarted
from woodfrog.protocol.failures import FailureError
from woodfrog.protocol.ids import CheckpointKey, NodeName, SnapshotId, WorkerId
from woodfrog.protocol.reports import Report
from woodfrog.protocol.requests import ResolveRequest
from woodfrog.protocol.runtime_api import LocalAsk
from woodfrog.service import natsjwt

pytestmark = pytest.mark.timeout(20)

DEEP = b'{"version":1,"x":' + b"[" * 100_000
HOSTILE = {
    "a byte that is not UTF-8": b'{"report_id":"\xff","version":1,"node":"\xff","key":"\xff"}',
    "a hundred thousand brackets": DEEP,
    "brackets that are closed": DEEP + b"]" * 100_000 + b"}",
    "a surrogate": b'{"report_id":"\\ud800"}',
    "nothing": b"",
}
DOUBLED = 40


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_message_that_cannot_be_read_is_refused_by_everybody_who_reads_messages(data: bytes) -> None:
    with pytest.raises(RefusedReportError):
        read_report(subjects.reports("a"), data)
    with pytest.raises(RefusedPodEventError):
        read_pod_event(subjects.pods("default", "a"), data)
    for kind in (ResolveRequest, LocalAsk):
        with pytest.raises(wire.MalformedMessageError):
            wire.decode(data, kind)
    with pytest.raises(wire.MalformedMessageError):
        read_heartbeat(subjects.heartbeats("a"), data)
    with pytest.raises(FailureError) as problem:
        check_manifest(data, CheckpointKey("c", "n", "i"), SnapshotId("s"), shown="it")
    assert problem.value.failure.code in {"snapshot-corrupt", "snapshot-format-unknown"}


@pytest.mark.parametrize("data", [HOSTILE["a byte that is not UTF-8"], b"[" * 9000], ids=["text", "brackets"])
def test_a_token_that_cannot_be_read_is_refused(data: bytes) -> None:
    part = base64.urlsafe_b64encode(data).decode().rstrip("=")
    with pytest.raises(token_review.RefusedError):
        token_review._claimed(f"e30.{part}.e30")
    with pytest.raises(natsjwt.InvalidClaimError):
        natsjwt.read_request(f"{part}.{part}.e30".encode(), now_seconds=0)


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2026-11-29T00:00:00"])
def test_a_time_that_is_none_in_utc_is_refused(at: str) -> None:
    started = examples.example(ContainerStarted)
    report = Report(UUID(int=1), NodeName("a"), WorkerId("w"), datetime.now(UTC), started)
    plain = json.loads(wire.encode(report))
    plain["event"] |= {
        "key": {"cluster": "c", "namespace": "n", "id": "i"},
        "node": "a",
        "container_id": "c1",
        "restored_from": "s1",
    }
    assert read_report(subjects.reports(report.node), json.dumps(plain).encode()).node == "a"
    plain["at"] = at
    with pytest.raises(RefusedReportError, match=r"\$\.at"):
        read_report(subjects.reports(report.node), json.dumps(plain).encode())


def pod(variables: list[tuple[str, str]]) -> Pod:
    env = [{"name": name, "value": value} for name, value in variables]
    plain: dict[str, Any] = {
        "metadata": {"name": "p", "namespace": "n", "uid": "u"},
        "spec": {"containers": [{"name": "c", "env": env}]},
    }
    read: Pod = wire.decode(json.dumps(plain).encode(), Pod)
    return read


def test_variables_that_double_at_each_step_fill_no_memory_of_the_control_plane() -> None:
    doubling = [(f"V{step}", f"$(V{step - 1})$(V{step - 1})" if step else "xx") for step in range(DOUBLED)]
    assert checkpoint_ids(pod([*doubling, ("CEDANA_CHECKPOINT", f"$(V{DOUBLED - 1})")])) == {}
    assert checkpoint_ids(pod([*doubling, ("CEDANA_CHECKPOINT", "a-$(V1)")])) == {"c": "a-xxxx"}


def test_variables_that_all_repeat_a_long_one_fill_no_memory_of_the_control_plane() -> None:
    repeating = [("A", "x" * 8000), *((f"V{number}", "$(A)$(A)") for number in range(2000))]
    hostile = pod([*repeating, ("CEDANA_CHECKPOINT", "an-id")])
    tracemalloc.start()
    try:
        assert checkpoint_ids(hostile) == {"c": "an-id"}
        assert tracemalloc.get_traced_memory()[1] < 2 << 20, "of 32 MB that they stand for"
    finally:
        tracemalloc.stop()


def test_variables_that_double_at_each_step_fill_no_memory_of_the_node(tmp_path: Path) -> None:
    doubling = [f"V{step}=$(V{step + 1})$(V{step + 1})" for step in range(DOUBLED)]
    env = ["CEDANA_CHECKPOINT=$(V0)", *doubling, f"V{DOUBLED}=x"]
    value = container.variable({"process": {"env": env}}, "CEDANA_CHECKPOINT")
    assert value == "$(V1)$(V1)", "what is left over is replaced once"
    long = container.variable({"process": {"env": ["A=" + "$(B)" * 1000, "B=" + "x" * 100_000]}}, "A")
    assert long == "$(B)" * 1000
    assert container.variable({"process": {"env": ["A=t-$(B)", "B=1"]}}, "A") == "t-1"


def test_a_bundle_that_is_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(DEEP)
    for read in (lambda: bundle.read(str(tmp_path)), lambda: bundle.variable(str(tmp_path), "A")):
        with pytest.raises(FailureError) as problem:
            read()
        assert problem.value.failure.code == "bundle-unreadable"
    with pytest.raises(ValueError, match="nested"):
        container.read_json(str(tmp_path / "config.json"))
