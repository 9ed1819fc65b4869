"""What a peer may say in HTTP/2, and what it may not, to the one call that is made of it."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from nodeworker.host import cri

pytestmark = pytest.mark.timeout(30)

DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW = 0, 1, 3, 4, 6, 7, 8
READY = b"\x0a\x12\x0a\x10\x0a\x0cRuntimeReady\x10\x01"
"""StatusResponse{status: {conditions: [{type: "RuntimeReady", status: true}]}}"""
Peer = Callable[..., Path]


def frame(kind: int, flags: int, payload: bytes = b"", stream: int = 1) -> bytes:
    return len(payload).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream) + payload


def grpc(message: bytes) -> bytes:
    return struct.pack(">BI", 0, len(message)) + message


HELLO = frame(SETTINGS, 0, stream=0)
TRAILERS = frame(HEADERS, 5, b"whatever is said here is not read")


@pytest.fixture
def peer() -> Iterator[Peer]:
    """Listens, hears what is asked, and says what a test wants: one list of parts a connection."""
    with TemporaryDirectory(prefix="wf-") as folder, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        address = Path(folder) / "cri.sock"
        listener.bind(str(address))
        listener.listen()
        heard: list[bytes] = []

        def serve(answers: list[list[bytes]]) -> None:
            for parts in answers:
                try:
                    connection, _ = listener.accept()
                except OSError:  # nobody came any more
                    return
                with connection:
                    heard.append(connection.recv(65536))
                    for part in parts:
                        connection.sendall(part)
                    connection.shutdown(socket.SHUT_WR)
                    while more := connection.recv(65536):
                        heard.append(more)

        threads: list[threading.Thread] = []

        def start(*answers: list[bytes]) -> Path:
            threads.append(threading.Thread(target=serve, args=[list(answers)], daemon=True))
            threads[-1].start()
            return address

        yield start
        listener.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(10)
        assert all(said.startswith(b"PRI * HTTP/2.0") for said in heard[:1])


@pytest.mark.parametrize(
    "parts",
    [
        [HELLO, frame(HEADERS, 4, b"?"), frame(DATA, 0, grpc(READY)), TRAILERS],
        [HELLO + frame(PING, 0, b"12345678", 0) + frame(DATA, 0, grpc(READY)[:7]), frame(DATA, 0, grpc(READY)[7:]), TRAILERS],
        [bytes([byte]) for byte in HELLO + frame(DATA, 1, grpc(READY))],
        [HELLO, frame(DATA, 8, b"\x03" + grpc(READY) + b"\0\0\0"), TRAILERS],
        [HELLO, frame(99, 0, b"of a later version", 0), frame(DATA, 0, b"not ours", 3), frame(DATA, 1, grpc(READY))],
    ],
    ids=["as containerd does", "split, with a ping", "byte by byte", "padded", "with what is not known"],
)  # fmt: skip
def test_an_answer_is_understood_however_it_comes(peer: Peer, parts: list[bytes]) -> None:
    assert cri.status(peer(parts), 5).ready


def test_an_engine_from_before_v1_is_asked_again_as_it_was_called_then(peer: Peer) -> None:
    assert cri.status(peer([HELLO, TRAILERS], [HELLO, frame(DATA, 1, grpc(READY))]), 5).ready


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [HELLO],
        [HELLO, frame(DATA, 0, grpc(READY))[:12]],
        [b"HTTP/1.1 400 Bad Request\r\n\r\n"],
        [HELLO, frame(RESET, 0, b"\0\0\0\2")],
        [frame(GOAWAY, 0, bytes(8), 0)],
        [HELLO, frame(DATA, 1, grpc(b"\x0a\x7f"))],
        [HELLO, frame(DATA, 1, grpc(b"\x0a" + b"\xff" * 20))],
        [HELLO, frame(DATA, 1, grpc(b"\x0b"))],
        [HELLO, frame(DATA, 1, b"\0\0")],
    ],
    ids=lambda parts: repr(b"".join(parts))[-30:],
)
def test_whatever_else_is_said_is_an_error_and_not_an_answer(peer: Peer, parts: list[bytes]) -> None:
    with suppress(cri.CriError):
        assert not cri.status(peer(parts, parts), 5).ready
