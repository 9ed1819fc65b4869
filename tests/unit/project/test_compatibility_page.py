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
    assert page.PAGE.read_text() == page.render(*map(page.known, page.FOUND.values()))


def test_programs_have_names_of_their_own_and_every_row_is_of_one_of_them() -> None:
    names = [program.name for program in PROGRAMS]
    assert len(set(names)) == len(names)
    for data in page.FOUND.values():
        assert {row.program for row in page.known(data)} <= set(names)


def test_whatever_does_not_continue_has_an_entry_and_a_code_that_says_why() -> None:
    rows = [row for data in page.FOUND.values() for row in page.known(data)]
    failing = {row.program: row.code for row in rows if not row.out_of_the_box}
    assert set(failing) == set(ENTRIES)
    assert UNKNOWN.code not in failing.values()
    assert "unknown" not in failing.values()


def test_a_newer_row_replaces_the_older_one() -> None:
    old = Row(program="redis", version="1", out_of_the_box=True, moves=2, date="2026-01-01")
    other = Row(program="valkey", version="8", out_of_the_box=True, moves=2, date="2026-01-01")
    new = Row(program="redis", version="2", out_of_the_box=True, moves=2, freeze_seconds=0.25, stored_bytes=1 << 20)
    rows = page.merged(page.merged(page.merged([], other), old), new)
    assert [row.program for row in rows] == ["redis", "valkey"]
    text = page.render(rows, [])
    assert "| Redis | 2 | yes | 0.25 s |  | 1.0 MiB |" in text
    assert "2 programs; 2 of them" in text


def test_what_a_cluster_moved_has_a_column_of_its_own_and_an_entry_if_it_failed() -> None:
    rows = [
        Row(program=name, version="1", out_of_the_box=True, moves=2, date="2026-01-01") for name in ("redis", "valkey")
    ]
    moved = [
        Row(program="redis", version="1", out_of_the_box=True, moves=1, date="2026-02-02"),
        Row(program="valkey", version="1", out_of_the_box=False, moves=0, date="2026-02-03", step="state", code="state-differs", cause="it began anew"),
    ]  # fmt: skip
    assert "| Redis | 1 |  |  |  |  |  |  | yes, 2026-02-02 |" in page.render([], moved)
    text = page.render(rows, moved)
    assert "| Redis | 1 | yes |  |  |  |  | 2026-01-01 | yes, 2026-02-02 |" in text
    assert "| 2026-01-01 | no, 2026-02-03: [`state-differs`](#valkey), at the state |" in text
    assert "2 programs; 2 of them continue out of the box. 2 were moved on a cluster; 1 of them continued." in text
    assert "`state-differs`: it began anew" in text
