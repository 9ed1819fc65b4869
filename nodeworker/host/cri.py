"""Asking a container engine over its CRI socket, with nothing installed.

One unary gRPC call does not need a library of 20 MB on each node: HTTP/2 is spoken as far as that call goes (RFC 9113),
headers are sent as literals (RFC 7541, 6.2.2) and the answer's headers are not read at all. Only ``Status`` is asked, and which
image a container has (kubernetes/cri-api, ``runtime.v1``; ``v1alpha2`` with engines from before 1.6).
"""

from __future__ import annotations

import json
import re
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_VERSIONS: Final = ("v1", "v1alpha2")
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS, _PADDED = 1, 1, 4, 8
_WINDOW_BYTES: Final = 1 << 24
_VERBOSE: Final = b"\x08\x01"
_RUNTIME_HANDLERS: Final = 3
_ID: Final = re.compile(r"(?:sha256:)?[0-9a-f]{64}")


class CriError(Exception):
    """The engine does not answer, or not as a CRI does."""


@dataclass(frozen=True, slots=True)
class CriStatus:
    """What an engine says of itself."""

    ready: bool
    """Whether its runtime is; whether the network is, is the concern of others."""
    config: dict[str, Any]
    """The configuration in force, as far as it tells (containerd does)."""
    listed: frozenset[str] = frozenset()
    """The runtime handlers that it lists (CRI-O since 1.30, containerd since 2.0); the default one also under no name."""

    def handlers(self) -> set[str]:
        """The runtime handlers that it knows of; empty where it tells none."""
        containerd = self.config.get("containerd")
        runtimes = containerd.get("runtimes") if isinstance(containerd, dict) else None
        return set(self.listed - {""}) | (set(runtimes) if isinstance(runtimes, dict) else set())


def status(address: Path, seconds: float = 10.0) -> CriStatus:
    """Ask the engine that listens at ``address``.

    Raises:
        CriError: if nobody listens, or the answer is none.
    """
    return _read(_ask(address, "RuntimeService/Status", _VERBOSE, seconds))


def image_id(address: Path, container_id: str, seconds: float) -> str | None:
    """Ask the engine at ``address`` for the id of a container's image; ``None`` if it does not tell one.

    The container's status names the image by a digest of the registry, or by its id; the image's own status has the id.

    Raises:
        CriError: if nobody listens, the container is not known, or the answer is none.
    """
    answer = _ask(address, "RuntimeService/ContainerStatus", _string(1, container_id), seconds)
    try:
        status = dict(_fields(dict(_fields(answer))[1]))
        reference = status.get(9) or dict(_fields(status[8]))[1]
        request = _bytes(1, _bytes(1, reference))
        image = dict(_fields(_ask(address, "ImageService/ImageStatus", request, seconds))).get(1)
        found = dict(_fields(image)).get(1, b"").decode() if image else ""
    except (ValueError, IndexError, TypeError, KeyError, AttributeError) as problem:
        raise CriError(f"the CRI's answer cannot be read: {problem!r}") from problem
    return f"sha256:{found.removeprefix('sha256:')}" if _ID.fullmatch(found) else None


def _ask(address: Path, method: str, message: bytes, seconds: float) -> bytes:
    """Call a method of whichever version the engine has.

    Raises:
        CriError: if nobody listens, or no version answers with a message.
    """
    for version in _VERSIONS:
        try:
            answer = _call(address, f"/runtime.{version}.{method}", message, seconds)
        except OSError as problem:
            raise CriError(f"{address}: {problem.strerror or problem}") from problem
        if answer is not None:
            return answer
    raise CriError(f"{address} answers, but its CRI does not")


def _read(message: bytes) -> CriStatus:
    ready, config, listed = False, {}, set()
    try:
        for number, value in _fields(message):
            if number == 1:
                conditions = [dict(_fields(each)) for _, each in _fields(value)]
                ready = any(each.get(1) == b"RuntimeReady" and each.get(2) for each in conditions)
            elif number == 2:
                entry = dict(_fields(value))
                if entry.get(1) == b"config":
                    config = json.loads(entry.get(2, b"{}"))
            elif number == _RUNTIME_HANDLERS:
                listed.add(dict(_fields(value)).get(1, b"").decode())
    except (ValueError, IndexError, TypeError) as problem:
        raise CriError(f"the CRI's answer cannot be read: {problem}") from problem
    return CriStatus(ready, config if isinstance(config, dict) else {}, frozenset(listed))


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Fields of a protobuf message: numbers, and bytes for text and messages."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        value, at = _varint(message, at)
        if key & 7 == 0:
            yield key >> 3, value
        elif key & 7 == 2:
            yield key >> 3, message[at : at + value]
            at += value
        else:
            raise ValueError(f"a field of wire type {key & 7}")


def _string(number: int, text: str) -> bytes:
    return _bytes(number, text.encode())


def _bytes(number: int, value: bytes) -> bytes:
    """Write a field of a protobuf message that holds bytes, text or a message."""
    length, rest = b"", len(value)
    while rest > 0x7F:
        length, rest = length + bytes([rest & 0x7F | 0x80]), rest >> 7
    return bytes([number << 3 | 2]) + length + bytes([rest]) + value


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def _call(address: Path, method: str, message: bytes, seconds: float) -> bytes | None:
    """One unary call; ``None`` when it ended without a message, as it does for an unknown method."""
    headers = [
        (":method", "POST"), (":scheme", "http"), (":path", method), (":authority", "localhost"),
        ("content-type", "application/grpc"), ("te", "trailers"),
    ]  # fmt: skip
    block = b"".join(b"\0" + _text(name) + _text(value) for name, value in headers)
    window = struct.pack(">HI", 4, _WINDOW_BYTES)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(seconds)
        connection.connect(str(address))
        connection.sendall(
            _PREFACE
            + _frame(_SETTINGS, 0, 0, window)
            + _frame(_WINDOW, 0, 0, struct.pack(">I", _WINDOW_BYTES))
            + _frame(_HEADERS, _END_HEADERS, 1, block)
            + _frame(_DATA, _END_STREAM, 1, struct.pack(">BI", 0, len(message)) + message)
        )
        body = b""
        while True:
            kind, flags, stream, payload = _next(connection)
            if kind == _SETTINGS and not flags & _ACK:
                connection.sendall(_frame(_SETTINGS, _ACK, 0, b""))
            elif kind == _PING and not flags & _ACK:
                connection.sendall(_frame(_PING, _ACK, 0, payload))
            elif kind == _DATA and stream == 1:
                body += payload[1 : len(payload) - payload[0]] if flags & _PADDED else payload
            elif kind in {_RESET, _GOAWAY}:
                return None
            if kind in {_DATA, _HEADERS} and stream == 1 and flags & _END_STREAM:
                return body[5:] if len(body) >= 5 else None


def _text(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _next(connection: socket.socket) -> tuple[int, int, int, bytes]:
    head = _exactly(connection, 9)
    length = int.from_bytes(head[:3], "big")
    kind, flags, stream = struct.unpack(">BBI", head[3:])
    return kind, flags, stream & 0x7FFFFFFF, _exactly(connection, length)


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        if not more:
            raise ConnectionResetError("the connection was closed")
        data += more
    return data
