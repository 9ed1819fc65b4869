"""Every variable that the control plane, the node worker and ``woodfrog dev`` read is on the page of settings, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(20)

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs/reference/settings.md"
READERS = (
    "controlplane/settings.py", "controlplane/http/api/settings.py", "nodeworker/settings.py", "woodfrog/service/natstls.py",
    "woodfrog/local/dev.py", "woodfrog/local/demo.py", "controlplane/__main__.py",
)  # fmt: skip
VARIABLE = re.compile(r"WOODFROG_[A-Z][A-Z_]*[A-Z]")


def test_the_page_names_every_variable_and_no_other() -> None:
    read = {name for file in READERS for name in re.findall(rf'"({VARIABLE.pattern})"', (ROOT / file).read_text())}
    said = {name for row in PAGE.read_text().splitlines() if row.startswith("| `") for name in VARIABLE.findall(row)}
    assert said == read
