"""The pages are for people who follow what they point at."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from woodfrog.cli.main import app

pytestmark = pytest.mark.timeout(20)

ROOT = Path(__file__).parents[3]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
MODULE = re.compile(r"`((?:[\w-]+/)+[\w.-]*|[\w-]+\.py)`")
COMMON = {"--state-dir", "--output", "--namespace", "--database-url"}
PACKAGES = ("controlplane", "nodeworker", "woodfrog", "migrations")
SOURCE = re.compile(rf"`((?:{'|'.join(PACKAGES)}|tests|setup)/[\w/.-]+\.(?:py|in|conf))(?:::\w+)?`")

TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


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


def verbs(command: Any, name: str = "woodfrog") -> Iterator[tuple[str, set[str]]]:
    if hasattr(command, "commands"):
        for word, verb in command.commands.items():
            yield from verbs(verb, f"{name} {word}")
    else:
        yield name, {option for each in command.params for option in each.opts if option.startswith("--")} - COMMON


def test_every_verb_and_every_option_is_on_the_page_of_the_command_line() -> None:
    _, *sections = re.split(r"^## ", (ROOT / "docs/reference/cli.md").read_text(), flags=re.MULTILINE)
    missing = []
    for verb, options in verbs(get_command(app)):
        names = (f"`{verb}`", f"`{verb} ", f"`{verb.removeprefix('woodfrog ')}`", f"`{verb.removeprefix('woodfrog ')} ")
        told = [text for text in sections if any(name in text.partition("\n")[0] for name in names)]
        missing += [verb] if not told else [f"{verb} {each}" for each in options if each not in "".join(told)]
    assert missing == []


def test_every_room_on_the_page_of_the_house_is_there() -> None:
    named = set(MODULE.findall((ROOT / "docs/explanation/house.md").read_text()))
    rooms = [ROOT, *(path.parent for package in PACKAGES for path in (ROOT / package).rglob("__init__.py"))]
    assert len(named) > 60
    assert sorted(name for name in named if not any((room / name).exists() for room in rooms)) == []


def test_every_package_is_on_the_page_of_the_house() -> None:
    page = (ROOT / "docs/explanation/house.md").read_text()
    rooms = {str(path.parent.relative_to(ROOT)) for top in PACKAGES[:3] for path in (ROOT / top).glob("*/__init__.py")}
    assert sorted(room for room in rooms if f"`{room}`" not in page and room.replace("/", ".") not in page) == []


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_source_file_that_a_page_names_is_there(page: Path) -> None:
    if page.parent.name != "decisions" and page.name != "CHANGELOG.md":  # those say what was
        assert [name for name in SOURCE.findall(page.read_text()) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_test_that_a_page_names_is_there(page: Path) -> None:
    named = TEST.findall(page.read_text())
    assert [f"{file}::{name}" for file, name in named if f"def {name}(" not in (ROOT / file).read_text()] == []


def test_every_decision_is_in_the_index_under_its_title() -> None:
    folder = ROOT / "docs/decisions"
    listed = re.findall(r"^\| \[(\d+)\]\((\S+)\) \| (.*) \|$", (folder / "README.md").read_text(), re.MULTILINE)
    titles = {path.name: path.read_text().splitlines()[0] for path in sorted(folder.glob("0*.md"))}
    assert {name: f"# {number}. {title}" for number, name, title in listed} == titles


def test_every_page_is_in_the_index_of_the_documentation() -> None:
    index = ROOT / "docs/README.md"
    listed = {(index.parent / target).resolve() for target in LINK.findall(index.read_text())}
    there = {path for path in index.parent.rglob("*.md") if "decisions" not in path.parts}
    assert there - listed == {index}


def test_every_event_on_a_pod_has_a_row_in_troubleshooting() -> None:
    catalogue = "".join(path.read_text() for path in (ROOT / "controlplane/domain/catalogue").glob("*.py"))
    reasons = re.findall(r'Note\(\s*"(\w+)", "', catalogue)
    page = (ROOT / "docs/how-to/troubleshoot.md").read_text()
    assert len(reasons) >= 8
    assert [reason for reason in reasons if f"`{reason}`" not in page] == []
