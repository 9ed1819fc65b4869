"""What every benchmark writes: ours beside a peer's, measured alternately in the same run, as a ratio.

``build/bench/<name>.json`` holds a list of rows with the raw numbers of every run; the table is for people.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from rich.console import Console
from rich.table import Table

DIRECTORY = Path(__file__).resolve().parents[2] / "build" / "bench"


class Runs(TypedDict):
    """The measured values in the order in which they were taken."""

    ours: list[float]
    peer: list[float]


class Row(TypedDict):
    """One comparison. ``ours`` and ``peer`` are medians in ``unit``; ``ratio`` is ours by peer's; the goal is a ratio."""

    name: str
    unit: str
    ours: float
    peer: float
    peer_name: str
    ratio: float
    goal: float
    runs: Runs


def row(
    name: str, unit: str, ours: Sequence[float], peer: Sequence[float], *, peer_name: str, goal: float = 1.0
) -> Row:
    """Compare the medians of two alternating series of the same length."""
    middle, other = statistics.median(ours), statistics.median(peer)
    return Row(
        name=name,
        unit=unit,
        ours=middle,
        peer=other,
        peer_name=peer_name,
        ratio=middle / other,
        goal=goal,
        runs=Runs(ours=list(ours), peer=list(peer)),
    )


def publish(benchmark: str, rows: Sequence[Row]) -> Path:
    """Write the rows to ``build/bench/<benchmark>.json`` and show them as a table; return the file."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    path = DIRECTORY / f"{benchmark}.json"
    path.write_text(json.dumps(list(rows), indent=1) + "\n")
    table = Table(title=benchmark)
    for heading in ("measured", "unit", "ours", "peer", "ratio", "goal", "runs", "peer is"):
        table.add_column(heading, justify="left" if heading in {"measured", "unit", "peer is"} else "right")
    for each in rows:
        met = each["ratio"] <= each["goal"]
        table.add_row(
            each["name"],
            each["unit"],
            f"{each['ours']:.3f}",
            f"{each['peer']:.3f}",
            f"[{'green' if met else 'red'}]{each['ratio']:.2f}[/]",
            f"{each['goal']:.2f}",
            str(len(each["runs"]["ours"])),
            each["peer_name"],
        )
    Console(width=140).print(table)
    return path
