"""What ``make gpu`` tells of its runs."""

from __future__ import annotations

import pytest
from support.gpu_report import Steps, fixed_seconds, gpu_seconds, table

pytestmark = pytest.mark.timeout(5)


def run(gib: float, *, fixed: float = 1.2, bandwidth: float = 5.0) -> Steps:
    """A run whose checkpoint and restore move ``bandwidth`` GiB/s."""
    return Steps(
        gpu_bytes=int(gib * 2**30),
        lock_seconds=fixed / 2,
        checkpoint_seconds=gib / bandwidth,
        criu_seconds=0.5,
        restore_seconds=gib / bandwidth,
        unlock_seconds=fixed / 2,
        bare_seconds=None,
    )


def test_the_fixed_cost_is_what_is_left_without_bytes() -> None:
    assert fixed_seconds([run(1), run(4), run(16)]) == pytest.approx(1.2)


def test_one_size_tells_nothing_of_the_fixed_cost() -> None:
    assert fixed_seconds([run(4), run(4)]) is None


def test_the_table_has_a_line_for_each_run() -> None:
    shown = table({"model": "H100", "driver": "580.1"}, [run(4), {**run(8), "bare_seconds": 3.0}])
    first, _, *rows = shown.splitlines()
    assert first.count("|") == rows[0].count("|")
    assert rows[0] == "| H100, 580.1 | 4.00 GiB | 0.600 | 0.800 | 0.500 | 0.800 | 0.600 | 5.37 | - |"
    assert rows[1].endswith("| 3.00 |")
    assert gpu_seconds(run(4)) == pytest.approx(2.8)
