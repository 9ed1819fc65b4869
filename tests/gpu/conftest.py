"""A machine with an NVIDIA GPU and its driver; what is measured there goes into build/gpu/result.json."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support import real_gpu
from support.node import Node, running_node
from support.real_gpu import Results, libraries

from nodeworker.capture.gpu.driver_process import DriverProcess

_outcomes: dict[str, str] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Remember how every test here ended, and why one was left out."""
    if "tests/gpu" in report.nodeid and (report.when == "call" or report.outcome != "passed"):
        why = f": {report.longrepr[2]}" if report.skipped and isinstance(report.longrepr, tuple) else ""
        _outcomes[report.nodeid.partition("::")[2]] = f"{report.outcome}{why}"


@pytest.fixture(scope="session")
def driver() -> Iterator[DriverProcess]:
    if not real_gpu.CONTROL.exists():
        pytest.fail(f"there is no NVIDIA GPU here: {real_gpu.CONTROL} is missing", pytrace=False)
    made = DriverProcess(libraries())
    yield made
    made.close()


@pytest.fixture(scope="session")
def results(driver: DriverProcess) -> Iterator[Results]:
    made = Results(driver, _outcomes)
    yield made
    made.write()


@pytest.fixture
def node(driver: DriverProcess) -> Iterator[Node]:
    with running_node() as made:
        made.start_worker()
        yield made
