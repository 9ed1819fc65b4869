"""Every failure that the product can tell of is explained on one page, and nothing else is."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeworker.domain.criu_complaints import RULES, UNKNOWN

pytestmark = pytest.mark.timeout(60)

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs/reference/failures.md"
PACKAGES = ("controlplane", "nodeworker", "woodfrog")
TOLD_OF_COMMANDS = {"command-failed", "command-expired"}
"""Put together from the status of a command."""


def modules() -> list[ast.Module]:
    return [ast.parse(path.read_text()) for package in PACKAGES for path in (ROOT / package).rglob("*.py")]


def names_and_texts(trees: list[ast.Module]) -> dict[str, str]:
    """The constants of all modules that are text."""
    found = {}
    for tree in trees:
        for node in tree.body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            value = getattr(node, "value", None)
            if isinstance(targets[0], ast.Name) and isinstance(value, ast.Constant) and isinstance(value.value, str):
                found[targets[0].id] = value.value
    return found


def makers(trees: list[ast.Module]) -> set[str]:
    """``Failure`` itself, and whatever function takes a code first and makes one of it."""
    functions = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    return {"Failure"} | {each.name for each in functions if each.args.args and each.args.args[0].arg == "code"}


def codes() -> Iterator[str]:
    trees = modules()
    texts, making = names_and_texts(trees), makers(trees)
    for call in (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)):
        if getattr(call.func, "id", getattr(call.func, "attr", None)) not in making:
            continue
        given = [word.value for word in call.keywords if word.arg == "code"] or call.args[:1]
        for code in given:
            if isinstance(code, ast.Constant) and isinstance(code.value, str):
                yield code.value
            elif isinstance(code, ast.Name) and code.id in texts:
                yield texts[code.id]


def codes_of_the_page() -> Iterator[str]:
    """What the page says itself, where the API says nothing."""
    for path in (ROOT / "controlplane/http/page").glob("*.js"):
        yield from re.findall(r'code: "([a-z0-9-]+)", cause: ', path.read_text())


def explained() -> set[str]:
    cells = re.findall(r"^\| (`[^|]*`) \|", PAGE.read_text(), re.MULTILINE)
    return {code for cell in cells for code in re.findall(r"`([a-z0-9-]+)`", cell)}


def test_every_code_is_explained() -> None:
    produced = {*codes(), *codes_of_the_page(), *TOLD_OF_COMMANDS, *(rule.code for rule in (*RULES, UNKNOWN))}
    assert len(produced) > 80
    assert produced - explained() == set(), f"explain them in {PAGE.relative_to(ROOT)}"
    assert explained() - produced == set(), "nothing produces these any more"


def test_every_code_whose_advice_was_followed_is_one() -> None:
    page = (ROOT / "docs/explanation/promises.md").read_text()
    *_, section = page.split("\n## An advice that was followed")
    named = re.findall(r"`([a-z0-9-]+)`", "".join(re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE)))
    assert len(named) > 25
    assert [code for code in named if code not in explained()] == []
