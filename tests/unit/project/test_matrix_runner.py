"""A program's life in the matrix is the same wherever it runs, and whatever goes wrong in it is its row."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
from matrix.program import Program
from matrix.runner import NotStartedError, live

pytestmark = pytest.mark.timeout(10)

PROGRAM = Program(
    "counter", "A counter", version="version", command="count", ready="ready", check="check", result="/result"
)


class FakePlace:
    """A place whose snapshots lose what a test wants to be lost."""

    moves: tuple[int, ...] = (1, 0)

    def __init__(self) -> None:
        self.started: list[tuple[str, int]] = []
        self.events: list[dict[str, Any]] = []
        self.fails_dump = self.starts_cold = self.forgets = False
        self.results = iter([b"whole", b"whole"])

    def start(self, name: str, program: Program, node: int) -> FakeLive:
        self.started.append((name, node))
        container = f"c{len(self.started)}"
        stored = [event["data"]["snapshot_id"] for event in self.events if event["type"] == "snapshot.stored"]
        self.says("container.started", container_id=container)
        return FakeLive(self, container, None if self.starts_cold or not stored else stored[-1])

    def says(self, kind: str, **data: Any) -> None:
        self.events.append({"type": kind, "data": data})

    def history(self, name: str) -> list[dict[str, Any]]:
        return self.events


class FakeLive:
    def __init__(self, place: FakePlace, container: str, restored_from: str | None) -> None:
        self.place, self.container, self.restored_from = place, container, restored_from

    def runs(self) -> bool:
        return True

    def shell(self, text: str) -> subprocess.CompletedProcess[str]:
        code = 1 if text == "check" and self.place.forgets else 0
        return subprocess.CompletedProcess([], code, "7\n", "it is empty" if code else "")

    def read(self, path: str) -> bytes | None:
        return next(self.place.results)

    def stop(self) -> None:
        snapshot = f"s-{self.container}"
        if self.place.fails_dump:
            failure = {"code": "file-outside", "cause": "a socket"}
            self.place.says("snapshot.dump-failed", snapshot_id=snapshot, failure=failure)
            return
        self.place.says("snapshot.captured", snapshot_id=snapshot, freeze_seconds=0.25)
        self.place.says("snapshot.stored", snapshot_id=snapshot, raw_bytes=10, stored_bytes=5)

    def said(self) -> str:
        return "nothing"

    def end(self) -> None:
        return None


def test_it_is_moved_as_often_as_the_place_says_and_compared_with_a_run_without_interruption() -> None:
    place = FakePlace()
    row = live(PROGRAM, place)
    assert (row.out_of_the_box, row.moves, row.version) == (True, 2, "7")
    assert (row.freeze_seconds, row.raw_bytes, row.stored_bytes) == (0.25, 10, 5)
    assert place.started == [("counter-whole", 1), ("counter", 0), ("counter", 1), ("counter", 0)]
    place = FakePlace()
    place.moves = (1,)
    assert live(PROGRAM, place).moves == 1


@pytest.mark.parametrize(
    ("fault", "step", "code"),
    [
        ("fails_dump", "snapshot", "file-outside"),
        ("starts_cold", "restore", "unknown"),
        ("forgets", "state", "state-differs"),
    ],
)
def test_what_goes_wrong_is_its_row(fault: str, step: str, code: str) -> None:
    place = FakePlace()
    setattr(place, fault, True)
    row = live(PROGRAM, place)
    assert (row.out_of_the_box, row.step, row.code) == (False, step, code)


def test_another_result_than_without_interruption_is_no_success() -> None:
    place = FakePlace()
    place.results = iter([b"whole", b"another"])
    row = live(PROGRAM, place)
    assert (row.out_of_the_box, row.step, row.code, row.moves) == (False, "state", "state-differs", 2)


def test_a_program_that_does_not_come_up_says_nothing_of_its_restore() -> None:
    class Unable(FakePlace):
        def start(self, name: str, program: Program, node: int) -> FakeLive:
            raise AssertionError("it ended")

    with pytest.raises(NotStartedError, match="it ended"):
        live(PROGRAM, Unable())
