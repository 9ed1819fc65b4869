"""The pages about one machine, each typed on a machine that has nothing of Woodfrog yet but the clone."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.console import pages_of, walk
from support.stack import WOODFROG, running
from support.terminal import desk

pytestmark = [pytest.mark.criu, pytest.mark.nats, pytest.mark.timeout(480)]

PLACE = "machine"


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="wf-", ignore_cleanup_errors=True) as path:
        yield Path(path)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def starts_a_stack(page: str) -> bool:
    return any(
        "woodfrog dev" in step.command for block in walk(page, PLACE) if block.is_typed for step in block.steps()
    )


def remove_what_is_left(state: Path) -> None:
    """End containers and mounts of a page that was not followed to its end."""
    roots = state / "run" / "runc"
    for container in sorted(roots.iterdir()) if roots.exists() else ():
        subprocess.run(
            ["runc", "--root", roots, "delete", "--force", container.name], check=False, capture_output=True, timeout=20
        )
    for line in reversed(Path("/proc/mounts").read_text().splitlines()):
        if line.split()[1].startswith(f"{state}/"):
            subprocess.run(["umount", "--lazy", line.split()[1]], check=False, capture_output=True, timeout=20)


@pytest.mark.parametrize("page", pages_of("machine"))
def test_a_page_does_what_it_shows(page: str, folder: Path) -> None:
    state = folder / "home" / ".local" / "state" / "woodfrog"
    environment = {**os.environ, "PATH": f"{WOODFROG.parent}:{os.environ['PATH']}"}
    environment.pop("WOODFROG_STATE_DIR", None)
    replaced = {"/var/lib/woodfrog/": f"{folder}/var/", "127.0.0.1:8443": f"127.0.0.1:{free_port()}"}
    try:
        with ExitStack() as opened:
            if not starts_a_stack(page):
                opened.enter_context(running(state))
            opened.enter_context(desk(folder, environment, replaced)).follow(page, PLACE)
    finally:
        remove_what_is_left(state)
