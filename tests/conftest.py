"""What tests of every folder may ask for: a PostgreSQL server, started once and only if somebody asks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.databases import PostgresServer


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A real PostgreSQL on loopback."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.close()
