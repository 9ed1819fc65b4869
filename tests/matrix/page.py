"""docs/reference/compatibility.md, made from what the last run of each program showed: compatibility.json beside it, and compatibility-cluster.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import msgspec
from matrix.entries import ENTRIES
from matrix.program import Entry, Program
from matrix.programs import PROGRAMS
from matrix.runner import Row

_REFERENCE: Final = Path(__file__).parents[2] / "docs" / "reference"
FOUND: Final = {
    "machine": _REFERENCE / "compatibility.json",
    "cluster": _REFERENCE / "compatibility-cluster.json",
}
"""What was found, by where programs ran."""
PAGE: Final = _REFERENCE / "compatibility.md"
_MIB: Final = 1024 * 1024
_HEAD: Final = """# Compatibility

What happens to real programs, each run by `make matrix`: started, given state, stopped (which takes a snapshot), started again on
another node worker from the store, asked for its state by its own client, stopped and moved back, and asked again. This page is written by
that run; `docs/reference/compatibility.json` beside it is what the run found.

*Moved on a cluster* is what `make matrix PLACE=cluster` found (`compatibility-cluster.json`): the program ran in a pod with the runtime class, the pod was deleted, and another pod of the same
id started on another node, by Kubernetes and containerd with the chart's defaults; its state was checked by the same client. An empty field means that it has not been run there.

*Out of the box* means: with Woodfrog's defaults, the program's usual options, its data in the container's own layer, and nothing set for
Woodfrog's sake. Programs from Debian are those of Debian 13, programs from PyPI run with the Python of Debian 12. Where
root lacks CAP_SYS_RESOURCE, as on the machine of this run, processes of other users cannot be dumped (`capability-missing`): there all run as
root, and PostgreSQL, Apache httpd, Squid and RabbitMQ are made to believe in a user of their own by a preloaded library.
*Frozen* is how long the processes stood still at the first stop, on a machine with two processors that ran other tests as well; *memory* what CRIU wrote and the files that travel, *stored* the same
compressed. Training runs count only if their result is, byte for byte, that of a run without interruption.
"""


def known(data: Path) -> list[Row]:
    """Read what is known."""
    return msgspec.json.decode(data.read_bytes(), type=list[Row]) if data.exists() else []


def merged(rows: list[Row], row: Row) -> list[Row]:
    """Add a program's row, or replace it; programs that are no more are left out."""
    order = {program.name: number for number, program in enumerate(PROGRAMS)}
    others = [each for each in rows if each.program != row.program and each.program in order]
    return sorted([*others, row], key=lambda each: order[each.program])


def keep(row: Row, data: Path) -> None:
    """Write down what a program's run showed, and the page anew."""
    data.write_text(json.dumps([_told(each) for each in merged(known(data), row)], indent=1) + "\n")
    PAGE.write_text(render(*map(known, FOUND.values())))


def _told(row: Row) -> dict[str, Any]:
    return {name: value for name, value in msgspec.to_builtins(row).items() if value is not None}


def render(rows: list[Row], moved: list[Row]) -> str:
    """Write the page: of programs on one machine, and of those that a cluster moved."""
    programs = {program.name: program for program in PROGRAMS}
    here, there = ({row.program: row for row in each} for each in (rows, moved))
    lines = [
        _HEAD,
        f"{len(rows)} programs; {_good(rows)} of them continue out of the box. {len(moved)} were moved on a cluster; {_good(moved)} of them continued.\n",
        "| program | version | out of the box | frozen | memory | stored | why not | on | moved on a cluster |",
        "|---|---|---|---|---|---|---|---|---|",
        *(
            _line(here.get(name), there.get(name), program)
            for name, program in programs.items()
            if name in here or name in there
        ),
    ]
    failing = {row.program: row for row in (*moved, *rows) if not row.out_of_the_box}
    if failing:
        lines += ["", "## What does not continue, and why"]
        lines += [_entry(failing[name], program) for name, program in programs.items() if name in failing]
    return "\n".join(lines) + "\n"


def _good(rows: list[Row]) -> int:
    return sum(row.out_of_the_box for row in rows)


def _line(row: Row | None, moved: Row | None, program: Program) -> str:
    if row is None:
        assert moved is not None
        return "| " + " | ".join((program.title, moved.version, *[""] * 6, _moved(moved))) + " |"
    frozen = "" if row.freeze_seconds is None else f"{row.freeze_seconds:.2f} s"
    version = row.version.removeprefix("v=").removeprefix("v")
    cells = (
        program.title, version, "yes" if row.out_of_the_box else "no", frozen, _mib(row.raw_bytes), _mib(row.stored_bytes),
        _why_not(row), row.date, _moved(moved),
    )  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _moved(row: Row | None) -> str:
    if row is None:
        return ""
    return f"yes, {row.date}" if row.out_of_the_box else f"no, {row.date}: {_why_not(row)}"


def _why_not(row: Row) -> str:
    return "" if row.out_of_the_box else f"[`{row.code}`](#{row.program}), at the {row.step}"


def _mib(count: int | None) -> str:
    return "" if count is None else f"{count / _MIB:.1f} MiB"


def _entry(row: Row, program: Program) -> str:
    entry = ENTRIES.get(row.program, Entry("", "", ""))
    return (
        f'\n### <a id="{row.program}"></a>{program.title}\n\n'
        f"`{row.code}`: {row.cause}\n\n"
        f"- Cause: {entry.cause}\n- Whose fault: {entry.fault}\n- Needed: {entry.needed}"
    )
