"""Images of real dumps by CRIU, and how to rewrite a part of one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nodeworker.domain.criu_images import form
from nodeworker.domain.criu_images.protobuf import Message, data_field, number_field

CORPUS = Path(__file__).parents[1] / "security/fuzz/corpus/criu_images"
SPECIMENS = sorted(folder.name for folder in CORPUS.iterdir())
PLAIN = "plain-4.2.1"
"""Root with some capabilities and no filter; a process with three threads that has a dead child, a socket and open files on /vol."""
CONFINED = "confined-4.2.1"
"""The same with the ambient CAP_NET_RAW alone, groups, no_new_privs, a seccomp filter and a read-only root."""


def load(specimen: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((CORPUS / specimen).iterdir())}


def magic_of(name: str) -> int:
    kinds = {
        "core": form.CORE,
        "ids": form.IDS,
        "pstree": form.PSTREE,
        "inventory": form.INVENTORY,
        "mountpoints": form.MOUNTS,
        "seccomp": form.SECCOMP,
        "files": form.FILES,
        "fdinfo": form.FDINFO,
        "mm": form.MM,
        "utsns": form.UTS,
    }
    return kinds[name.split("-", maxsplit=1)[0].removesuffix(".img")]


def messages(images: dict[str, bytes], name: str) -> list[bytes]:
    return [one.raw for one in form.read_messages(images[name], magic_of(name), name)]


def put(images: dict[str, bytes], name: str, found: list[bytes]) -> None:
    images[name] = form.write_messages(found, magic_of(name))


def within(raw: bytes, path: tuple[int, ...], change: Callable[[bytes], bytes]) -> bytes:
    """Change a message that lies in another, by the numbers of the fields that lead to it."""
    if not path:
        return change(raw)
    message = Message(raw, "message")
    inner = within(message.data(path[0]), path[1:], change)
    return message.rewritten({path[0]: data_field(path[0], inner)})


def edit(images: dict[str, bytes], name: str, path: tuple[int, ...], **fields: int | str | bytes | None) -> None:
    """Set fields, given as ``f12``, of every message of an image, or of one within each; None takes one out."""

    def change(raw: bytes) -> bytes:
        encoded = {int(key[1:]): _encode(int(key[1:]), value) for key, value in fields.items()}
        return Message(raw, "message").rewritten(encoded)

    put(images, name, [within(raw, path, change) for raw in messages(images, name)])


def _encode(number: int, value: int | str | bytes | None) -> bytes:
    if value is None:
        return b""
    if isinstance(value, int):
        return number_field(number, value)
    return data_field(number, value.encode() if isinstance(value, str) else value)
