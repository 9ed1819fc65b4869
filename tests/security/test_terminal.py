"""What a node or a pod wrote reaches the operator's terminal as text, never as an order to it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from typing import Any, TextIO, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from nodeworker.host import doctor
from woodfrog.cli import get_commands, main
from woodfrog.dev_state import Reach
from woodfrog.output import Form, put, put_json
from woodfrog.protocol.failures import Failure, FailureError
from woodfrog.protocol.requests import View
from woodfrog.service.printable import PrintableStream, printable, printable_output

pytestmark = pytest.mark.timeout(30)

EVIL = "\x1b]0;owned\x07\x1b[2J\x1b[1;31mALL GOOD\x1b[0m\x9b2J\u202egnp.exe\u200b\r\x7f\x00"
"""A title, a cleared screen, a colour, the same in one byte, a turned direction, no width, an overwritten line."""
HOSTILE = st.text(st.characters(codec="utf-8"), max_size=60)


def harmless(text: str) -> bool:
    return all(char.isprintable() or char in "\n\t" for char in text)


def run(*words: str) -> str:
    result = CliRunner().invoke(main.app, list(words))
    return result.stdout + result.stderr


@given(HOSTILE)
def test_nothing_but_printable_text_goes_through_a_stream(text: str) -> None:
    inner = io.StringIO()
    stream = PrintableStream(cast("TextIO", inner))
    assert stream.write(text) == len(text)
    assert harmless(inner.getvalue())
    if harmless(text):
        assert inner.getvalue() == text


@given(HOSTILE, HOSTILE)
def test_json_that_was_escaped_is_the_same_json(name: str, value: str) -> None:
    document = {name: [value]}
    escaped = printable(json.dumps(document, ensure_ascii=False))
    assert escaped.isprintable()
    assert json.loads(escaped) == document


@given(HOSTILE)
def test_a_table_and_a_document_are_harmless_and_a_row_stays_one_line(text: str) -> None:
    rows = [{"id": text, "n": 1}]
    for form in Form:
        inner = io.StringIO()
        out, sys.stdout = sys.stdout, cast("TextIO", inner)
        try:
            with printable_output():
                put(rows, [("ID", lambda row: row["id"]), ("N", lambda row: row["n"])], form, empty="none")
        finally:
            sys.stdout = out
        assert harmless(inner.getvalue())
        if form is Form.JSON:
            assert json.loads(inner.getvalue()) == rows
        else:
            assert inner.getvalue().count("\n") == 2


@pytest.fixture
def hostile_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """poc/ansi.py: a log in which everything that a node may write is hostile."""
    about = {"cluster": "local", "namespace": "default", "id": f"train{EVIL}"}
    snapshot = about | {"snapshot_id": f"../../../x{EVIL}", "status": f"failed{EVIL}", "node": EVIL, "incarnation": 1}
    failure = {"failure_cause": f"cause {EVIL}\nforged: all is well", "failure_code": EVIL, "failure_advice": EVIL}
    rows: dict[str, list[dict[str, Any]]] = {
        "checkpoint_history": [snapshot | failure],
        "nodes": [{"node": EVIL, "status": "ready", "kernel_release": EVIL, "gpu_models": EVIL}],
        "commands": [about | failure | {"command_id": EVIL, "status": EVIL, "kind": "dump", "node": EVIL}],
        "dead_letters": [{"node": EVIL, "reason": EVIL, "excerpt": EVIL, "kind": "rejected"}],
    }

    def view(_reach: Reach, name: View, _key: object = None, **_how: object) -> list[dict[str, Any]]:
        return rows.get(name, [])

    monkeypatch.setattr(get_commands, "reach_of", lambda _: Reach("nats://nowhere", ""))
    monkeypatch.setattr(get_commands.client, "view", view)


@pytest.mark.parametrize("words", [("get", "snapshots"), ("get", "nodes"), ("get", "commands")], ids=" ".join)
@pytest.mark.parametrize("form", ["table", "json"])
def test_lists_are_harmless(hostile_log: None, words: tuple[str, ...], form: str) -> None:
    shown = run(*words, "-o", form)
    assert "owned" in shown
    assert harmless(shown)


def test_failures_are_harmless_and_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:

    monkeypatch.setattr(
        get_commands,
        "reach_of",
        lambda _: (_ for _ in ()).throw(FailureError(Failure("x", f"cause {EVIL}\nforged", EVIL, EVIL))),
    )
    shown = run("get", "nodes")
    assert "cause" in shown
    assert harmless(shown)
    assert not any(line.startswith("forged") for line in shown.splitlines())


def test_a_nodes_doctor_is_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    with printable_output():
        doctor.report([doctor.Finding("criu", "failed", f"it says {EVIL}", EVIL)], as_json=False)
        put_json({"said": EVIL})
    assert harmless(capsys.readouterr().out)


def test_the_installed_command_is_covered_as_a_whole() -> None:
    code = (
        "import sys; from woodfrog.cli import main as cli\n"
        "cli.ps = None\n"
        "@cli.app.command('hostile')\n"
        f"def hostile() -> None: sys.stdout.write({EVIL!r}); sys.stderr.write({EVIL!r}); print({EVIL!r})\n"
        "sys.argv = ['woodfrog', 'hostile']; cli.main()\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True)
    assert "owned" in ran.stdout
    assert "owned" in ran.stderr
    assert harmless(ran.stdout + ran.stderr)
