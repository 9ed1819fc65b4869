"""What a program of the matrix is: what to install, how it runs, how it gets state, and how its state is checked.

All snippets are shell, run in the container; ``/workloads`` is the folder beside this file and ``lib.sh`` in it is read first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

TRIXIE: Final = "trixie"
BOOKWORM: Final = "bookworm"
"""Suites of Debian; packages from PyPI go into the older one, whose Python has a wheel of everything."""


@dataclass(frozen=True, slots=True)
class Pip:
    """Packages from PyPI that lie in one folder, ``/opt/NAME``."""

    name: str
    requirements: tuple[str, ...]
    from_source: bool = False
    """There are no wheels; what it requires is named as well."""


@dataclass(frozen=True, slots=True)
class Npm:
    """Packages from npm that lie in one folder, ``/opt/NAME``. Scripts of theirs are not run."""

    name: str
    requirements: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Program:
    """One row of docs/reference/compatibility.md."""

    name: str
    title: str
    version: str
    """Prints a version, on one line."""
    command: str
    """The container's first process."""
    check: str
    """Succeeds if what was there before the snapshot is there still, and went on."""
    ready: str = "lines 3"
    """Succeeds as soon as the program can be given its state."""
    build: str = ""
    """Makes state; the program's own client does it where it has one."""
    suite: str = TRIXIE
    apt: tuple[str, ...] = ()
    packages: Pip | Npm | None = None
    result: str = ""
    """A file that must be, byte for byte, what a run without interruption writes."""
    on_any_machine: bool = False
    """It needs nothing but what every machine of this project has; such a program can be part of `make test`."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Why a program is not restored out of the box, by hand: the page holds one for each such row."""

    cause: str
    fault: str
    needed: str
