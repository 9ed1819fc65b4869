"""The form of CRIU's image files: magic numbers, then messages with their lengths before them.

Every image but the inventory begins with a magic number that all share and one of its kind (CRIU, criu/include/magic.h,
criu/image.c: images of version 1.1, which is all that CRIU writes since 2.0). CRIU reads one message out of most of them and does
not look at what follows; here nothing may follow.
"""

from __future__ import annotations

import struct
from typing import Final

from nodeworker.domain.criu_images.protobuf import MalformedImageError, Message

COMMON: Final = 0x54564319
INVENTORY: Final = 0x58313116
PSTREE: Final = 0x50273030
CORE: Final = 0x55053847
IDS: Final = 0x54432030
MOUNTS: Final = 0x55563928
FILES: Final = 0x56303138
FDINFO: Final = 0x56213732
MM: Final = 0x57492820
SECCOMP: Final = 0x64413049
UTS: Final = 0x54473203
REMAPS: Final = 0x59133954
TCP_STREAM: Final = 0x51465506
PAGEMAP: Final = 0x56084025

_NUMBER: Final = struct.Struct("<I")


def read_messages(image: bytes, magic: int, name: str) -> list[Message]:
    """Read all messages of an image; ``name`` is what errors call it.

    Raises:
        MalformedImageError: it is no image of that kind, or is cut off.
    """
    position = _begin(image, magic, name)
    found = []
    while position < len(image):
        message, position = _message(image, position, name)
        found.append(message)
    return found


def read_first(image: bytes, magic: int, name: str) -> tuple[Message, bytes]:
    """Read the first message of an image, and the plain bytes that follow it.

    Raises:
        MalformedImageError: as :func:`read_messages`.
    """
    message, end = _message(image, _begin(image, magic, name), name)
    return message, image[end:]


def _begin(image: bytes, magic: int, name: str) -> int:
    head = _head(magic)
    if not image.startswith(head):
        raise MalformedImageError(f"{name} does not begin as such an image does")
    return len(head)


def _message(image: bytes, position: int, name: str) -> tuple[Message, int]:
    begin = position + _NUMBER.size
    if begin > len(image):
        raise MalformedImageError(f"{name} is cut off at byte {position}")
    (length,) = _NUMBER.unpack_from(image, position)
    if length > len(image) - begin:
        raise MalformedImageError(f"{name} is cut off: a message of {length} bytes begins at byte {begin}")
    return Message(image[begin : begin + length], name), begin + length


def read_message(image: bytes, magic: int, name: str) -> Message:
    """Read the one message of an image.

    Raises:
        MalformedImageError: as :func:`read_messages`, or there is another number of messages.
    """
    found = read_messages(image, magic, name)
    if len(found) != 1:
        raise MalformedImageError(f"{name} has {len(found)} messages instead of one")
    return found[0]


def write_messages(messages: list[bytes], magic: int) -> bytes:
    """Make an image of messages."""
    return _head(magic) + b"".join(_NUMBER.pack(len(one)) + one for one in messages)


def write_first(message: bytes, rest: bytes, magic: int) -> bytes:
    """Make an image of one message and plain bytes."""
    return write_messages([message], magic) + rest


def _head(magic: int) -> bytes:
    own = _NUMBER.pack(magic)
    return own if magic == INVENTORY else _NUMBER.pack(COMMON) + own
