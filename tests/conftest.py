"""What holds for tests of every folder: their time on slow machines, and a PostgreSQL server, started if somebody asks.

Examples that Hypothesis makes have no time limit of their own: only a test has. Where WOODFROG_SAME_EXAMPLES is set, as in CI, they are
the same on every machine, so that what fails was broken by the change.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from support import time_scale
from support.databases import PostgresServer

collect_ignore = [] if importlib.util.find_spec("playwright") else ["page"]
"""The tests of the page need what `make page-test` brings along, which runs them; CI does so each time."""


def pytest_configure() -> None:
    """Give programs more time where the machine is slow."""
    time_scale.scale_programs()
    same = bool(os.environ.get("WOODFROG_SAME_EXAMPLES"))
    settings.register_profile("woodfrog", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=same)
    settings.load_profile("woodfrog")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give tests more time where the machine is slow."""
    default_seconds = float(config.getini("timeout"))
    time_scale.scale_tests(items, default_seconds)
    if items:  # servers are taken down at the end of the last test, within its time
        mark = items[-1].get_closest_marker("timeout")
        seconds = mark.args[0] if mark is not None else default_seconds
        items[-1].add_marker(pytest.mark.timeout(max(seconds, default_seconds)), append=False)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A real PostgreSQL on loopback."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.close()
