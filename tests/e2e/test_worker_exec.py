"""A container that stands still for a snapshot: what an engine wants of it meanwhile waits for the end of that, or is done at once."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest
from nats.aio.client import Client
from support.lone_runtime import CALL_SECONDS, eventually
from support.node import Counting, Node
from support.worker import checkpoint

from woodfrog.protocol.ids import CheckpointKey

pytestmark = [pytest.mark.criu, pytest.mark.nats, pytest.mark.root, pytest.mark.timeout(120)]

PROGRAM = """
import time
for number in range(1, 100_000):
    with open("/numbers", "a") as file:
        print(number, file=file)
    time.sleep(0.02)
"""
"""Counts without starting other programs: a shell that is about to start one cannot be frozen at once."""
KEY = CheckpointKey("local", "default", "probed")


COUNT = f"exec {sys.executable} -c '{PROGRAM}'"


def meets_the_freeze(container: Counting, release: Path) -> None:
    eventually(container.state().freezer.is_frozen, "it stands still")
    probe = subprocess.Popen(
        container.arguments("exec", container.id, "/bin/echo", "healthy"),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    time.sleep(2)
    assert probe.poll() is None, probe.communicate()
    assert container.call("state", container.id).returncode == 0
    release.touch()
    said, _ = probe.communicate(timeout=CALL_SECONDS)
    assert (probe.returncode, said) == (0, "healthy\n")


def ends_in_the_freeze(container: Counting) -> None:
    eventually(container.state().freezer.is_frozen, "it stands still")
    done = container.call("kill", container.id, "KILL")
    assert done.returncode == 0, done.stderr
    done = container.call("delete", "--force", container.id)
    assert done.returncode == 0, done.stderr
    assert not container.exists()


async def test_a_probe_that_meets_a_snapshot_waits_for_its_end_and_a_kill_does_not(
    node: Node, client: Client, tmp_path: Path
) -> None:
    release = tmp_path / "release"
    node.start_worker(WOODFROG_FAULT="dump.after-criu=pause", WOODFROG_FAULT_RELEASE=str(release))
    container = Counting(node, COUNT, checkpoint_id=KEY.id)
    await asyncio.to_thread(container.run)
    await asyncio.to_thread(container.until, 3)
    await checkpoint(client, KEY)
    await asyncio.to_thread(meets_the_freeze, container, release)
    await asyncio.to_thread(container.until, container.count() + 3)
    assert container.has_counted_without_a_gap()
    assert not (node.runtime.run_dir / "containers" / container.id / "frozen").exists()
    release.unlink()

    await checkpoint(client, KEY)
    await asyncio.to_thread(ends_in_the_freeze, container)
    release.touch()
