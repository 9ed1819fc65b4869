"""How verbs answer: a table for people, or JSON for programs, from the same rows.

JSON goes out whole and alone on standard output, so that ``woodfrog … -o json | jq`` always works; whatever else there is
to say goes to standard error.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any

import msgspec

from process.printable import printable

Column = tuple[str, Callable[[dict[str, Any]], Any]]
"""A heading and how to get its cell out of a row; ``None`` is shown as ``-``."""


class Form(StrEnum):
    """What ``-o`` may be."""

    TABLE = "table"
    JSON = "json"


def put_json(value: Any) -> None:
    """Write a value as one JSON document, indented."""
    text = msgspec.json.format(msgspec.json.encode(value), indent=2)
    sys.stdout.write(f"{text.decode()}\n")


def table(rows: Sequence[dict[str, Any]], columns: Sequence[Column]) -> str:
    """Lay rows out in columns as wide as their widest cell, and never cut: what is copied from a table must be whole."""
    cells = [[heading for heading, _ in columns]]
    cells += [[_cell(get(row)) for _, get in columns] for row in rows]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    return "\n".join(
        "   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells
    )


def put(rows: Sequence[dict[str, Any]], columns: Sequence[Column], form: Form, *, empty: str) -> None:
    """Write rows in the form that was asked for; ``empty`` is what a person is told where there are none."""
    if form is Form.JSON:
        put_json(list(rows))
    elif rows:
        sys.stdout.write(f"{table(rows, columns)}\n")
    else:
        sys.stderr.write(f"{empty}\n")


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "-"
    return printable(" ".join(str(value).split()))
