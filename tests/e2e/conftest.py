"""One stack for the tests that do no harm to it, and one containerd beside it; those that do harm start their own, or a node alone."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from nats.aio.client import Client
from support import containerd as containerds
from support import kubelet as kubelets
from support.containerd import Containerd
from support.cri import Cri
from support.kubelet import Kubelet
from support.node import Node, running_node
from support.stack import Stack, running

from woodfrog.service.nats import connect

WORKLOADS = Path(__file__).parent / "workloads"


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """A running ``woodfrog dev``. Its path is short, because unix sockets and overlay options have limits."""
    with tempfile.TemporaryDirectory(prefix="wf-", ignore_cleanup_errors=True) as folder, running(Path(folder)) as up:
        yield up


@pytest.fixture(scope="module")
def engine(stack: Stack) -> Iterator[Containerd]:
    """A containerd that runs pods through the stack's runtime."""
    with containerds.running(stack.runtime) as containerd:
        yield containerd


@pytest.fixture
def kubelet(engine: Containerd) -> Iterator[Kubelet]:
    """Makes pods there."""
    with Cri(engine.socket, engine.root / "cri") as client, kubelets.running(client, engine.root / "k") as made:
        yield made


@pytest.fixture
def node() -> Iterator[Node]:
    """A worker alone, with a broker and a control plane."""
    with running_node() as made:
        yield made


@pytest.fixture
async def client(node: Node) -> AsyncIterator[Client]:
    """A connection to the node's broker."""
    connection = await connect(node.nats.url, name="test")
    yield connection
    await connection.close()


@pytest.fixture
def workload() -> object:
    """Return the command line of a program in ``workloads/``."""

    def command(name: str, *arguments: str) -> list[str]:
        return [sys.executable, str(WORKLOADS / name), *arguments]

    return command
