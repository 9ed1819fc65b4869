"""The pages about databases, keys and isolated nodes, each typed beside a PostgreSQL and without a container."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.console import pages_of
from support.databases import PostgresServer, in_thread
from support.stack import WOODFROG
from support.terminal import desk

from controlplane.log.admin.migrate import upgrade

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    server = PostgresServer()
    server.start()
    yield server
    server.close()


@pytest.mark.parametrize("page", pages_of("server"))
def test_a_page_does_what_it_shows(page: str, postgres: PostgresServer) -> None:
    with tempfile.TemporaryDirectory(prefix="wf-") as path:
        folder = Path(path)
        replaced = {
            "-h db ": f"-h 127.0.0.1 -p {postgres.port} ",
            "@db/": f"@127.0.0.1:{postgres.port}/",
            "/var/lib/woodfrog/": f"{folder}/",
            "/etc/woodfrog-nats": f"{folder}/nats",
        }
        in_thread(upgrade(f"sqlite:///{folder}/log.db"))
        environment = {**os.environ, "PATH": f"{WOODFROG.parent}:{postgres.bin}:{os.environ['PATH']}"}
        with desk(folder, environment, replaced) as made:
            made.follow(page, "server")
