"""Lists that are too long to be held in memory: rows are generated again for each pass, and none is kept."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from operator import methodcaller
from typing import Any

import msgspec
import yaml

from woodfrog.output import Column, ListForm, aligned, cell, heading

Rows = Callable[[], Iterator[dict[str, Any]]]


def put_streamed(rows: Rows, columns: Sequence[Column], form: ListForm, *, name: str, empty: str) -> None:
    """Write rows as :func:`woodfrog.output.put_list` does. A table takes two passes: one finds its widths."""
    match form:
        case ListForm.JSON:
            _put_json(rows)
        case ListForm.YAML:
            for row in rows():
                sys.stdout.write(yaml.safe_dump([msgspec.to_builtins(row)], sort_keys=False, allow_unicode=True))
        case ListForm.NAME:
            for row in rows():
                sys.stdout.write(f"{cell(row.get(name))}\n")
        case ListForm.WIDE:
            first = next(rows(), {})
            _put_table(rows, [(heading(field), methodcaller("get", field)) for field in first], empty)
        case _:
            _put_table(rows, columns, empty)


def _put_json(rows: Rows) -> None:
    sys.stdout.write("[")
    before = "\n"
    for row in rows():
        sys.stdout.write(f"{before}  {msgspec.json.encode(row).decode()}")
        before = ",\n"
    sys.stdout.write("\n]\n")


def _put_table(rows: Rows, columns: Sequence[Column], empty: str) -> None:
    widths = [len(title) for title, _ in columns]
    some = False
    for row in rows():
        some = True
        widths = [max(width, len(cell(get(row)))) for width, (_, get) in zip(widths, columns, strict=True)]
    if not some:
        sys.stderr.write(f"{empty}\n")
        return
    sys.stdout.write(f"{aligned([title for title, _ in columns], widths)}\n")
    for row in rows():
        sys.stdout.write(f"{aligned([cell(get(row)) for _, get in columns], widths)}\n")
