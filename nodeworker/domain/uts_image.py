"""The host name in CRIU's images, and how to put another one there.

CRIU gives the restored UTS namespace the names that it had at the dump, also where a whole pod shares the namespace. The names of
the new container are known before, so they are written into the image, and no process ever sees the old ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from nodeworker.domain.criu_images import form
from nodeworker.domain.criu_images.protobuf import Message, data_field

_FIELDS: Final = {"hostname": 1, "domainname": 2}
"""Strings (CRIU, images/utsns.proto, where the first is called ``nodename``)."""
_LONGEST: Final = 64
"""__NEW_UTS_LEN of the kernel."""


def with_names(image: bytes, names: Mapping[str, str]) -> bytes:
    """Write the image anew with ``hostname`` or ``domainname``, or both, in place of its own.

    Raises:
        ValueError: it is no such image, or a name is too long for the kernel.
    """
    held = {**names_of(image), **names}
    fields: dict[int, bytes] = {}
    for field, number in _FIELDS.items():
        raw = held[field].encode()
        if "\0" in held[field]:
            raise ValueError(f"the {field} has a NUL, where the kernel would see its end")
        if len(raw) > _LONGEST:
            raise ValueError(f"the {field} {held[field][:80]!r} has more than {_LONGEST} bytes")
        fields[number] = data_field(number, raw)
    return form.write_messages([_message(image).rewritten(fields)], form.UTS)


def names_of(image: bytes) -> dict[str, str]:
    """Read both names.

    Raises:
        ValueError: it is no such image.
    """
    message = _message(image)
    return {field: message.text(number) for field, number in _FIELDS.items()}


def _message(image: bytes) -> Message:
    return form.read_message(image, form.UTS, "the image of the UTS namespace")
