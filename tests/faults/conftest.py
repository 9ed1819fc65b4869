"""A broker, a control plane and two workers with fake dumps, all real processes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from nats.aio.client import Client
from support.fake_worker import FakeWorkerProcess
from support.servers import ControlPlaneProcess, NatsServer

from woodfrog.service.nats import connect


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path / "nats")
    server.start()
    yield server
    server.close()


@pytest.fixture
def plane(tmp_path: Path, broker: NatsServer) -> Iterator[ControlPlaneProcess]:
    folder = tmp_path / "controlplane"
    folder.mkdir()
    process = ControlPlaneProcess(folder, broker.url)
    process.start()
    yield process
    process.close()


@pytest.fixture
async def asker(broker: NatsServer) -> AsyncIterator[Client]:
    client = await connect(broker.url, name="test")
    yield client
    await client.close()


@pytest.fixture
def make_worker(tmp_path: Path) -> Iterator[Callable[..., FakeWorkerProcess]]:
    made: list[FakeWorkerProcess] = []

    def make(node: str, url: str, containers: int) -> FakeWorkerProcess:
        folder = tmp_path / "workers"
        folder.mkdir(exist_ok=True)
        made.append(FakeWorkerProcess(folder, node, url, containers))
        made[-1].start()
        return made[-1]

    yield make
    for worker in made:
        worker.kill()
