"""docs/reference/compatibility.md is what `make matrix` found, and says why for each program that does not continue."""

from __future__ import annotations

import pytest
from matrix import page
from matrix.entries import ENTRIES
from matrix.programs import PROGRAMS
from matrix.runner import Row

from nodeworker.domain.criu_complaints import UNKNOWN

pytestmark = pytest.mark.timeout(10)


def test_the_page_is_made_from_what_was_found_and_from_nothing_else() -> None:
    assert page.PAGE.read_text() == page.render(page.known())


def test_programs_have_names_of_their_own_and_every_row_is_of_one_of_them() -> None:
    names = [program.name for program in PROGRAMS]
    assert len(set(names)) == len(names)
    assert {row.program for row in page.known()} <= set(names)


def test_whatever_does_not_continue_has_an_entry_and_a_code_that_says_why() -> None:
    failing = {row.program: row.code for row in page.known() if not row.out_of_the_box}
    assert set(failing) - set(ENTRIES) == set()
    assert set(ENTRIES) & {row.program for row in page.known() if row.out_of_the_box} == set()
    assert UNKNOWN.code not in failing.values()
    assert "unknown" not in failing.values()


def test_a_newer_row_replaces_the_older_one() -> None:
    old = Row(program="redis", version="1", out_of_the_box=True, moves=2, date="2026-01-01")
    other = Row(program="valkey", version="8", out_of_the_box=True, moves=2, date="2026-01-01")
    new = Row(program="redis", version="2", out_of_the_box=True, moves=2, freeze_seconds=0.25, stored_bytes=1 << 20)
    rows = page.merged(page.merged(page.merged([], other), old), new)
    assert [row.program for row in rows] == ["redis", "valkey"]
    text = page.render(rows)
    assert "| Redis | 2 | yes | 0.25 s |  | 1.0 MiB |" in text
    assert "2 programs; 2 of them" in text
