"""A chaos run accounts for every id: what it makes of places that keep their promises, and of places that do not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from chaos.account import failures, unfinished
from chaos.campaign import Campaign
from chaos.place import Ended, Live
from chaos.programs import Program, gap
from chaos.report import render

from controlplane.domain.invariants import Rule
from woodfrog.protocol.events import AnyEvent, DumpFailed, DumpStage, SnapshotCaptured, SnapshotStoreDelayed
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import CheckpointKey, IncarnationNumber, NodeName, SnapshotId

pytestmark = pytest.mark.timeout(20)


NOW = datetime(2026, 11, 30, tzinfo=UTC)
KEY = CheckpointKey("local", "default", "chaos-00-loop")
FULL = Failure("disk-full", "no space is left in /store", "Free space there.")


def captured(name: str) -> SnapshotCaptured:
    """A dump that lies on its node."""
    about = {"key": KEY, "incarnation": IncarnationNumber(1), "node": NodeName("a")}
    return SnapshotCaptured(**about, snapshot_id=SnapshotId(name), freeze_seconds=0.1, raw_bytes=1)


def delayed(capture: SnapshotCaptured) -> SnapshotStoreDelayed:
    """The store is full for it."""
    about = {"key": KEY, "incarnation": capture.incarnation, "node": capture.node}
    return SnapshotStoreDelayed(**about, snapshot_id=capture.snapshot_id, failure=FULL, since=NOW)


def given_up(capture: SnapshotCaptured) -> DumpFailed:
    """The store was full for too long."""
    about = {"key": KEY, "incarnation": capture.incarnation, "node": capture.node}
    return DumpFailed(**about, snapshot_id=capture.snapshot_id, stage=DumpStage.STORE, failure=FULL)


class Counting:
    """A container that counts on whenever it is looked at, until ``stands_at``."""

    def __init__(self, name: str, lines: int, restored_from: str | None, stands_at: int = 10**6) -> None:
        self.name, self.lines, self.restored_from, self.stands_at = name, lines, restored_from, stands_at

    def runs(self) -> bool:
        return True

    def record(self) -> list[str]:
        self.lines = min(self.lines + 1, self.stands_at)
        return [str(number + 1) for number in range(self.lines)]


class Imagined:
    """A place in memory. ``loses`` lines at each restore; ``explains`` what it does; ``stands`` still after a dump that was refused."""

    def __init__(
        self,
        *,
        loses: int = 0,
        explains: bool = True,
        forgets: bool = False,
        starts: bool = True,
        stores: bool = True,
        stands: bool = False,
        log: tuple[AnyEvent, ...] = (),
    ) -> None:
        self.loses, self.explains, self.forgets, self.starts = loses, explains, forgets, starts
        self.stores, self.stands, self.events = stores, stands, log
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
        return Ended(captured=True, said="", snapshot_id=self._capture(live.name))

    def crash(self, live: Live) -> None:
        pass

    def checkpoint(self, name: str) -> bool:
        if self.stands:
            self.running[name].stands_at = self.running[name].lines
            return False
        self._capture(name)
        return True

    def newest_stored(self, name: str) -> str | None:
        return self.snapshots[name][-1][0] if self.stores else None

    def why(self, name: str) -> str:
        return "no snapshot is usable" if self.explains else ""

    def harms(self) -> dict[str, Callable[[], Callable[[], None]]]:
        return {"nothing": self._harm, "something": self._never}

    def trouble(self, live: Live) -> str:
        return "none"

    def log(self) -> list[tuple[AnyEvent, datetime]]:
        return [(event, NOW) for event in self.events]

    def healthy(self) -> bool:
        return True

    def _capture(self, name: str) -> str:
        known = self.snapshots.setdefault(name, [])
        known.append((f"s{len(known):03}", self.running[name].lines))
        return known[-1][0]

    def _harm(self) -> Callable[[], None]:
        self.harmed += 1
        return lambda: None

    def _never(self) -> Callable[[], None]:
        raise AssertionError("a harm that was not asked for")


def soon(what: Callable[[], object], *_: object, saying: str) -> object:
    """Wait without a clock."""
    for _ in range(5):
        if value := what():
            return value
    raise AssertionError(saying)


def ran(place: Imagined, monkeypatch: pytest.MonkeyPatch) -> Campaign:
    """A run of 80 acts, in no time."""
    clock = iter(range(10_000))
    monkeypatch.setattr("chaos.campaign.time.monotonic", lambda: float(next(clock)))
    monkeypatch.setattr("chaos.campaign.time.sleep", lambda _seconds: None)
    monkeypatch.setattr("chaos.campaign._HARM_SECONDS", 0.0)
    monkeypatch.setattr("chaos.campaign.until", soon)
    run = Campaign(place, seed=5, seconds=160, ids=10, running=4, only="noth")
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
        (Imagined(loses=50, stores=False), Rule.WRONG_DATA),
        (Imagined(stands=True), Rule.WRONG_DATA),
        (Imagined(log=(captured("s000"), delayed(captured("s000")))), Rule.LOST_CAPTURE),
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


def test_what_failed_is_counted_by_its_cause_and_a_capture_is_stored_or_given_up() -> None:
    one, other = captured("s000"), captured("s001")
    log = [(event, NOW) for event in (one, other, delayed(one), delayed(other), given_up(one))]
    assert [(each.what, each.example, each.times) for each in failures(log)] == [
        ("captured, not stored", FULL, 2),
        ("dump: store", FULL, 1),
    ]
    assert [each.about for each in unfinished(log)] == ["s001 on a is neither stored nor given up"]


def test_the_report_is_one_file_that_needs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    page = render(ran(Imagined(loses=50, log=(captured("s000"), delayed(captured("s000")))), monkeypatch))
    assert "wrong-data" in page
    assert FULL.advice in page
    assert "chaos-00-loop" in page
    assert "http" not in page
    assert "src=" not in page


@pytest.mark.parametrize(
    ("lines", "problem"),
    [(["1", "2 x"], None), ([], None), (["1", "3"], "line 2 says '3'"), (["2"], "line 1 says '2'"), (["1", "1"], "line 2 says '1'")],
)  # fmt: skip
def test_a_record_must_count_on_by_one(lines: list[str], problem: str | None) -> None:
    assert gap(lines) == problem
