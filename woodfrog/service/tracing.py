"""Traces: what one undertaking costs where, over node workers and control planes, for a collector that speaks OpenTelemetry's OTLP.

Off unless ``OTEL_EXPORTER_OTLP_ENDPOINT`` names a collector; then a span costs two random numbers and a dictionary, and without it an
``if``. Spans are sent as OTLP's JSON over HTTP (https://opentelemetry.io/docs/specs/otlp/), by a thread of its own, in batches that
are bounded: a collector that is slow or away costs spans and never time. Contexts travel as W3C ``traceparent`` (www.w3.org/TR/trace-context),
in NATS headers. No SDK is used: docs/decisions/0082.
"""

from __future__ import annotations

import http.client
import os
import queue
import re
import secrets
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import msgspec
import structlog

_log = structlog.get_logger(component="tracing")

HEADER: Final = "traceparent"
_TRACEPARENT: Final = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}", re.ASCII)
_MOST_WAITING: Final = 4096
_LARGEST_BATCH: Final = 512
_GATHER_SECONDS: Final = 1.0
_SEND_SECONDS: Final = 5.0
_COMPLAIN_SECONDS: Final = 60.0
_FAILED: Final = 2
"""STATUS_CODE_ERROR."""
_INTERNAL: Final = 1
"""SPAN_KIND_INTERNAL."""

_current: ContextVar[str] = ContextVar("traceparent", default="")
_exporter: _Exporter | None = None


class InvalidTracingError(ValueError):
    """A variable says something that it may not; the message names it."""


class Span:
    """What is done between two moments. Only :func:`span` makes one."""

    def __init__(self, name: str, parent: str, attributes: Mapping[str, object], began_ns: int | None = None) -> None:
        found = _TRACEPARENT.fullmatch(parent)
        self._trace = found[1] if found else secrets.token_hex(16)
        self._parent = found[2] if found else ""
        self._id = secrets.token_hex(8)
        self._name = name
        self._attributes = dict(attributes)
        self._began = began_ns or time.time_ns()
        self._failure = ""

    @property
    def traceparent(self) -> str:
        """Its context, for what is done elsewhere because of it."""
        return f"00-{self._trace}-{self._id}-01"

    @property
    def trace_id(self) -> str:
        """The name of the whole trace."""
        return self._trace

    def failed(self, why: str) -> None:
        """Note that it came to nothing."""
        self._failure = why

    def say(self, **attributes: object) -> None:
        """Add what became known meanwhile."""
        self._attributes.update(attributes)

    def ended(self) -> dict[str, Any]:
        """Write it as OTLP does."""
        written: dict[str, Any] = {
            "traceId": self._trace,
            "spanId": self._id,
            "name": self._name,
            "kind": _INTERNAL,
            "startTimeUnixNano": str(self._began),
            "endTimeUnixNano": str(time.time_ns()),
            "attributes": _written(self._attributes),
        }
        if self._parent:
            written["parentSpanId"] = self._parent
        if self._failure:
            written["status"] = {"code": _FAILED, "message": self._failure}
        return written


def _written(attributes: Mapping[str, object]) -> list[dict[str, Any]]:
    return [
        {"key": f"woodfrog.{name}", "value": _value(value)} for name, value in attributes.items() if value is not None
    ]


def _value(value: object) -> dict[str, Any]:
    match value:
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value}
        case _:
            return {"stringValue": str(value)}


@contextmanager
def span(name: str, *, parent: str | None = None, **attributes: object) -> Iterator[Span | None]:
    """Trace what the block does; nothing where tracing is off.

    It belongs to ``parent``, a traceparent from elsewhere, or to the span around it. What is raised fails it. Lines of the log within
    have its ``trace_id``.
    """
    if _exporter is None:
        yield None
        return
    made = Span(name, _current.get() if parent is None else parent, attributes)
    token = _current.set(made.traceparent)
    try:
        with structlog.contextvars.bound_contextvars(trace_id=made.trace_id):
            yield made
    except BaseException as problem:
        made.failed(f"{type(problem).__name__}: {problem}"[:500])
        raise
    finally:
        _current.reset(token)
        _exporter.take(made.ended())


def begun(name: str, parent: str, began_ns: int, *, alone: bool = True, **attributes: object) -> Span | None:
    """Begin a span that is ended by :func:`ended`, for what does not fit into one block; without a parent only if ``alone``."""
    return None if _exporter is None or not (parent or alone) else Span(name, parent, attributes, began_ns)


def context_of(some: Span | None) -> str:
    """Return a span's context; empty if there is none."""
    return "" if some is None else some.traceparent


