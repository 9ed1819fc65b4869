"""Pages that are written from code say what the code says now."""

from __future__ import annotations

import pytest
from support.reference_pages import PAGES, REFERENCE

from woodfrog.protocol import subjects

pytestmark = pytest.mark.timeout(30)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_that_is_written_from_code_is_current(name: str) -> None:
    assert (REFERENCE / name).read_text() == PAGES[name](), (
        "write it with: cd tests && ../.venv/bin/python -m support.reference_pages"
    )


def test_every_subject_is_on_a_page() -> None:
    text = "".join((REFERENCE / name).read_text() for name in ("nats.md", "audit.md", "pod-events.md"))
    subjects_ = [
        value for value in vars(subjects).values() if isinstance(value, str) and value.startswith(f"{subjects.PREFIX}.")
    ]
    assert len(subjects_) >= 8
    missing = [
        each for each in subjects_ if each.rstrip("*>.") not in text and f"….{each.rpartition('.')[2]}" not in text
    ]
    assert missing == []
