"""Work that takes long says how far it is, and short work says nothing."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from controlplane.log.progress import Progress
from woodfrog.cli import dump_wait, progress
from woodfrog.dev_state import Reach
from woodfrog.protocol.failures import Failure, FailureError
from woodfrog.protocol.ids import CheckpointKey, CommandId

pytestmark = pytest.mark.timeout(20)


def test_how_far_it_is_and_how_long_the_rest_takes() -> None:
    assert progress.line("exporting", 1 << 30, 4 << 30, 10) == "exporting: 1.0 GiB of 4.0 GiB (25%, about 30 s left)"
    assert progress.line("exporting", 0, 1 << 20, 10) == "exporting: 0 B of 1.0 MiB (0%)"
    assert progress.line("exporting", 0, 0, 10) == "exporting: 0 B of 0 B (100%)"


def test_of_events_it_is_said_by_their_number_also_where_each_is_looked_at_twice() -> None:
    counted = Progress()
    assert progress.line_of_events("verifying", counted, 10) == "verifying: not begun yet"
    counted.begin(1000)
    counted.done = 250
    assert progress.line_of_events("verifying", counted, 10) == "verifying: 250 of 1000 events (25%, about 30 s left)"
    counted.begin(1000, passes=2)
    counted.done = 1500
    assert progress.line_of_events("archiving", counted, 30) == "archiving: 750 of 1000 events (75%, about 10 s left)"
    counted.done = 2100
    assert progress.line_of_events("rebuilding", counted, 30) == "rebuilding: 1000 of 1000 events (100%)"


def test_it_is_said_while_the_work_goes_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "_FIRST_SECONDS", 0.01)
    monkeypatch.setattr(progress, "_NEXT_SECONDS", 0.01)
    asked = threading.Event()
    count = iter(range(1, 100))

    def done() -> int:
        number = next(count)
        if number == 3:
            asked.set()
        return number * 1024

    with progress.said("exporting", done, 10 * 1024):
        assert asked.wait(10)
    assert capsys.readouterr().err.startswith("woodfrog: exporting: 1.0 KiB of 10.0 KiB (10%, about 0 s left)\n")


def test_work_that_is_quick_or_fails_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.said("exporting", lambda: 0, 1):
        pass
    with pytest.raises(OSError, match="full"), progress.said("exporting", lambda: 0, 1):
        raise OSError("full")
    assert capsys.readouterr().err == ""


def test_a_dump_says_what_it_is_at_whenever_that_changes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    statuses = iter([None, "dumping", "dumping", "captured", "valid"])
    ended: dict[str, Any] = {"status": "succeeded"}

    def view(_reach: Reach, name: str, *_: object) -> list[dict[str, Any]]:
        if name == "events":
            return []
        status = next(statuses)
        return (
            []
            if status is None
            else [{"snapshot_id": "s1", "status": status, "cluster": "c", "namespace": "n", "id": "i"}]
        )

    def wait(*_: object) -> dict[str, Any]:
        if len(asked) == 5:
            return ended
        asked.append(1)
        raise FailureError(Failure("timed-out", "not yet", ""))

    asked: list[int] = []
    monkeypatch.setattr(dump_wait, "_QUIET_SECONDS", 0.0)
    monkeypatch.setattr(dump_wait.client, "ended", wait)
    monkeypatch.setattr(dump_wait.client, "view", view)
    key = CheckpointKey("c", "n", "i")
    assert dump_wait.stored(Reach("nats://nowhere", "c"), key, CommandId("d"), 60.0) == ended
    assert capsys.readouterr().err.splitlines() == [
        "woodfrog: waiting for the node to begin (0 s)",
        "woodfrog: s1 is being captured (0 s)",
        "woodfrog: s1 is captured and is being stored (0 s)",
    ]
