"""What holds for tests of every folder: their time on slow machines, that nothing blocks an event loop, and a PostgreSQL server, started
if somebody asks.

Examples that Hypothesis makes have no time limit of their own: only a test has. Where WOODFROG_SAME_EXAMPLES is set, as in CI, they are
the same on every machine, so that what fails was broken by the change.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from support import time_scale, unblocked
from support.databases import PostgresServer

collect_ignore = [] if importlib.util.find_spec("playwright") else ["page"]
"""The tests of the page need what `make page-test` brings along, which runs them; CI does so each time."""


_IN_OUR_LOOP = (
    "unit/",
    "property/",
    "integration/controlplane/bus/",
    "integration/controlplane/http/",
    "integration/controlplane/kube/",
    "integration/nodeworker/",
)
"""In other folders services are processes of their own, or the log is opened and asked by the test itself."""


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


@pytest.fixture(autouse=True)
def unblocked_loop(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail an async test in which our code blocks the event loop, where that code runs in the test's own."""
    here = request.path.relative_to(Path(__file__).parent).as_posix()
    if not here.startswith(_IN_OUR_LOOP) or not inspect.iscoroutinefunction(getattr(request, "function", None)):
        yield
        return
    watch = unblocked.watch("controlplane", "nodeworker", "woodfrog")
    watch.activate()
    yield
    watch.deactivate()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A real PostgreSQL on loopback."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.close()
