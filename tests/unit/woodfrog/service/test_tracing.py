"""Traces: off unless a collector is named, and then whole, bounded and never in the way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from support.collector import Collector, collecting

from nodeworker.threads import in_daemon_thread
from woodfrog.service import logs, tracing

pytestmark = pytest.mark.timeout(20)

ELSEWHERE = f"00-{'a' * 32}-{'b' * 16}-01"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as found:
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"{found.url}/",
            "OTEL_EXPORTER_OTLP_HEADERS": "api-key=s%20x, b=c",
        }
        tracing.begin("test", {"host.name": "n"}, environment)
        try:
            yield found
        finally:
            tracing.end()


def sent(collector: Collector) -> dict[str, dict[str, Any]]:
    tracing.end()
    return {span["name"]: span for span in collector.spans}


def test_nothing_is_traced_unless_a_collector_is_named() -> None:
    tracing.begin("test", {}, {})
    with tracing.span("x", parent=ELSEWHERE) as made:
        assert made is None
        assert (tracing.traceparent(), tracing.headers()) == ("", {})
    assert tracing.begun("x", "", 1) is None
    assert tracing.headers(ELSEWHERE) == {"traceparent": ELSEWHERE}, "what others trace is passed on"
    for wrong in ("collector:4318", "ftp://x", "http://"):
        with pytest.raises(tracing.InvalidTracingError, match="OTEL_EXPORTER_OTLP_ENDPOINT"):
            tracing.begin("test", {}, {"OTEL_EXPORTER_OTLP_ENDPOINT": wrong})


async def test_spans_belong_together_through_threads_tasks_and_messages(collector: Collector) -> None:
    with tracing.span("outer", parent=ELSEWHERE, key="k", position=7, share=0.5, whole=True, nothing=None) as outer:
        assert outer is not None
        outer.say(more="m")
        with tracing.span("inner"):
            await in_daemon_thread(lambda: traced("thread"))
            carried = tracing.headers()
        await asyncio.create_task(asyncio.to_thread(lambda: traced("task")))
    with tracing.span("next", parent=tracing.of_message(carried)):
        pass
    with tracing.span("alone", parent=tracing.of_message({"traceparent": "00-junk\r\n"})):
        pass
    step = tracing.begun("decided", ELSEWHERE, 5)
    tracing.ended(step)
    found = sent(collector)
    assert {name: span.get("parentSpanId") for name, span in found.items()} == {
        "outer": "b" * 16,
        "inner": found["outer"]["spanId"],
        "thread": found["inner"]["spanId"],
        "task": found["outer"]["spanId"],
        "next": found["inner"]["spanId"],
        "alone": None,
        "decided": "b" * 16,
    }
    assert {span["traceId"] for name, span in found.items() if name != "alone"} == {"a" * 32}
    assert found["alone"]["traceId"] != "a" * 32
    assert {each["key"]: each["value"] for each in found["outer"]["attributes"]} == {
        "woodfrog.key": {"stringValue": "k"},
        "woodfrog.position": {"intValue": "7"},
        "woodfrog.share": {"doubleValue": 0.5},
        "woodfrog.whole": {"boolValue": True},
        "woodfrog.more": {"stringValue": "m"},
    }
    assert found["decided"]["startTimeUnixNano"] == "5"
    assert int(found["outer"]["endTimeUnixNano"]) >= int(found["inner"]["endTimeUnixNano"])
    assert (collector.headers[0]["api-key"], collector.headers[0]["b"]) == ("s x", "c")
    assert found["outer"]["service"] == "test"


def traced(name: str) -> None:
    with tracing.span(name):
        pass


def broken() -> None:
    with tracing.span("broken", parent=ELSEWHERE):
        structlog.get_logger(component="x").info("within")
        raise OSError("no")


def test_what_is_raised_fails_a_span_and_lines_of_the_log_name_the_trace(
    collector: Collector, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure()
    try:
        with pytest.raises(OSError, match="no"):
            broken()
    finally:
        structlog.reset_defaults()
    assert json.loads(capsys.readouterr().err)["trace_id"] == "a" * 32
    assert sent(collector)["broken"]["status"] == {"code": 2, "message": "OSError: no"}


def test_a_collector_that_is_away_costs_spans_and_nothing_else(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    collector.status = 503
    logs.configure()
    try:
        for _ in range(10):
            traced("refused")
        tracing.end()
    finally:
        structlog.reset_defaults()
    (line,) = [json.loads(each) for each in capsys.readouterr().err.splitlines()]
    assert (line["level"], line["problem"]) == ("warning", "status 503")
    monkeypatch.setattr(tracing, "_MOST_WAITING", 3)
    tracing.begin("test", {}, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9/v1/traces"})
    for _ in range(100):
        traced("lost")
    tracing.end()
