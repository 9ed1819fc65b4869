"""How verbs answer: a table for people, or JSON for programs, from the same rows.

JSON goes out whole and alone on standard output, so that ``woodfrog … -o json | jq`` always works; whatever else there is
to say goes to standard error.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import partial
from typing import Any

import msgspec
import yaml

from woodfrog.service.printable import printable

Column = tuple[str, Callable[[dict[str, Any]], Any]]
"""A heading and how to get its cell out of a row; ``None`` is shown as ``-``."""


class Form(StrEnum):
    """What ``-o`` may be."""

    TABLE = "table"
    JSON = "json"


class ListForm(StrEnum):
    """What ``-o`` may be of verbs that list rows."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


def put_list(
    rows: Sequence[dict[str, Any]], columns: Sequence[Column], form: ListForm, *, name: str, empty: str
) -> None:
    """Write rows in the form that was asked for; ``name`` is the field that names a row, and ``columns`` some of its fields."""
    match form:
        case ListForm.YAML:
            sys.stdout.write(yaml.safe_dump(msgspec.to_builtins(list(rows)), sort_keys=False, allow_unicode=True))
        case ListForm.NAME:
            sys.stdout.write("".join(f"{cell(row.get(name))}\n" for row in rows))
        case ListForm.WIDE:
            fields = list(dict.fromkeys(field for row in rows for field in row))
            put(
                rows,
                [(heading(field), partial(_field, field)) for field in fields],
                Form.TABLE,
                empty=empty,
            )
        case _:
            put(rows, columns, Form(form), empty=empty)


def _field(name: str, row: dict[str, Any]) -> Any:
    return row.get(name)


def put_json(value: Any) -> None:
    """Write a value as one JSON document, indented."""
    text = msgspec.json.format(msgspec.json.encode(value), indent=2)
    sys.stdout.write(f"{text.decode()}\n")


def table(rows: Sequence[dict[str, Any]], columns: Sequence[Column]) -> str:
    """Lay rows out in columns as wide as their widest cell, and never cut: what is copied from a table must be whole."""
    cells = [[heading for heading, _ in columns]]
    cells += [[cell(get(row)) for _, get in columns] for row in rows]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    return "\n".join(aligned(line, widths) for line in cells)


def aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Write one line of a table."""
    return "   ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def heading(field: str) -> str:
    """Write the name of a field as the heading of its column."""
    return field.replace("_", " ").upper()


def put(rows: Sequence[dict[str, Any]], columns: Sequence[Column], form: Form, *, empty: str) -> None:
    """Write rows in the form that was asked for; ``empty`` is what a person is told where there are none."""
    if form is Form.JSON:
        put_json(list(rows))
    elif rows:
        sys.stdout.write(f"{table(rows, columns)}\n")
    else:
        sys.stderr.write(f"{empty}\n")


def cell(value: Any) -> str:
    """Write a value as one cell of a table."""
    if value is None or value == "":
        return "-"
    return printable(" ".join(str(value).split()))
