"""What a line on a page calls: the commands in it, and whether Woodfrog has such verbs, options, modules, targets and values."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

from typer.main import get_command

from nodeworker.host.__main__ import _parser as node_parser
from support.console import ROOT
from woodfrog.cli.main import app

_woodfrog = cache(lambda: get_command(app))
_SEPARATORS = {"|", "||", "&&", ";", "&", "(", ")", ";;"}
_ASSIGNMENT = re.compile(r"^[A-Z_]+=")
_ANNOTATION = re.compile(r"\bwoodfrog\.io/([a-z][a-z-]*)")


def commands(line: str) -> Iterator[list[str]]:
    """The simple commands of a line, without variables that are set before them."""
    lexer = shlex.shlex(line.replace("\\\n", " "), posix=True, punctuation_chars="();|&")
    lexer.whitespace_split = True
    words = list[str]()
    for word in [*lexer, ";"]:
        if word in _SEPARATORS:
            while words and _ASSIGNMENT.match(words[0]):
                words.pop(0)
            if words:
                yield words
            words = []
        else:
            words.append(word)


def called(words: Sequence[str]) -> tuple[str, list[str]] | None:
    """Which program of Woodfrog a command calls, also inside of a pod or a container, and with which words."""
    for number, word in enumerate(words):
        name = word.rpartition("/")[2]
        inside = number > 0 and (words[number - 1] in {"--", "kubectl", "controlplane"} or "exec" in words[:number])
        if name in {"woodfrog", "woodfrog-node"} and (number == 0 or (inside and words[0] in {"kubectl", "docker"})):
            return name, list(words[number + 1 :])
    return None


def problem_of(words: Sequence[str]) -> str:
    """What is wrong with a command; empty if nothing is, or if it is not for us to say."""
    ours = called(words)
    if ours is not None:
        return _of_node(ours[1]) if ours[0] == "woodfrog-node" else _of_woodfrog(ours[1])
    program = words[0].rpartition("/")[2]
    if program == "make":
        targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        missing = [word for word in words[1:] if "=" not in word and word not in targets]
        return f"make has no target {missing}" if missing else ""
    if program in {"python", "python3"} and words[1:2] == ["-m"]:
        return "" if importlib.util.find_spec(words[2]) else f"there is no module {words[2]}"
    if program == "helm":
        values = [words[number + 1].partition("=")[0] for number, word in enumerate(words) if word == "--set"]
        missing = [value for value in values if not is_value(value)]
        return f"the chart has no value {missing}" if missing else ""
    return ""


def _of_node(words: list[str]) -> str:
    try:
        node_parser().parse_args(words)
    except SystemExit:
        return f"woodfrog-node does not take {words}"
    return ""


def _of_woodfrog(words: list[str]) -> str:
    command: Any = _woodfrog()
    context: Any = None
    name = "woodfrog"
    try:
        while hasattr(command, "commands"):
            context = command.make_context(
                name, words[:1] if words[:1] == ["--version"] else [], parent=context, resilient_parsing=True
            )
            if not words or words[0].startswith("--"):
                return ""
            name, words = words[0], words[1:]
            if name not in command.commands:
                return f"there is no verb {name!r}"
            command = command.commands[name]
        command.make_context(name, words, parent=context)
    except Exception as problem:  # noqa: BLE001 - typer's own are not for others
        return f"woodfrog {name} does not take {words}: {getattr(problem, 'message', problem)}"
    return ""


def verb_problem(words: list[str]) -> str:
    """What is wrong with a command that a sentence mentions: its verb, or an option; arguments may be left out."""
    command: Any = _woodfrog()
    for number, word in enumerate(words):
        if not hasattr(command, "commands"):
            options = {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
            named = words[number : words.index("--") if "--" in words else None]
            short = {option[1] for option in options if len(option) == 2}
            wrong = [
                each for each in named
                if each.startswith("-") and each.partition("=")[0] not in options
                and (each.startswith("--") or set(each[1:]) - short)
            ]  # fmt: skip
            return f"it has no {wrong}" if wrong else ""
        if word.startswith("-") or not re.fullmatch(r"[a-z][a-z-]*", word):
            return ""
        if word not in command.commands:
            return f"there is no verb {word!r}"
        command = command.commands[word]
    return ""


@cache
def _schema() -> Any:
    return json.loads((ROOT / "helm/woodfrog/values.schema.json").read_text())


def is_value(path: str) -> bool:
    """Whether the chart has a value."""
    known = _schema()
    for part in path.split("."):
        if part not in known.get("properties", {}):
            return bool(known.get("additionalProperties", "properties" not in known))
        known = known["properties"][part]
        if "$ref" in known:
            known = _schema()["definitions"][known["$ref"].rpartition("/")[2]]
    return True


def unknown_values(values: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """The paths in a document of values that the chart does not have."""
    for key, value in values.items():
        if not is_value(path + key):
            yield path + key
        elif isinstance(value, dict):
            yield from unknown_values(value, f"{path}{key}.")


def tops() -> set[str]:
    """The first words of the chart's values."""
    return set(_schema()["properties"])


def annotations(text: str) -> set[str]:
    """Names of annotations and labels of ours in a text."""
    return set(_ANNOTATION.findall(text))


@cache
def known_annotations() -> set[str]:
    """Those that the code and the chart know."""
    files = [path for top in ("controlplane", "nodeworker", "woodfrog", "helm") for path in (ROOT / top).rglob("*")]
    found = set[str]()
    for path in files:
        with suppress(UnicodeDecodeError):
            if path.is_file() and path.suffix in {".py", ".yaml", ".tpl", ".json", ".txt"}:
                found |= annotations(path.read_text())
    return found
