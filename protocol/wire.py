"""JSON on the wire: one encoder, and a decoder that says what was wrong where.

Timestamps are UTC with an offset; bytes are base64; unknown fields are refused where the Struct says so.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

T = TypeVar("T")
_encoder = msgspec.json.Encoder()


class MalformedMessageError(ValueError):
    """Bytes that are not the message they should be; the message names the field."""


def encode(message: Any) -> bytes:
    """Encode any Struct of this package."""
    return _encoder.encode(message)


def decode(data: bytes | str, as_type: type[T] | Any) -> T:
    """Decode ``data`` as ``as_type``.

    Raises:
        MalformedMessageError: with the path of the offending field, as msgspec gives it.
    """
    try:
        result: T = msgspec.json.decode(data, type=as_type)
    except msgspec.DecodeError as problem:  # ValidationError is a DecodeError
        raise MalformedMessageError(str(problem)) from problem
    return result
