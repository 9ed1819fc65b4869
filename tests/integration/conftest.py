"""Real servers for the integration tests: one nats-server and, where asked for, one control plane a test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import pytest
from nats.aio.client import Client
from support.databases import PostgresServer
from support.servers import ControlPlaneProcess, NatsServer

from woodfrog.service.nats import connect


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    """A nats-server with JetStream on disk."""
    server = NatsServer(tmp_path / "nats")
    server.start()
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def nats_url(nats_server: NatsServer) -> str:
    """Where :func:`nats_server` takes connections."""
    return nats_server.url


@pytest.fixture
async def client(nats_server: NatsServer) -> AsyncIterator[Client]:
    """A connection that outlives restarts of the server."""
    connection = await connect(nats_server.url, name="test")
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture
def make_control_plane(tmp_path: Path, nats_server: NatsServer) -> Iterator[Callable[..., ControlPlaneProcess]]:
    """Make a control plane, not started, with environment variables of one's own. It loses no node unless told to."""
    made: list[ControlPlaneProcess] = []

    def make(*, prefix: Sequence[str] = (), **environment: str) -> ControlPlaneProcess:
        folder = tmp_path / f"controlplane-{len(made)}"
        folder.mkdir()
        made.append(
            ControlPlaneProcess(
                folder, nats_server.url, prefix=prefix, **{"WOODFROG_NODE_LOST_SECONDS": "600", **environment}
            )
        )
        return made[-1]

    try:
        yield make
    finally:
        for process in made:
            process.close()


@pytest.fixture
def control_plane(make_control_plane: Callable[..., ControlPlaneProcess]) -> ControlPlaneProcess:
    """A running control plane."""
    process = make_control_plane()
    process.start()
    return process


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database that several control planes share."""
    if request.param == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path / 'shared.db'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = server.new_database()
    yield server.url(name)
    server.drop_database(name)
