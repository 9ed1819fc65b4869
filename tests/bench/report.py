"""What every benchmark writes: ours beside a peer's, measured alternately in the same run, as a ratio.

``build/bench/<name>.json`` holds a list of rows with the raw numbers of every run; the table is for people. For writers of
benchmarks: :func:`row` compares two series, or holds one series to an absolute goal where there is no peer;
:func:`overhead` tells what ours costs on top of a peer; :func:`publish` writes and shows them. A goal is a text such as
``<= 1.15`` or ``>= 2``: on the ratio where there is one, else on ``ours``.
"""

from __future__ import annotations

import json
import operator
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TypedDict

from rich.console import Console
from rich.table import Table

DIRECTORY: Final = Path(__file__).resolve().parents[2] / "build" / "bench"
_GOAL: Final = re.compile(r"(<=|>=) (\d+(?:\.\d+)?)")
_COMPARE: Final = {"<=": operator.le, ">=": operator.ge}


class Runs(TypedDict):
    """The measured values in the order in which they were taken."""

    ours: list[float]
    peer: list[float]


class Row(TypedDict):
    """One comparison. ``ours`` and ``peer`` are medians in ``unit``; ``ratio`` is ours by peer's, if that is asked for."""

    name: str
    unit: str
    ours: float
    peer: float | None
    peer_name: str | None
    ratio: float | None
    goal: str
    runs: Runs


def row(
    name: str,
    unit: str,
    ours: Sequence[float],
    peer: Sequence[float] | None = None,
    *,
    peer_name: str | None = None,
    goal: str = "<= 1.0",
) -> Row:
    """Compare the medians of two alternating series of the same length; without a peer the goal is on ours.

    Raises:
        ValueError: if the goal cannot be read, the series differ in length, or a peer has no name.
    """
    _parse(goal)
    if (peer is None) != (peer_name is None) or (peer is not None and len(peer) != len(ours)):
        raise ValueError(f"{name}: a peer has a name and as many runs as ours")
    middle = statistics.median(ours)
    other = None if peer is None else statistics.median(peer)
    return Row(
        name=name,
        unit=unit,
        ours=middle,
        peer=other,
        peer_name=peer_name,
        ratio=None if other is None else middle / other,
        goal=goal,
        runs=Runs(ours=list(ours), peer=list(peer or ())),
    )


def overhead(name: str, unit: str, ours: Sequence[float], peer: Sequence[float], *, peer_name: str, goal: str) -> Row:
    """Tell what ours takes on top of the peer: the median of the differences of each pair of runs, with the goal on it.

    Raises:
        ValueError: as :func:`row`.
    """
    _parse(goal)
    differences = [mine - theirs for mine, theirs in zip(ours, peer, strict=True)]
    return Row(
        name=name,
        unit=unit,
        ours=statistics.median(differences),
        peer=statistics.median(peer),
        peer_name=peer_name,
        ratio=None,
        goal=goal,
        runs=Runs(ours=differences, peer=list(peer)),
    )


def is_met(measured: Row) -> bool:
    """Say whether a row reaches its goal."""
    sign, bound = _parse(measured["goal"])
    value = measured["ours"] if measured["ratio"] is None else measured["ratio"]
    return bool(_COMPARE[sign](value, bound))


def publish(benchmark: str, rows: Sequence[Row]) -> Path:
    """Write the rows to ``build/bench/<benchmark>.json`` and show them as a table; return the file."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    path = DIRECTORY / f"{benchmark}.json"
    path.write_text(json.dumps(list(rows), indent=1) + "\n")
    table = Table(title=benchmark)
    for heading in ("measured", "unit", "ours", "peer", "ratio", "goal", "runs", "peer is"):
        table.add_column(heading, justify="left" if heading in {"measured", "unit", "peer is"} else "right")
    for each in rows:
        colour = "green" if is_met(each) else "red"
        ours = _figure(each["ours"])
        table.add_row(
            each["name"],
            each["unit"],
            f"[{colour}]{ours}[/]" if each["ratio"] is None else ours,
            _figure(each["peer"]),
            f"[{colour}]{_figure(each['ratio'])}[/]",
            each["goal"],
            str(len(each["runs"]["ours"])),
            each["peer_name"] or "",
        )
    Console(width=140).print(table)
    return path


def _parse(goal: str) -> tuple[str, float]:
    found = _GOAL.fullmatch(goal)
    if found is None:
        raise ValueError(f"{goal!r} is no goal; write '<= 1.15' or '>= 2'")
    return found[1], float(found[2])


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3f}"
