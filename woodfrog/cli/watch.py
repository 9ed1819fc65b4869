"""``--watch``: a list once, then what changes in it, until somebody has seen enough."""

from __future__ import annotations

import select
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec

from woodfrog.local.oci_bundle import BadInputError
from woodfrog.output import Column, ListForm, put_list

_SECONDS: Final = 2.0

Row = dict[str, Any]


def put_watched(
    read: Callable[[], list[Row]], columns: Sequence[Column], form: ListForm, *, name: str, empty: str, watch: bool
) -> None:
    """Write rows once, or for as long as anybody reads: first all, then those that are new or have changed.

    Raises:
        BadInputError: naming ``--watch``, with a form in which no list can be continued.
    """
    if watch and form is ListForm.YAML:
        raise BadInputError("--watch", "it cannot be combined with -o yaml; use -o json, which prints an object a line")
    rows = read()
    if not watch:
        put_list(rows, columns, form, name=name, empty=empty)
        return
    with suppress(KeyboardInterrupt, BrokenPipeError):
        _put(rows, columns, form, name=name, empty=empty)
        while not _is_deaf():
            time.sleep(_SECONDS)
            before, rows = rows, read()
            _put(changed(before, rows), columns, form, name=name, empty="")


def changed(before: Sequence[Row], now: Sequence[Row]) -> list[Row]:
    """Return the rows that were not there, or were not the same."""
    known = {msgspec.json.encode(row) for row in before}
    return [row for row in now if msgspec.json.encode(row) not in known]


def _put(rows: Sequence[Row], columns: Sequence[Column], form: ListForm, *, name: str, empty: str) -> None:
    if form is ListForm.JSON:
        sys.stdout.write("".join(f"{msgspec.json.encode(row).decode()}\n" for row in rows))
    elif rows or empty:
        put_list(rows, columns, form, name=name, empty=empty)
    sys.stdout.flush()


def _is_deaf() -> bool:
    """Whether nobody reads standard output any more."""
    poll = select.poll()
    poll.register(sys.stdout, 0)
    return any(event & (select.POLLERR | select.POLLNVAL) for _, event in poll.poll(0))
