"""The host name in CRIU's images, and how to put another one there.

CRIU gives the restored UTS namespace the names that it had at the dump, also where a whole pod shares the namespace. The names of
the new container are known before, so they are written into the image, and no process ever sees the old ones.

The image is two magic numbers, the length of one protobuf message and the message: ``nodename`` as field 1, ``domainname`` as
field 2, both strings (CRIU, criu/include/magic.h, criu/image.c and images/utsns.proto).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

_MAGICS: Final = (0x54564319, 0x54473203)
_HEAD: Final = struct.Struct("<III")
_FIELDS: Final = {0x0A: "hostname", 0x12: "domainname"}
_LONGEST: Final = 64
"""__NEW_UTS_LEN of the kernel; below 128, so that a protobuf length is one byte."""


def with_names(image: bytes, names: Mapping[str, str]) -> bytes:
    """Write the image anew with ``hostname`` or ``domainname``, or both, in place of its own.

    Raises:
        ValueError: it is no such image, or a name is too long for the kernel.
    """
    held = {**names_of(image), **names}
    message = b""
    for tag, field in _FIELDS.items():
        raw = held[field].encode()
        if len(raw) > _LONGEST:
            raise ValueError(f"the {field} {held[field][:80]!r} has more than {_LONGEST} bytes")
        message += bytes((tag, len(raw))) + raw
    return _HEAD.pack(*_MAGICS, len(message)) + message


def names_of(image: bytes) -> dict[str, str]:
    """Read both names.

    Raises:
        ValueError: it is no such image.
    """
    if len(image) < _HEAD.size:
        raise ValueError("the image of the UTS namespace is too short")
    *magics, length = _HEAD.unpack_from(image)
    message = image[_HEAD.size :]
    if tuple(magics) != _MAGICS or length != len(message):
        raise ValueError("the image of the UTS namespace has an unknown form")
    names: dict[str, str] = {}
    while message:
        if len(message) < 2 or message[0] not in _FIELDS or message[1] > len(message) - 2:
            raise ValueError("the image of the UTS namespace has an unknown field")
        names[_FIELDS[message[0]]] = message[2 : 2 + message[1]].decode()
        message = message[2 + message[1] :]
    if names.keys() != set(_FIELDS.values()):
        raise ValueError("the image of the UTS namespace lacks a name")
    return names
