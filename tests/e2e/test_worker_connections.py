"""TCP connections: those with both ends in the container go on, in another network with another address; others are closed, and named."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client
from support.lone_runtime import eventually
from support.node import Counting, Node
from support.worker import eventually as eventually_async
from support.worker import query

from woodfrog.protocol.ids import CheckpointKey

pytestmark = [pytest.mark.criu, pytest.mark.nats, pytest.mark.root, pytest.mark.timeout(180)]

KEY = CheckpointKey("local", "default", "trainer")
PROGRAM = Path(__file__).parent / "workloads/connections.py"


@dataclass(frozen=True)
class Pod:
    """A network namespace with one address of its own, as a pod's is."""

    name: str
    address: str
    host: str

    def enter(self, config: dict[str, Any]) -> None:
        (own,) = (one for one in config["linux"]["namespaces"] if one["type"] == "network")
        own["path"] = f"/run/netns/{self.name}"


@contextmanager
def pod(number: int) -> Iterator[Pod]:
    name, link = f"wf-pod-{number}", f"wf-pod-{number}"
    made = Pod(name, f"10.213.{number}.2", f"10.213.{number}.1")

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True)

    ip("netns", "add", name)
    try:
        ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
        ip("addr", "add", f"{made.host}/24", "dev", link)
        ip("link", "set", link, "up")
        for interface in ("lo", "eth0"):
            ip("-n", name, "link", "set", interface, "up")
        ip("-n", name, "addr", "add", f"{made.address}/24", "dev", "eth0")
        ip("-n", name, "route", "add", "default", "via", made.host)
        yield made
    finally:
        ip("netns", "del", name)


@contextmanager
def outside(address: str) -> Iterator[int]:
    """Somebody outside of the container, who is connected to and says nothing."""
    with socket.create_server((address, 0)) as server:
        yield server.getsockname()[1]


def stop(container: Counting) -> None:
    done = container.call("kill", container.id, "TERM")
    assert done.returncode == 0, done.stderr
    eventually(lambda: not container.alive(), "the container is dead")
    done = container.call("delete", container.id)
    assert done.returncode == 0, done.stderr


def said(container: Counting, name: str) -> str:
    path = container.upper / name
    return path.read_text().strip() if path.exists() else ""


def left(container: Counting) -> str:
    """What the program has said, for the message of a failed test."""
    return "; ".join(
        f"{path.name}: {path.read_text()[-200:]!r}" for path in container.upper.glob("[a-z]*") if path.is_file()
    )


def until(container: Counting, holds: Callable[[], Any]) -> None:
    """Wait for something; if it does not come, the test fails with all that the program has said."""
    try:
        eventually(holds, "the program has come so far", 30)
    except AssertionError as problem:
        raise AssertionError(left(container)) from problem


async def test_connections_inside_go_on_in_another_network_twice_and_those_to_outside_are_closed_and_named(
    node: Node, client: Client
) -> None:
    node.start_worker()
    with pod(1) as first, pod(2) as second, pod(3) as third, outside(first.host) as port:
        command = f"exec {sys.executable} {PROGRAM} {first.address} {first.host} {port} 2>/complaint"
        container = Counting(node, command, spec=first.enter)
        await asyncio.to_thread(container.run)
        container.until(20)
        for other in (second, third):
            reached = container.count()
            await asyncio.to_thread(stop, container)
            container = Counting(node, command, spec=other.enter)
            await asyncio.to_thread(container.run)
            until(container, lambda: container.count() > reached + 20)  # noqa: B023
            assert container.has_counted_without_a_gap()
            (container.rootfs / "look").touch()
        (container.rootfs / "drain").touch()
        until(container, lambda: said(container, "drained"))
        assert said(container, "full") == "ok ok", "what lay in both buffers of both ends came once and in order"
        assert said(container, "early") == "ok b'' 1 b'x'"
        assert said(container, "half") == "b'the last words' b'' b'heard you'", "half-closed connections stay so"
        assert said(container, "left") == "b'left behind' b''", "what a closed end has sent is read, and then its end"
        assert said(container, "outer") == "b'' BrokenPipeError"
        assert said(container, "waiting") == "b''", "a connection that nobody had accepted is closed"
        assert said(container, "reach") == f"{third.address},{third.address}"
        socket.create_connection((third.address, int(said(container, "port"))), 5).close()

        async def closed() -> list[list[str]]:
            rows = await query(client, "events", limit=1000)
            found = [row["data"].get("warnings", []) for row in rows if row["type"] == "container.started"]
            return found if len(found) == 3 else []

        warnings = await eventually_async(closed, saying="all starts are told")
    waiting_at = said(container, "waiting-at")
    assert warnings[1:] == [
        [
            f"1 TCP connection to outside of the container was closed: {first.host}:{port}",
            (
                "1 TCP connection inside of the container, not yet accepted or held by one end only, was closed: "
                f"127.0.0.1:{waiting_at}"
            ),
        ],
        [],
    ]
