"""What the command line says and does when it is asked wrongly, and the two forms of its answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import click
import pytest
import typer
from support.cli import described, woodfrog

from woodfrog.cli.main import app
from woodfrog.output import Form, put, table

pytestmark = pytest.mark.timeout(10)

COLUMNS = [("ID", lambda row: row["id"]), ("EXIT CODE", lambda row: row.get("exit_code"))]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """The state directory of a stack that was started once and runs no more."""
    return described(tmp_path)


@pytest.mark.parametrize("bad", ["a/b", "..", "", "x" * 300, "tab\there", "-dash", "dot.", "new\nline"])
@pytest.mark.parametrize("verb", ["run", "stop", "checkpoint", "history", "why"])
def test_a_bad_id_is_refused_by_name_by_every_verb(state: Path, verb: str, bad: str) -> None:
    asked = ["--id", bad, "--", "true"] if verb == "run" else ["--", bad]
    refused = woodfrog(verb, "--state-dir", state, *asked)
    assert refused.exit_code == 2
    assert "id" in refused.stderr
    assert refused.stdout == ""


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--mount", "here:/there"),
        ("--mount", "type=bind,src=/,dst=/proc"),
        ("--env", "CEDANA_CHECKPOINT=other"),
        ("--env", "1=2"),
        ("--name", "under_score"),
        ("--rootfs", "/does/not/exist"),
    ],
)
def test_a_bad_option_of_run_is_refused_by_name_and_changes_nothing(state: Path, option: str, value: str) -> None:
    before = sorted(state.rglob("*"))
    refused = woodfrog("run", "--state-dir", state, "--id", "good", option, value, "--", "true")
    assert refused.exit_code == 2
    assert option in refused.stderr
    assert sorted(state.rglob("*")) == before


WAITING = {
    "checkpoint": ("a",), "check": ("a",), "stop": ("a",), "retry": ("s",), "delete": ("s",), "forget": ("a",), "migrate": ("pod",),
}  # fmt: skip
"""The verbs with `--timeout`, each with what it needs."""


@pytest.mark.parametrize("bad", ["nan", "inf", "-1", "1e999", "soon"])
@pytest.mark.parametrize("verb", WAITING)
def test_a_time_that_nobody_can_wait_for_is_refused_by_every_verb_that_waits(verb: str, bad: str) -> None:
    refused = woodfrog(verb, *WAITING[verb], "--timeout", bad)
    assert refused.exit_code == 2
    assert "--timeout" in refused.stderr
    assert "not a number of seconds" in refused.stderr


def test_every_verb_that_waits_is_asked() -> None:
    commands = cast("click.Group", typer.main.get_command(app)).commands
    assert {name for name, verb in commands.items() if any("--timeout" in each.opts for each in verb.params)} == set(
        WAITING
    )


@pytest.mark.parametrize(
    "verb", [("ps",), ("get", "snapshots"), ("history", "a"), ("why", "a"), ("checkpoint", "a"), ("stop", "a")]
)
def test_where_no_stack_was_ever_started_every_verb_says_so_and_what_to_do(
    tmp_path: Path, verb: tuple[str, ...]
) -> None:
    refused = woodfrog(*verb, "--state-dir", tmp_path / "nothing")
    assert refused.exit_code == 1
    assert "not-started" in refused.stderr
    assert "woodfrog dev" in refused.stderr


def test_where_the_stack_has_stopped_a_verb_says_that_the_worker_does_not_answer(state: Path) -> None:
    refused = woodfrog("ps", "--state-dir", state)
    assert refused.exit_code == 1
    assert "node worker" in refused.stderr


def test_an_unknown_form_of_output_is_a_wrong_question(state: Path) -> None:
    assert woodfrog("ps", "--state-dir", state, "-o", "yaml").exit_code == 2


def test_a_table_is_as_wide_as_its_widest_cell_and_cuts_nothing() -> None:
    rows = [{"id": "a" * 80, "exit_code": 0}, {"id": "b", "exit_code": None}]
    head, first, second = table(rows, COLUMNS).splitlines()
    assert first.split() == ["a" * 80, "0"]
    assert second.split() == ["b", "-"]
    assert head.index("EXIT CODE") == first.index("0") == second.index("-")


def test_a_cell_with_line_breaks_stays_in_its_line() -> None:
    assert len(table([{"id": "a\nb\tc"}], COLUMNS).splitlines()) == 2


def test_json_is_whole_and_alone_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    put([{"id": "frosch", "exit_code": None}], COLUMNS, Form.JSON, empty="nothing")
    said = capsys.readouterr()
    assert json.loads(said.out) == [{"id": "frosch", "exit_code": None}]
    put([], COLUMNS, Form.JSON, empty="nothing")
    assert json.loads(capsys.readouterr().out) == []


def test_where_there_is_nothing_to_list_a_person_is_told_beside_standard_output(
    capsys: pytest.CaptureFixture[str],
) -> None:
    put([], COLUMNS, Form.TABLE, empty="there is nothing")
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "there is nothing\n")
