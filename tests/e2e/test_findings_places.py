"""What a container's place has taken or given it is named, and harms no snapshot once it is as it should be: a port, a file as its output."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client
from support.lone_runtime import eventually
from support.node import Counting, Node
from support.worker import checkpoint, query
from support.worker import eventually as until

from woodfrog.protocol.ids import CheckpointKey

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


KEY = CheckpointKey("local", "default", "trainer")
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


async def test_an_output_that_is_a_file_of_the_node_is_named_and_a_pipe_in_its_place_is_captured(
    node: Node, client: Client, tmp_path: Path
) -> None:
    node.start_worker()
    kept = tmp_path / "kept"

    async def ended(count: int) -> dict[str, Any] | None:
        rows = await query(client, "checkpoint_history")
        return rows[-1] if len(rows) == count and rows[-1]["status"] in {"valid", "failed"} else None

    container = Counting(node, output=kept)
    await asyncio.to_thread(container.run)
    node.until_it_runs()
    await checkpoint(client, KEY)
    row = await until(lambda: ended(1), saying="it is refused")
    assert row["failure_code"] == "file-outside"
    assert str(kept) in row["failure_cause"]
    container.until(container.count() + 3)
    assert container.has_counted_without_a_gap()
    container.call("kill", container.id, "KILL")
    container.call("delete", "--force", container.id)
    again = Counting(node)
    await asyncio.to_thread(again.run)
    eventually(lambda: "running" in str(node.ask(ask="containers")), "its start is told")
    await checkpoint(client, KEY)
    row = await until(lambda: ended(2), saying="it is stored")
    assert row["status"] == "valid"
