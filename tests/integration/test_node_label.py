"""The node's label, set over TLS at an API whose authority is as plain as many clusters' own."""

from __future__ import annotations

import json
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from nodeworker.host import label
from protocol.failures import FailureError

pytestmark = pytest.mark.timeout(60)


class Api(BaseHTTPRequestHandler):
    """Records requests; answers what the test wants, the last answer again and again."""

    answers: list[int]
    seen: list[dict[str, Any]]

    def do_PATCH(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).seen.append({"path": self.path, "token": self.headers["Authorization"], **body["metadata"]})
        self.send_response(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def api(tmp_path: Path) -> Iterator[tuple[type[Api], dict[str, str]]]:
    """The API, and the environment of a pod that may speak to it."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=kube-ca",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", tmp_path / "key", "-out", tmp_path / "ca.crt"],
        check=True, capture_output=True, timeout=30,
    )  # fmt: skip
    (tmp_path / "token").write_text("abc\n")
    kind = type("OneApi", (Api,), {"answers": [200], "seen": []})
    server = HTTPServer(("127.0.0.1", 0), kind)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "ca.crt", tmp_path / "key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    port = str(server.server_address[1])
    yield kind, {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": port, "WOODFROG_NODE": "n1"}
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_node_is_labelled_and_the_label_taken_away(api: Any, tmp_path: Path) -> None:
    kind, environment = api
    label.set_ready(environment, ready=True, account=tmp_path)
    label.set_ready(environment, ready=False, account=tmp_path)
    assert kind.seen == [
        {"path": "/api/v1/nodes/n1", "token": "Bearer abc", "labels": {"woodfrog.io/ready": said}}
        for said in ("true", None)
    ]


def test_an_api_that_is_busy_is_asked_again(api: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label.time, "sleep", lambda _seconds: None)
    kind, environment = api
    kind.answers = [503, 429, 200]
    label.set_ready(environment, ready=True, account=tmp_path)
    assert len(kind.seen) == 3


def test_a_refusal_says_what_right_is_missing(api: Any, tmp_path: Path) -> None:
    kind, environment = api
    kind.answers = [403]
    with pytest.raises(FailureError, match="needs `patch` on `nodes`"):
        label.set_ready(environment, ready=True, account=tmp_path)
    assert len(kind.seen) == 1


def test_a_node_that_is_gone_needs_no_label_taken_away(api: Any, tmp_path: Path) -> None:
    kind, environment = api
    kind.answers = [404]
    label.set_ready(environment, ready=False, account=tmp_path)
    with pytest.raises(FailureError, match="label-failed"):
        label.set_ready(environment, ready=True, account=tmp_path)
