"""An OpenTelemetry collector that keeps the spans that it is sent."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Collector:
    """What was sent, with the service that each span came from."""

    def __init__(self) -> None:
        self.url = ""
        self.status = 200
        self.headers: list[dict[str, str]] = []
        self._spans: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    def take(self, headers: dict[str, str], body: dict[str, Any]) -> None:
        """Keep a request's spans."""
        with self._lock:
            self.headers.append(headers)
            for resource in body["resourceSpans"]:
                of = {each["key"]: each["value"]["stringValue"] for each in resource["resource"]["attributes"]}
                for scope in resource["scopeSpans"]:
                    self._spans += [{**span, "service": of["service.name"]} for span in scope["spans"]]

    @property
    def spans(self) -> list[dict[str, Any]]:
        """All spans until now."""
        with self._lock:
            return list(self._spans)


@contextmanager
def collecting() -> Iterator[Collector]:
    """Listen on a port of loopback while the block runs."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            body = self.rfile.read(int(self.headers["Content-Length"]))
            collector.take(dict(self.headers), json.loads(body))
            self.send_response(collector.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()
