"""An example of any message, made from its type: every field is filled, so that one that gets lost is noticed."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import Enum
from types import UnionType
from typing import Any, Literal, NewType, Union, get_args, get_origin, get_type_hints
from uuid import UUID

NOON = datetime(2026, 11, 23, 12, 0, 0, 250_000, tzinfo=UTC)
PLAIN: dict[Any, Any] = {
    str: 'text with ünïcode, "quotes" and\nlines',
    int: 2**53 - 1,
    float: 0.1,
    bool: True,
    bytes: b"\0\xff",
    datetime: NOON,
    UUID: UUID(int=7),
    Any: "anything",
}


def example(kind: Any) -> Any:
    """Make a value of a type with every field filled, so that a field that does not survive the wire is noticed."""
    origin, arguments = get_origin(kind), get_args(kind)
    if isinstance(kind, NewType):
        return example(kind.__supertype__)
    if kind in PLAIN:
        return PLAIN[kind]
    if origin is Literal:
        return arguments[-1]
    if origin in {Union, UnionType}:
        return example(next(argument for argument in arguments if argument is not type(None)))
    if origin is dict:
        return {example(arguments[0]): example(arguments[1])}
    if origin is tuple and arguments[-1] is not ...:
        return tuple(example(argument) for argument in arguments)
    if origin in {tuple, list}:
        return origin((example(arguments[0]),))
    if issubclass(kind, Enum):
        return list(kind)[-1]
    hints = get_type_hints(kind)
    return kind(**{field: example(hints[field]) for field in kind.__struct_fields__})
