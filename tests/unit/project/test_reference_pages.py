"""Pages that are written from code say what the code says now."""

from __future__ import annotations

import pytest
from support.reference_pages import PAGES, REFERENCE

pytestmark = pytest.mark.timeout(30)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_that_is_written_from_code_is_current(name: str) -> None:
    assert (REFERENCE / name).read_text() == PAGES[name](), (
        "write it with: cd tests && ../.venv/bin/python -m support.reference_pages"
    )
