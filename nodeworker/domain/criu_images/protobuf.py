"""Protobuf messages as CRIU writes them, read strictly and rewritten without touching what is not understood.

An image comes out of a snapshot and is hostile input. What CRIU would make of it must be known exactly, so everything that two
readers could take differently is refused: a field that may come once and comes twice (protobuf-c takes the last number, but
merges messages), numbers in packed form, numbers too large for their type, groups, and lengths that leave the message.

Source: Protocol Buffers, "Encoding"; protobuf-c's protobuf-c.c, which CRIU reads its images with. Field numbers stand with their
readers; they are those of the ``images/*.proto`` of CRIU and the same in 3.17.1 and 4.2.1, read from the descriptors in both
binaries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

_VARINT: Final = 0
_FIXED64: Final = 1
_BYTES: Final = 2
_FIXED32: Final = 5
_LONGEST_VARINT: Final = 10
_LONGEST_TAG: Final = 5
_UINT32: Final = (1 << 32) - 1
_UINT64: Final = (1 << 64) - 1
_Value = TypeVar("_Value")


class MalformedImageError(ValueError):
    """An image is not what CRIU writes, or could be read in more than one way."""


@dataclass(frozen=True, slots=True)
class _Field:
    number: int
    wire_type: int
    value: int | bytes
    start: int
    end: int


class Message:
    """One protobuf message. Every method that reads a field raises :class:`MalformedImageError` if it is not of that kind."""

    __slots__ = ("_fields", "_name", "raw")

    def __init__(self, raw: bytes, name: str) -> None:
        """Read the fields of ``raw``; ``name`` is what errors call it.

        Raises:
            MalformedImageError: it is no protobuf message.
        """
        self.raw = raw
        self._name = name
        self._fields: dict[int, list[_Field]] = {}
        position = 0
        while position < len(raw):
            field = self._field(position)
            self._fields.setdefault(field.number, []).append(field)
            position = field.end

    def uint32(self, number: int) -> int:
        """Return a required ``uint32``, or an enum's value."""
        return self._required(self.optional_uint32(number), number)

    def optional_uint32(self, number: int) -> int | None:
        """Return an optional ``uint32``, or an enum's value."""
        value = self._number(number)
        if value is not None and value > _UINT32:
            raise self._wrong(number, "does not fit into 32 bits")
        return value

    def uint64(self, number: int) -> int:
        """Return a required ``uint64``."""
        return self._required(self._number(number), number)

    def optional_uint64(self, number: int) -> int | None:
        """Return an optional ``uint64``."""
        return self._number(number)

    def optional_int32(self, number: int) -> int | None:
        """Return an optional ``int32``, which is sent as 64 bits when it is negative."""
        value = self._number(number)
        if value is None:
            return None
        signed = value - (1 << 64) if value >> 63 else value
        if not -(1 << 31) <= signed < 1 << 31:
            raise self._wrong(number, "does not fit into 32 bits")
        return signed

    def optional_sint32(self, number: int) -> int | None:
        """Return an optional ``sint32``, which is sent zigzag."""
        value = self.optional_uint32(number)
        return None if value is None else (value >> 1) ^ -(value & 1)

    def boolean(self, number: int) -> bool:
        """Return an optional ``bool``; what is not there is false."""
        return bool(self._number(number))

    def uint32s(self, number: int) -> tuple[int, ...]:
        """Return a repeated ``uint32``."""
        values = []
        for field in self._fields.get(number, ()):
            if field.wire_type != _VARINT or not isinstance(field.value, int) or field.value > _UINT32:
                raise self._wrong(number, "is not a list of numbers of 32 bits")
            values.append(field.value)
        return tuple(values)

    def data(self, number: int) -> bytes:
        """Return required ``bytes``."""
        return self._required(self.optional_data(number), number)

    def optional_data(self, number: int) -> bytes | None:
        """Return optional ``bytes``."""
        field = self._one(number)
        if field is None:
            return None
        if not isinstance(field.value, bytes) or field.wire_type != _BYTES:
            raise self._wrong(number, "has an unexpected type")
        return field.value

    def text(self, number: int) -> str:
        """Return a required ``string``; a path may hold any byte but NUL, so it is decoded as paths are."""
        return self._required(self.optional_text(number), number)

    def optional_text(self, number: int) -> str | None:
        """Return an optional ``string``, decoded as paths are."""
        data = self.optional_data(number)
        if data is None:
            return None
        if b"\0" in data:
            raise self._wrong(number, "has a NUL, where CRIU would see its end")
        return data.decode("utf-8", "surrogateescape")

    def message(self, number: int, name: str) -> Message:
        """Return a required message."""
        return self._required(self.optional_message(number, name), number)

    def optional_message(self, number: int, name: str) -> Message | None:
        """Return an optional message."""
        data = self.optional_data(number)
        return None if data is None else Message(data, name)

    def messages(self, number: int, name: str) -> tuple[Message, ...]:
        """Return repeated messages."""
        found = []
        for field in self._fields.get(number, ()):
            if field.wire_type != _BYTES or not isinstance(field.value, bytes):
                raise self._wrong(number, "has an unexpected type")
            found.append(Message(field.value, name))
        return tuple(found)

    def rewritten(self, changes: Mapping[int, bytes]) -> bytes:
        """Return the message with other fields, each a number and its encoded occurrences; every other byte stays.

        A field takes the place of its first occurrence, or comes last if the message had none.
        """
        fields = sorted((one for many in self._fields.values() for one in many), key=lambda one: one.start)
        left = dict(changes)
        parts = []
        for field in fields:
            if field.number not in changes:
                parts.append(self.raw[field.start : field.end])
            elif field.number in left:
                parts.append(left.pop(field.number))
        return b"".join([*parts, *left.values()])

    def _field(self, start: int) -> _Field:
        tag, position = self._varint(start, _LONGEST_TAG)
        number, wire_type = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise self._wrong(number, "has an impossible number")
        value: int | bytes
        if wire_type == _VARINT:
            value, position = self._varint(position, _LONGEST_VARINT)
        elif wire_type in {_FIXED64, _FIXED32, _BYTES}:
            length = 8 if wire_type == _FIXED64 else 4
            if wire_type == _BYTES:
                length, position = self._varint(position, _LONGEST_TAG)
            if length > len(self.raw) - position:
                raise self._wrong(number, "ends after its message")
            value = self.raw[position : position + length]
            position += length
        else:
            raise self._wrong(number, f"has the unknown type {wire_type}")
        return _Field(number, wire_type, value, start, position)

    def _varint(self, start: int, longest: int) -> tuple[int, int]:
        if start < len(self.raw) and self.raw[start] < 0x80:  # most have one byte
            return self.raw[start], start + 1
        value = 0
        for count, byte in enumerate(self.raw[start : start + longest]):
            value |= (byte & 0x7F) << (7 * count)
            if byte < 0x80:
                if value > _UINT64:
                    break
                return value, start + count + 1
        raise MalformedImageError(f"{self._name} has no number at byte {start}")

    def _one(self, number: int) -> _Field | None:
        found = self._fields.get(number)
        if found is None:
            return None
        if len(found) > 1:
            raise self._wrong(number, f"comes {len(found)} times")
        return found[0]

    def _number(self, number: int) -> int | None:
        field = self._one(number)
        if field is None:
            return None
        if field.wire_type != _VARINT or not isinstance(field.value, int):
            raise self._wrong(number, "has an unexpected type")
        return field.value

    def _required(self, value: _Value | None, number: int) -> _Value:
        if value is None:
            raise self._wrong(number, "is missing")
        return value

    def _wrong(self, number: int, what: str) -> MalformedImageError:
        return MalformedImageError(f"field {number} of {self._name} {what}")


def number_field(number: int, value: int) -> bytes:
    """Encode a field that is a number; a negative one as ``int32`` is sent."""
    return _encoded(number << 3 | _VARINT) + _encoded(value & _UINT64)


def data_field(number: int, value: bytes) -> bytes:
    """Encode a field that is ``bytes``, a ``string`` or a message."""
    return _encoded(number << 3 | _BYTES) + _encoded(len(value)) + value


def _encoded(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
