"""One stack for the tests that do no harm to it; those that do start their own."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.stack import Stack, running

WORKLOADS = Path(__file__).parent / "workloads"


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """A running ``woodfrog dev``. Its path is short, because unix sockets and overlay options have limits."""
    with tempfile.TemporaryDirectory(prefix="wf-", ignore_cleanup_errors=True) as folder, running(Path(folder)) as up:
        yield up


@pytest.fixture
def workload() -> object:
    """Return the command line of a program in ``workloads/``."""

    def command(name: str, *arguments: str) -> list[str]:
        return [sys.executable, str(WORKLOADS / name), *arguments]

    return command
