"""One row of a table of complaints: the words of a tool in its log, and what they mean for the person whose container it was."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from woodfrog.protocol.failures import Failure

_LONGEST_NAME: Final = 300


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: any of ``fragments`` in an error line means this cause. ``*`` in a fragment stands for anything."""

    code: str
    fragments: tuple[str, ...]
    cause: str
    advice: str
    names: str = ""
    """A regular expression that finds in such a line what it is about, in its groups."""

    def fits(self, line: str) -> bool:
        """Whether the line means this cause."""
        return any(_stands_in(fragment, line) for fragment in self.fragments)

    def failure(self, detail: str = "", line: str = "") -> Failure:
        """Make the failure that this row stands for; ``line`` is the one that fits, which may name a file."""
        found = re.search(self.names, line) if self.names else None
        about = " ".join(group for group in found.groups() if group) if found else ""
        shown = "".join(character if character.isprintable() else "?" for character in about[:_LONGEST_NAME])
        cause = f"{self.cause}: {shown}" if shown else self.cause
        return Failure(code=self.code, cause=cause, advice=self.advice, detail=detail)


def _stands_in(fragment: str, line: str) -> bool:
    at = 0
    for part in fragment.split("*"):
        at = line.find(part, at)
        if at < 0:
            return False
        at += len(part)
    return True
