"""What people read is plain technical English (docs/explanation/house.md is where the words come from)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from woodfrog.cli.main import app

pytestmark = pytest.mark.timeout(30)

ROOT = Path(__file__).parents[3]
PACKAGES = ("controlplane", "nodeworker", "woodfrog")
UNUSED = re.compile(
    r"\b(goes on|go on|went on|anew|told|tells|shall|at the longest|says? why|a new life|cannot be meant|whoever|nobody"
    r"|somebody|(?<!there )(?<!is )is no (?!longer)[a-z]+)\b",
    re.IGNORECASE,
)
"""Words that a native engineer would not write there, and ``is no X`` for ``is not an X``."""
NOT_FOR_PEOPLE = {"tells", "nobody"}
"""A folder on nodes that keeps its name, and Kubernetes's and Linux's word."""


def texts(tree: ast.AST) -> Iterator[ast.Constant]:
    """Text that may reach a person: no docstrings."""
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node


def spoken(path: Path) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{each.lineno}: {each.value}"
        for each in texts(ast.parse(path.read_text()))
        if each.value not in NOT_FOR_PEOPLE and not each.value.startswith("@") and UNUSED.search(each.value)
    ]


def test_texts_use_the_words_of_the_field() -> None:
    found = [line for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")) for line in spoken(path)]
    assert found == []


@pytest.mark.parametrize("text", ["it goes on from s1", "x is no file", "Whoever asks", "at the longest"])
def test_and_the_other_words_are_found(text: str) -> None:
    assert UNUSED.search(text)


@pytest.mark.parametrize("text", ["there is no file", "it is no longer there", "resumes from s1"])
def test_but_not_plain_ones(text: str) -> None:
    assert not UNUSED.search(text)


def helps(command: Any, name: str = "woodfrog") -> Iterator[str]:
    """What ``--help`` says of a command, of those below it and of their options."""
    yield f"{name}: {command.help}"
    for option in command.params:
        yield f"{name} {option.name}: {getattr(option, 'help', None)}"
    for word, verb in getattr(command, "commands", {}).items():
        yield from helps(verb, f"{name} {word}")


def test_help_uses_the_words_of_the_field() -> None:
    said = list(helps(get_command(app)))
    assert len(said) > 200
    assert [text for text in said if UNUSED.search(text)] == []
