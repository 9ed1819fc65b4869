r"""Text of others on a terminal: what a terminal would obey is shown instead of sent.

Failure causes, ids, process names and termination messages come from nodes and pods. A terminal takes escape sequences in them for
orders: to clear the screen, to write a title, to answer as if somebody had typed (CVE-2021-25743 was kubectl's). Characters that turn the
direction of writing, or have no width, make a text look like another.

What is escaped reads ``\u001b``, which is also how JSON writes it: a document stays the same document.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TextIO, cast

_LAYOUT: Final = "\n\t"
_BEYOND_THE_PLANE: Final = 0x10000


def printable(text: str, *, keep: str = "") -> str:
    """Escape every character that is not printed as itself, but those to ``keep``."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    code = ord(char)
    if code < _BEYOND_THE_PLANE:
        return f"\\u{code:04x}"
    code -= _BEYOND_THE_PLANE
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"


class PrintableStream:
    """A text stream to which only printable text goes, whoever writes to it; line ends and tabs stay."""

    def __init__(self, inner: TextIO) -> None:
        self._inner = inner

    def write(self, text: str) -> int:
        """Write, escaped; say how much of ``text`` was taken."""
        self._inner.write(printable(text, keep=_LAYOUT))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write one after the other."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@contextmanager
def printable_output() -> Iterator[None]:
    """Let nothing else go to standard output and standard error, until the end of the block."""
    out, err = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast("TextIO", PrintableStream(stream)) for stream in (out, err))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = out, err
