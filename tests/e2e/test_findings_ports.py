"""A port that is taken at a restore is the place's fault: it is named, and the snapshot is used once the port is free."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from nats.aio.client import Client
from support.lone_runtime import eventually
from support.node import Counting, Node
from support.worker import eventually as until
from support.worker import query

pytestmark = [pytest.mark.criu, pytest.mark.nats, pytest.mark.timeout(120)]

SERVES = """exec {python} -c '
import socket
with socket.create_server(("127.0.0.1", {port})) as server:
    server.settimeout(0.02)
    for number in range(1, 1000000):
        with open("/numbers", "a") as file:
            print(number, file=file)
        try:
            server.accept()[0].sendall(b"%d" % number)
        except TimeoutError:
            pass
'"""


NETWORK = "wf-findings-ports"
PORT = 4711
HOLDS = f"import socket, sys; held = socket.create_server(('127.0.0.1', {PORT})); print(flush=True); sys.stdin.read()"
ASKS = f"import socket; print(socket.create_connection(('127.0.0.1', {PORT}), 5).recv(20).decode())"


@pytest.fixture
def network() -> Iterator[None]:
    """A network namespace that several containers have one after the other, as with ``hostNetwork``."""
    subprocess.run(["ip", "netns", "add", NETWORK], check=True)
    try:
        subprocess.run(["ip", "-n", NETWORK, "link", "set", "lo", "up"], check=True)
        yield
    finally:
        subprocess.run(["ip", "netns", "del", NETWORK], check=True)


def enter(spec: dict[str, Any]) -> None:
    (own,) = (each for each in spec["linux"]["namespaces"] if each["type"] == "network")
    own["path"] = f"/run/netns/{NETWORK}"


def serving(node: Node, **annotations: str) -> Counting:
    command = SERVES.format(python=sys.executable, port=PORT)
    wishes = {f"woodfrog.io/{name.replace('_', '-')}": text for name, text in annotations.items()}
    return Counting(node, command, spec=enter, annotations=wishes)


def in_the_network(program: str) -> subprocess.Popen[str]:
    command = ["ip", "netns", "exec", NETWORK, sys.executable, "-I", "-c", program]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@contextmanager
def taken() -> Iterator[None]:
    """Have somebody else listen on the port."""
    with in_the_network(HOLDS) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "\n"
        yield
        holder.communicate()


@pytest.mark.usefixtures("network")
async def test_a_taken_port_is_named_and_the_snapshot_is_used_once_it_is_free(node: Node, client: Client) -> None:
    node.start_worker()
    container = serving(node)
    await asyncio.to_thread(container.run)
    container.until(3)
    reached = container.count()
    assert container.call("kill", container.id, "TERM").returncode == 0
    eventually(lambda: not container.alive(), "it has ended")
    assert container.call("delete", container.id).returncode == 0

    async def stored() -> bool:
        return [row["status"] for row in await query(client, "checkpoint_history")] == ["valid"]

    await until(stored, saying="it is stored")
    with taken():
        refused = serving(node, require_restore="true")
        assert await asyncio.to_thread(refused.create) != 0
        assert "(restore-required)" in refused.said()
    failed = [row["data"] for row in await query(client, "events") if row["type"] == "incarnation.restore-failed"]
    assert [each["failure"]["code"] for each in failed] == ["address-taken"]
    again = serving(node, require_restore="true")
    await asyncio.to_thread(again.run)
    again.until(reached + 3)
    assert again.has_counted_without_a_gap()
    with in_the_network(ASKS) as asker:
        assert int(asker.communicate(timeout=20)[0]) > reached, "who counts is who serves"
