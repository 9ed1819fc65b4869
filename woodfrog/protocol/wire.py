"""JSON on the wire: one encoder, and a decoder that says what was wrong where.

Timestamps are UTC with an offset; bytes are base64; unknown fields are refused where the Struct says so.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final

import msgspec

_encoder = msgspec.json.Encoder()
_learning = threading.Lock()
_LONGEST_COMPLAINT: Final = 600


class MalformedMessageError(ValueError):
    """Bytes that are not the message they should be; the message names the field."""


def encode(message: Any) -> bytes:
    """Encode any Struct of this package."""
    return _encoder.encode(message)


@cache
def _decoder(as_type: Any) -> msgspec.json.Decoder[Any]:
    """Make a type's decoder, one at a time.

    msgspec 0.22 reads a Struct's annotations when it is first used, running Python code meanwhile; two threads that do so for
    the same type at once crash the interpreter. Decoding itself may go on in any number of threads.
    """
    with _learning:
        decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(as_type)
        return decoder


def decode(data: bytes | str, as_type: Any) -> Any:
    """Decode ``data`` as ``as_type``.

    Raises:
        MalformedMessageError: with the path of the offending field, as msgspec gives it.
    """
    try:
        return _decoder(as_type).decode(data)
    except msgspec.DecodeError as problem:  # ValidationError is a DecodeError
        raise MalformedMessageError(shortened(str(problem))) from problem
    except (
        UnicodeError,
        RecursionError,
    ) as problem:  # msgspec says so of text that is not UTF-8, and of a thousand brackets
        raise MalformedMessageError(f"it is not JSON that can be read: {problem}") from problem


def nul_in(message: Any, at: str = "$") -> str | None:
    """Return where in a message the first text with a NUL stands, which PostgreSQL does not hold; ``None`` if there is none."""
    found: Iterable[tuple[str, Any]] = ()
    if isinstance(message, str):
        return at if "\0" in message else None
    if isinstance(message, msgspec.Struct):
        found = ((f"{at}.{name}", getattr(message, name)) for name in message.__struct_fields__)
    elif isinstance(message, Mapping):
        found = ((f"{at}[…]", each) for pair in message.items() for each in pair)
    elif isinstance(message, list | tuple | set | frozenset):
        found = ((f"{at}[{number}]", each) for number, each in enumerate(message))
    return next((place for where, each in found if (place := nul_in(each, where)) is not None), None)


def shortened(complaint: str) -> str:
    """Cut what msgspec says: it quotes a wrong value whole, and names the field at the end."""
    if len(complaint) <= _LONGEST_COMPLAINT:
        return complaint
    return f"{complaint[: _LONGEST_COMPLAINT // 2]} … {complaint[-_LONGEST_COMPLAINT // 2 :]}"


def time_problem(moment: datetime) -> str | None:
    """Say why a time in a message cannot be placed, or ``None``."""
    if moment.tzinfo is None:
        return "a time without an offset from UTC"
    try:
        moment.astimezone(UTC)
    except OverflowError:
        return "a time that is none in UTC"
    return None
