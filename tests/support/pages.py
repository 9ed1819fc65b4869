"""The pages of the documentation, as what a reader does with them: files to write and commands to type."""

from __future__ import annotations

import re
from pathlib import Path

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to"


def blocks(page: Path, language: str) -> list[str]:
    """The contents of all code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def typed(page: Path) -> str:
    """A shell script of all commands of a page, in order; each is shown before what it prints."""
    lines = [line for block in blocks(page, "console") for line in block.splitlines() if line.startswith("$ ")]
    return "set -e\n" + "".join(f"printf '%s\\n' {_quoted(line)}\n{line.removeprefix('$ ')}\n" for line in lines)


def said(output: str, command: str) -> list[str]:
    """What a command of the script printed, from its output."""
    shown = output.split(f"$ {command}\n", 1)[1]
    return shown.split("\n$ ", 1)[0].splitlines()


def _quoted(line: str) -> str:
    return "'" + line.replace("'", "'\\''") + "'"
