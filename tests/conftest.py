"""What holds for tests of every folder: their time on slow machines, and a PostgreSQL server, started if somebody asks."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest
from support import time_scale
from support.databases import PostgresServer

collect_ignore = [] if importlib.util.find_spec("playwright") else ["page"]
"""The tests of the page need what `make page-test` brings along, which runs them; CI does so each time."""


def pytest_configure() -> None:
    """Give programs more time where the machine is slow."""
    time_scale.scale_programs()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give tests more time where the machine is slow."""
    time_scale.scale_tests(items, float(config.getini("timeout")))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A real PostgreSQL on loopback."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.close()
