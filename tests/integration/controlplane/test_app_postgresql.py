"""A whole control plane on PostgreSQL, as the role that may only append: it serves, dies, comes back and outlives cut connections."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest
from nats.aio.client import Client
from support.databases import PostgresDatabase, PostgresServer, in_thread
from support.servers import ControlPlaneProcess
from support.worker import Worker, snapshot_name

from controlplane.log.admin.migrate import upgrade
from controlplane.log.admin.roles import CONTROLLER, READER, apply
from woodfrog.protocol.requests import RestoreFrom, StartCold

pytestmark = [pytest.mark.nats, pytest.mark.timeout(120)]


@pytest.fixture
def database(postgres_server: PostgresServer) -> PostgresDatabase:
    found = PostgresDatabase(postgres_server, postgres_server.new_database())
    in_thread(upgrade(found.url))
    in_thread(apply(found.url))
    return found


async def test_a_control_plane_on_postgresql_serves_and_comes_back_after_its_death(
    client: Client,
    make_control_plane: Callable[..., ControlPlaneProcess],
    database: PostgresDatabase,
    postgres_server: PostgresServer,
) -> None:
    url = postgres_server.url(database.name, user=CONTROLLER)
    control_plane = make_control_plane(WOODFROG_DATABASE_URL=url)
    control_plane.start()
    worker = Worker(client)
    await worker.register()
    assert isinstance(await worker.resolve("c1"), StartCold)
    await worker.say(worker.started("c1"), *worker.snapshot(snapshot_name(1), final=True))
    assert isinstance(await worker.resolve("c2"), RestoreFrom)

    control_plane.signal(signal.SIGKILL)
    control_plane.wait()
    control_plane.start()
    answer = await worker.resolve("c2")
    assert isinstance(answer, RestoreFrom)
    assert answer.snapshot_id == snapshot_name(1)

    database.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", CONTROLLER, user="postgres"
    )
    await worker.say(worker.started("c2", 2), *worker.snapshot(snapshot_name(2), 2, final=True))
    after = await worker.resolve("c3")
    assert isinstance(after, RestoreFrom)
    assert after.snapshot_id == snapshot_name(2)

    ((events, newest),) = database.sql("SELECT count(*), max(position) FROM events", user=READER)
    assert events == newest
    assert database.sql("SELECT choice FROM restore_history ORDER BY position", user=READER) == [
        ("cold",),
        ("restored",),
        ("restored",),
    ]
