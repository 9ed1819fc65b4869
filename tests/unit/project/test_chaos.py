"""A chaos run accounts for every id: what it makes of places that keep their promises, and of places that do not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import pytest
from chaos.campaign import Campaign
from chaos.place import Ended, Live
from chaos.programs import Program, gap
from chaos.report import render

from controlplane.domain.invariants import Rule
from woodfrog.protocol.events import AnyEvent

pytestmark = pytest.mark.timeout(20)


class Counting:
    """A container that counts on whenever it is looked at."""

    def __init__(self, name: str, lines: int, restored_from: str | None) -> None:
        self.name, self.lines, self.restored_from = name, lines, restored_from

    def runs(self) -> bool:
        return True

    def record(self) -> list[str]:
        self.lines += 1
        return [str(number + 1) for number in range(self.lines)]


class Imagined:
    """A place in memory. ``loses`` lines at each restore; ``explains`` what it does."""

    def __init__(self, *, loses: int = 0, explains: bool = True, forgets: bool = False, starts: bool = True) -> None:
        self.loses, self.explains, self.forgets, self.starts = loses, explains, forgets, starts
        self.snapshots: dict[str, list[tuple[str, int]]] = {}
        self.running: dict[str, Counting] = {}
        self.harmed = 0

    def start(self, name: str, program: Program) -> Live:
        assert self.starts, "it does not run"
        newest = self.snapshots.get(name, [])[-1:] if not self.forgets else []
        live = Counting(name, max(0, newest[0][1] - self.loses), newest[0][0]) if newest else Counting(name, 0, None)
        self.running[name] = live
        return live

    def stop(self, live: Live) -> Ended:
        assert isinstance(live, Counting)
        self._capture(live.name)
        return Ended(captured=True, said="")

    def crash(self, live: Live) -> None:
        pass

    def checkpoint(self, name: str) -> bool:
        self._capture(name)
        return True

    def newest_stored(self, name: str) -> str | None:
        return self.snapshots[name][-1][0]

    def why(self, name: str) -> str:
        return "no snapshot is usable" if self.explains else ""

    def harms(self) -> dict[str, Callable[[], Callable[[], None]]]:
        return {"nothing": self._harm}

    def trouble(self, live: Live) -> str:
        return "none"

    def log(self) -> list[tuple[AnyEvent, datetime]]:
        return []

    def healthy(self) -> bool:
        return True

    def _capture(self, name: str) -> None:
        known = self.snapshots.setdefault(name, [])
        known.append((f"s{len(known):03}", self.running[name].lines))

    def _harm(self) -> Callable[[], None]:
        self.harmed += 1
        return lambda: None


def ran(place: Imagined, monkeypatch: pytest.MonkeyPatch) -> Campaign:
    """A run of 80 acts, in no time."""
    clock = iter(range(10_000))
    monkeypatch.setattr("chaos.campaign.time.monotonic", lambda: float(next(clock)))
    monkeypatch.setattr("chaos.campaign.time.sleep", lambda _seconds: None)
    monkeypatch.setattr("chaos.campaign._HARM_SECONDS", 0.0)
    monkeypatch.setattr("chaos.campaign.until", lambda what, *_, **__: what())
    run = Campaign(place, seed=5, seconds=160, ids=10, running=4)
    run.run()
    return run


def test_a_place_that_keeps_its_promises_breaks_no_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Imagined()
    run = ran(place, monkeypatch)
    assert run.violations == []
    assert place.harmed > 5
    assert any("continued from" in start for one in run.all for start in one.starts)
    assert all(one.outcome for one in run.all)


@pytest.mark.parametrize(
    ("place", "rule"),
    [
        (Imagined(loses=50), Rule.WRONG_DATA),
        (Imagined(forgets=True, explains=False), Rule.SILENT_COLD_START),
        (Imagined(starts=False), Rule.STUCK_START),
    ],
)
def test_a_place_that_loses_work_in_silence_is_found_out(
    monkeypatch: pytest.MonkeyPatch, place: Imagined, rule: Rule
) -> None:
    assert {each.rule for each in ran(place, monkeypatch).violations} == {rule}


def test_a_cold_start_that_is_explained_is_accounted_for(monkeypatch: pytest.MonkeyPatch) -> None:
    run = ran(Imagined(forgets=True), monkeypatch)
    assert run.violations == []
    assert any(start == "cold: no snapshot is usable" for one in run.all for start in one.starts)


def test_the_report_is_one_file_that_needs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    page = render(ran(Imagined(loses=50), monkeypatch))
    assert "wrong-data" in page
    assert "chaos-00-loop" in page
    assert "http" not in page
    assert "src=" not in page


@pytest.mark.parametrize(
    ("lines", "problem"),
    [(["1", "2 x"], None), ([], None), (["1", "3"], "line 2 says '3'"), (["2"], "line 1 says '2'"), (["1", "1"], "line 2 says '1'")],
)  # fmt: skip
def test_a_record_must_count_on_by_one(lines: list[str], problem: str | None) -> None:
    assert gap(lines) == problem
