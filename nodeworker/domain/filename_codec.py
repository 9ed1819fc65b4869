"""File names as text: a manifest is JSON and holds text, while Linux names files with any bytes but NUL and ``/``.

A container may well have made a name that is not UTF-8. Refusing it would fail the dump, replacing the odd bytes would
restore another name: so each byte that does not decode becomes a mark and two hex digits. Almost every name stays as it is,
and every name comes back byte for byte.
"""

from __future__ import annotations

import re

MARK = "\U0010fffe"
"""A noncharacter of Unicode, which no sane name contains; one that does has its own four bytes written as marks."""
LIMIT_PATH_BYTES = 4095
"""The longest path below the root of a tree."""
_ODD = re.compile(f"[\udc80-\udcff{MARK}]")
_MARKED = re.compile(f"{MARK}([0-9a-f]{{2}})")


def _marked(match: re.Match[str]) -> str:
    return "".join(f"{MARK}{byte:02x}" for byte in match.group().encode("utf-8", "surrogateescape"))


def text_of(name: bytes) -> str:
    """Write the bytes of a name, a path or a link's target as text that JSON can carry."""
    return _ODD.sub(_marked, name.decode("utf-8", "surrogateescape"))


def bytes_of(text: str) -> bytes:
    """Give back the bytes that :func:`text_of` was given.

    A stray mark is kept as its own four bytes, so that the function is total.

    Raises:
        ValueError: if the text holds a surrogate, which :func:`text_of` never writes.
    """
    pieces = _MARKED.split(text)
    return b"".join(
        bytes.fromhex(piece) if index % 2 else piece.encode("utf-8", "strict") for index, piece in enumerate(pieces)
    )
