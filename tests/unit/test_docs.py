"""The pages are for people who follow what they point at."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(20)

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
MODULE = re.compile(r"`((?:[\w-]+/)+[\w.-]*|[\w-]+\.py)`")
ROOMS = (
    "",
    "controlplane",
    "controlplane/bus",
    "controlplane/domain",
    "controlplane/log",
    "nodeworker",
    "nodeworker/capture",
    "nodeworker/domain",
    "nodeworker/runtime",
    "protocol",
    "woodfrog",
)


def pages() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT, check=True, capture_output=True, text=True, timeout=10,
    )  # fmt: skip
    return [ROOT / name for name in listed.stdout.split() if (ROOT / name).exists()]


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    targets = [target for target in LINK.findall(page.read_text()) if "://" not in target]
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_every_room_on_the_page_of_the_house_is_there() -> None:
    named = set(MODULE.findall((ROOT / "docs/explanation/house.md").read_text()))
    assert len(named) > 30
    assert sorted(name for name in named if not any((ROOT / room / name).exists() for room in ROOMS)) == []
