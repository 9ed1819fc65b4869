"""What a container's owner wants to happen before a snapshot is taken of it, and after it was restored from one.

Random generators, caches and connections are in a program's memory and come back with it. A hook lets the program renew them: a
command in the container, a signal to its first process, or a file.
"""

from __future__ import annotations

import posixpath
import shlex
import signal
from enum import StrEnum
from typing import Final

import msgspec

DEFAULT_SECONDS: Final = 10.0
MOST_SECONDS: Final = 60.0
_LONGEST: Final = 4096


class HookKind(StrEnum):
    """What a hook does."""

    EXEC = "exec"
    """Runs a command in the container, as ``exec`` of its engine does: with the container's user, capabilities and limits."""
    SIGNAL = "signal"
    """Sends a signal to the container's first process."""
    FILE = "file"
    """Makes a file in the container's own file system."""


class Hook(msgspec.Struct, frozen=True):
    """One hook, read."""

    kind: HookKind
    words: tuple[str, ...]
    """The command, or the one name of a signal, or the one path."""

    def __str__(self) -> str:
        return f"{self.kind}: {shlex.join(self.words)}"


def parse(text: str) -> Hook:
    """Read ``exec: COMMAND``, ``signal: NAME`` or ``file: PATH``.

    Raises:
        ValueError: saying what it may be.
    """
    word, _, rest = text.partition(":")
    rest = rest.strip()
    if len(text) > _LONGEST or "\0" in text:
        raise ValueError(f"it has more than {_LONGEST} characters, or a NUL")
    if word == HookKind.EXEC:
        words = tuple(shlex.split(rest))
        if words:
            return Hook(HookKind.EXEC, words)
        raise ValueError("`exec:` names no command")
    if word == HookKind.SIGNAL:
        name = rest.upper().removeprefix("SIG")
        if f"SIG{name}" in signal.Signals.__members__ and name not in {"KILL", "STOP", "CONT"}:
            return Hook(HookKind.SIGNAL, (name,))
        raise ValueError(f"{rest[:60]!r} is not the name of a signal that a program can handle, such as USR1")
    if word == HookKind.FILE:
        if rest.startswith("/") and posixpath.normpath(rest) == rest and rest != "/":
            return Hook(HookKind.FILE, (rest,))
        raise ValueError(f"{rest[:60]!r} is not an absolute path without `.`, `..` and `//`")
    raise ValueError(f"{text[:60]!r} is neither `exec: COMMAND`, `signal: NAME` nor `file: PATH`")
