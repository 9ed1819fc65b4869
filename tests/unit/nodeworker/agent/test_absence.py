"""What the runtime leaves for a worker that is away, as the worker reads it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nodeworker.agent import absence
from nodeworker.runtime.commandline import Call
from nodeworker.runtime.invocation import Settings, Verb
from woodfrog.protocol.ids import ContainerId

pytestmark = pytest.mark.timeout(5)


def worker_settings(run: Path) -> Any:
    return SimpleNamespace(missed=run / "missed")


def test_what_the_runtime_notes_is_read_with_its_time_and_forgotten_once(tmp_path: Path) -> None:
    verb = Verb(Settings([str(tmp_path), "/runc", "/criu", "ID", "1", "1"]), Call(["kill", "one", "TERM"]))
    before = datetime.now(UTC)
    verb.note("stop")
    verb.tell("deleted", noted="never-ran")  # nobody listens
    verb.tell("started")
    ((container, words),) = absence.noted(worker_settings(tmp_path))
    assert container == "one"
    assert [word for word, _ in words] == ["stop", absence.NEVER_RAN]
    assert all(before <= at <= datetime.now(UTC) for _, at in words)
    absence.forget(worker_settings(tmp_path), container)
    assert absence.noted(worker_settings(tmp_path)) == []


@pytest.mark.parametrize("line", ["", "stop", "stop\tsoon", "stop\t1e400", "\0\t\xff"])
def test_a_line_that_is_not_whole_is_left_out(tmp_path: Path, line: str) -> None:
    (tmp_path / "missed").mkdir()
    (tmp_path / "missed/one").write_text(f"{line}\nstop\t0\n")
    assert absence.noted(worker_settings(tmp_path)) == [
        (ContainerId("one"), [("stop", datetime(1970, 1, 1, tzinfo=UTC))])
    ]


def test_without_a_note_there_is_nothing_to_read(tmp_path: Path) -> None:
    assert absence.noted(worker_settings(tmp_path)) == []
    absence.forget(worker_settings(tmp_path), ContainerId("one"))