def ended(some: Span | None) -> None:
    """End a span."""
    if some is not None and _exporter is not None:
        _exporter.take(some.ended())


def of_message(carried: Mapping[str, str] | None) -> str:
    """Read the context that a message's headers carry; empty if there is none that can be one."""
    text = (carried or {}).get(HEADER, "")
    return text if _TRACEPARENT.fullmatch(text) else ""


def traceparent() -> str:
    """The context of what is being done; empty if it is not traced."""
    return _current.get()


def headers(of: str | None = None) -> dict[str, str]:
    """Headers by which a message carries the context on, or another one; none where there is none."""
    carried = _current.get() if of is None else of
    return {HEADER: carried} if carried else {}


class _Exporter:
    """Sends spans to a collector."""

    def __init__(self, url: str, sent_headers: Mapping[str, str], resource: Mapping[str, str]) -> None:
        self._url = urlsplit(url)
        if self._url.scheme not in {"http", "https"} or not self._url.hostname:
            raise InvalidTracingError(
                f"OTEL_EXPORTER_OTLP_ENDPOINT is {url!r}; it must be a URL such as http://collector:4318"
            )
        self._headers = {"Content-Type": "application/json", **sent_headers}
        self._resource = [{"key": name, "value": {"stringValue": value}} for name, value in resource.items()]
        self._waiting: queue.Queue[dict[str, Any] | None] = queue.Queue(_MOST_WAITING)
        self._lost = 0
        self._complained = -_COMPLAIN_SECONDS
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def take(self, ended: dict[str, Any]) -> None:
        """Take a span, or drop it if too many wait."""
        try:
            self._waiting.put_nowait(ended)
        except queue.Full:
            self._lost += 1

    def close(self) -> None:
        """Send what waits, not for long."""
        with suppress(queue.Full):
            self._waiting.put_nowait(None)
        self._thread.join(_SEND_SECONDS)

    def _run(self) -> None:
        ending = False
        while not ending:
            batch: list[dict[str, Any]] = []
            until = 0.0
            while len(batch) < _LARGEST_BATCH:
                try:
                    got = self._waiting.get(timeout=max(until - time.monotonic(), 0.0) if batch else None)
                except queue.Empty:
                    break
                if got is None:
                    ending = True
                    break
                until = until or time.monotonic() + _GATHER_SECONDS
                batch.append(got)
            if batch:
                self._send(batch)

    def _send(self, batch: list[dict[str, Any]]) -> None:
        scope = {"scope": {"name": "woodfrog"}, "spans": batch}
        body = {"resourceSpans": [{"resource": {"attributes": self._resource}, "scopeSpans": [scope]}]}
        try:
            connection = self._connection()
            try:
                connection.request("POST", self._url.path, msgspec.json.encode(body), self._headers)
                status = connection.getresponse().status
            finally:
                connection.close()
        except (OSError, http.client.HTTPException) as problem:
            self._complain(f"{type(problem).__name__}: {problem}", len(batch))
        else:
            if status >= http.client.BAD_REQUEST:
                self._complain(f"status {status}", len(batch))

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self._url.hostname or "", self._url.port
        if self._url.scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=_SEND_SECONDS, context=ssl.create_default_context())
        return http.client.HTTPConnection(host, port, timeout=_SEND_SECONDS)

    def _complain(self, problem: str, count: int) -> None:
        """Say, once a minute, that spans are lost."""
        self._lost += count
        if time.monotonic() - self._complained >= _COMPLAIN_SECONDS:
            self._complained = time.monotonic()
            _log.warning("spans are lost: the collector does not take them", problem=problem, spans=self._lost)
            self._lost = 0


def begin(service: str, resource: Mapping[str, str], environment: Mapping[str, str] = os.environ) -> None:
    """Trace from now on, if the environment names a collector; ``service`` is what the process is called there, ``resource`` says more.

    Raises:
        InvalidTracingError: naming the variable.
    """
    global _exporter  # noqa: PLW0603 - of the process, like its log
    url = environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "")
    if not url and (base := environment.get("OTEL_EXPORTER_OTLP_ENDPOINT", "")):
        url = f"{base.rstrip('/')}/v1/traces"
    if not url:
        return
    pairs = [each.partition("=") for each in environment.get("OTEL_EXPORTER_OTLP_HEADERS", "").split(",") if each]
    sent = {name.strip(): unquote(value.strip()) for name, _, value in pairs}
    _exporter = _Exporter(url, sent, {"service.name": service, **resource})


def end() -> None:
    """Send what waits, and trace no more."""
    global _exporter  # noqa: PLW0603 - of the process, like its log
    if _exporter is not None:
        _exporter.close()
        _exporter = None
