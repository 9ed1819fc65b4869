"""The form in which every benchmark tells its numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench import report

pytestmark = pytest.mark.timeout(5)


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(report, "DIRECTORY", tmp_path / "bench")


def test_a_published_row_holds_medians_a_ratio_and_every_run() -> None:
    made = report.row("frozen", "s", [3.0, 1.0, 2.0], [2.0, 8.0, 4.0], peer_name="runc", goal="<= 1.15")
    assert json.loads(report.publish("dump", [made]).read_text()) == [
        {
            "name": "frozen",
            "unit": "s",
            "ours": 2.0,
            "peer": 4.0,
            "peer_name": "runc",
            "ratio": 0.5,
            "goal": "<= 1.15",
            "runs": {"ours": [3.0, 1.0, 2.0], "peer": [2.0, 8.0, 4.0]},
        }
    ]


def test_overhead_is_the_median_difference_of_pairs_so_that_drift_cancels() -> None:
    made = report.overhead("create", "ms", [12.0, 112.0, 1013.0], [10.0, 110.0, 1010.0], peer_name="runc", goal="<= 5")
    assert (made["ours"], made["peer"], made["ratio"]) == (2.0, 110.0, None)
    assert made["runs"]["ours"] == [2.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("goal", "ours", "met"),
    [("<= 1.15", 1.15, True), ("<= 1.15", 1.16, False), (">= 2", 2, True), (">= 2", 1.9, False)],
)
def test_a_goal_is_met_on_the_ratio_where_there_is_one(goal: str, ours: float, met: bool) -> None:
    assert report.is_met(report.row("x", "s", [ours * 100], [100], peer_name="peer", goal=goal)) is met
    assert report.is_met(report.row("x", "s", [ours], goal=goal)) is met


def test_a_row_without_a_peer_says_so() -> None:
    made = report.row("rate", "events/s", [15_000.0], goal=">= 15000")
    assert (made["peer"], made["peer_name"], made["ratio"], made["runs"]["peer"]) == (None, None, None, [])


@pytest.mark.parametrize("goal", ["", "1.15", "<=1.15", "< 1", "<= fast"])
def test_a_goal_that_nobody_can_read_is_refused(goal: str) -> None:
    with pytest.raises(ValueError, match="is no goal"):
        report.row("x", "s", [1.0], [1.0], peer_name="peer", goal=goal)


def test_series_of_different_lengths_are_not_compared() -> None:
    with pytest.raises(ValueError, match="as many runs"):
        report.row("x", "s", [1.0, 2.0], [1.0], peer_name="peer")
