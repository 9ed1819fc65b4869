"""How long a container stands still for a snapshot after which it runs on has a limit; its last snapshot has none."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from nats.aio.client import Client
from support.lone_runtime import eventually
from support.node import Counting, Node
from support.worker import checkpoint, query
from support.worker import eventually as eventually_async

from woodfrog.protocol.ids import CheckpointKey

pytestmark = [pytest.mark.criu, pytest.mark.nats, pytest.mark.root, pytest.mark.timeout(120)]

KEY = CheckpointKey("local", "default", "patient")
LIMIT_SECONDS = 0.2


def past_the_limit(container: Counting, release: Path) -> None:
    """Let a dump that is held up go on after the container has stood still for longer than it may."""
    before = container.count()
    eventually(container.state().freezer.is_frozen, "it stands")
    time.sleep(2 * LIMIT_SECONDS)
    assert container.count() <= before + 20
    release.touch()


async def test_a_container_that_stands_for_too_long_runs_on_without_a_snapshot_and_its_last_one_has_all_the_time(
    node: Node, client: Client, tmp_path: Path
) -> None:
    release = tmp_path / "release"
    node.start_worker(WOODFROG_FAULT="dump.after-criu=pause", WOODFROG_FAULT_RELEASE=str(release))
    container = Counting(node, checkpoint_id=KEY.id, annotations={"woodfrog.io/freeze-limit": f"{LIMIT_SECONDS}s"})
    await asyncio.to_thread(container.run)
    await asyncio.to_thread(container.until, 3)
    await checkpoint(client, KEY)
    await asyncio.to_thread(past_the_limit, container, release)

    async def failed() -> list[str]:
        rows = await query(client, "checkpoint_history", key=KEY)
        return [row["failure_code"] for row in rows if row["status"] == "failed"]

    assert await eventually_async(failed, saying="the dump is reported") == ["freeze-limit"]
    await asyncio.to_thread(container.until, container.count() + 3)
    assert container.has_counted_without_a_gap()
    release.unlink()

    stop = asyncio.create_task(asyncio.to_thread(container.call, "kill", container.id, "TERM"))
    await asyncio.to_thread(past_the_limit, container, release)
    await stop

    async def stored() -> list[str]:
        rows = await query(client, "checkpoint_history", key=KEY)
        return [row["trigger"] for row in rows if row["status"] == "valid"]

    assert await eventually_async(stored, saying="the last one is stored") == ["stop-signal"]
