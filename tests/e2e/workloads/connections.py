"""Holds TCP connections of every kind to itself, in two processes, and counts over them; complains of whatever is wrong.

Usage: connections.py OWN_ADDRESS OUTER_ADDRESS OUTER_PORT. Every count to /numbers has gone over each of the pairs, there and back,
with a running digest of all that went before. Files in / say what is found of the rest when /drain appears.
"""

from __future__ import annotations

import hashlib
import os
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

OWN, OUTER, PORT = sys.argv[1], sys.argv[2], int(sys.argv[3])
BLOCK = hashlib.sha256(b"block").digest() * 2048


def exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise EOFError(f"the connection ended after {len(data)} bytes")
        data += part
    return data


def listener(family: int, address: str, *, reuse_port: bool = False) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if reuse_port:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    made.bind((address, 0))
    made.listen(16)
    return made


def pair(
    family: int, address: str, client_family: int, to: str, **options: bool
) -> tuple[socket.socket, socket.socket]:
    server = listener(family, address, **options)
    client = socket.socket(client_family, socket.SOCK_STREAM)
    client.connect((to, server.getsockname()[1]))
    accepted = server.accept()[0]
    server.close()
    return client, accepted


def fill(connection: socket.socket) -> int:
    """Send until neither this end's buffer nor the other's takes another byte, for a while."""
    connection.setblocking(False)
    sent, quiet = 0, 0
    while quiet < 5:
        try:
            at = sent % len(BLOCK)
            sent += connection.send(BLOCK[at:] + BLOCK[:at])
            quiet = 0
        except BlockingIOError:
            quiet += 1
            time.sleep(0.05)
    connection.setblocking(True)
    return sent


def is_all_there(connection: socket.socket, count: int) -> str:
    data = exactly(connection, count)
    whole = (BLOCK * (count // len(BLOCK) + 1))[:count]
    return "ok" if data == whole else "differs"


def said(name: str, what: object) -> None:
    Path(f"/.{name}").write_text(f"{what}\n")
    Path(f"/.{name}").rename(f"/{name}")


def outcome(what: object) -> str:
    try:
        return repr(what())  # type: ignore[operator]
    except OSError as problem:
        return type(problem).__name__


pairs = [
    pair(socket.AF_INET, "127.0.0.1", socket.AF_INET, "127.0.0.1"),
    pair(socket.AF_INET6, "::1", socket.AF_INET6, "::1"),
    pair(socket.AF_INET6, "::", socket.AF_INET, "127.0.0.1"),
    pair(socket.AF_INET, "0.0.0.0", socket.AF_INET, OWN),
    pair(socket.AF_INET6, "::", socket.AF_INET, OWN, reuse_port=True),
]
full, full_other = pair(socket.AF_INET, "127.0.0.1", socket.AF_INET, "127.0.0.1")
there, back = fill(full), fill(full_other)
half, half_other = pair(socket.AF_INET, OWN, socket.AF_INET, OWN)
half.sendall(b"the last words")
half.shutdown(socket.SHUT_WR)
early_other, early = pair(socket.AF_INET, "127.0.0.1", socket.AF_INET, "127.0.0.1")
early_sent = fill(early)  # and its end comes after that, when the other end has no room
early.shutdown(socket.SHUT_WR)
left, left_other = pair(socket.AF_INET, "127.0.0.1", socket.AF_INET, "127.0.0.1")
left.sendall(b"left behind")
left.close()
for _ in range(20):  # these end in TIME_WAIT
    gone, gone_other = pair(socket.AF_INET, "127.0.0.1", socket.AF_INET, "127.0.0.1")
    gone.close()
    gone_other.close()
bound, shared = listener(socket.AF_INET, OWN), listener(socket.AF_INET, "127.0.0.1", reuse_port=True)
again = socket.socket()
again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
again.bind(shared.getsockname())
again.listen(4)
waiting_at = listener(socket.AF_INET, "127.0.0.1")
waiting = socket.create_connection(waiting_at.getsockname())
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.connect((OUTER, PORT))
outer = socket.create_connection((OUTER, PORT))
outer.sendall(b"hello")
said("waiting-at", waiting_at.getsockname()[1])
said("port", bound.getsockname()[1])

if os.fork() == 0:
    for client, _ in pairs:
        client.close()
    servers = [server for _, server in pairs]
    digests = [hashlib.sha256() for _ in servers]
    while True:
        for server, digest in zip(servers, digests, strict=True):
            digest.update(exactly(server, 8))
            server.sendall(digest.digest())

for _, server in pairs:
    server.close()
clients = [client for client, _ in pairs]
digests = [hashlib.sha256() for _ in clients]
drained = False
for number in range(1, 1_000_000):
    for client, digest in zip(clients, digests, strict=True):
        word = number.to_bytes(8, "little")
        client.sendall(word)
        digest.update(word)
        if exactly(client, 32) != digest.digest():
            sys.exit("the other end has heard something else")
    with open("/numbers", "a") as file:
        file.write(f"{number}\n")
    if left_other and Path("/look").exists():
        said("left", f"{exactly(left_other, 11)!r} {left_other.recv(9)!r}")
        left_other = None
    if not drained and Path("/drain").exists():
        drained = True
        said("full", f"{is_all_there(full_other, there)} {is_all_there(full, back)}")
        said(
            "early",
            f"{is_all_there(early_other, early_sent)} {early_other.recv(9)!r} {early_other.send(b'x')} {early.recv(1)!r}",
        )
        half_other.sendall(b"heard you")
        said("half", f"{exactly(half_other, 14)!r} {half_other.recv(9)!r} {exactly(half, 9)!r}")
        outer.settimeout(5)
        waiting.settimeout(5)
        said("outer", f"{outcome(lambda: outer.recv(5))} {outcome(lambda: outer.send(b'x'))}")
        said("waiting", outcome(lambda: waiting.recv(5)))
        with suppress(OSError):
            datagrams.send(b"datagram")
        said("reach", ",".join(f"{one.getsockname()[0]}" for one in (bound, datagrams)))
        for one in (shared, waiting_at):
            socket.create_connection(one.getsockname(), 5).close()
        said("drained", "ok")
    time.sleep(0.02)
