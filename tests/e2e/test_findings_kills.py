"""Who kills a container in the middle of its last dump gets what was killed named, half a snapshot never, and the one before at the next start."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client
from support.lone_runtime import eventually
from support.node import Counting, Node
from support.worker import checkpoint, query
from support.worker import eventually as until

from nodeworker.capture.criu.freezer import Freezer
from woodfrog.protocol.ids import CheckpointKey

pytestmark = [pytest.mark.criu, pytest.mark.nats, pytest.mark.timeout(120)]

KEY = CheckpointKey("local", "default", "trainer")


async def rows(client: Client, count: int) -> list[dict[str, Any]]:
    """Wait until ``count`` dumps have come to an end."""

    async def ended() -> list[dict[str, Any]]:
        found = await query(client, "checkpoint_history")
        ends = {"valid", "failed"}
        return found if len(found) == count and {row["status"] for row in found} <= ends else []

    dumps: list[dict[str, Any]] = await until(ended, saying=f"{count} dumps have ended")
    return dumps


def frozen(freezer: Freezer) -> bool:
    with suppress(OSError):
        return freezer.is_frozen()
    return False


@pytest.mark.parametrize("how", ["killed", "removed"])
async def test_it_is_named_and_the_next_start_has_the_snapshot_before(
    node: Node, client: Client, tmp_path: Path, how: str
) -> None:
    release = tmp_path / "release"
    node.start_worker()
    container = Counting(node)
    await asyncio.to_thread(container.run)
    container.until(3)
    await checkpoint(client, KEY)
    await rows(client, 1)
    node.stop_worker()
    node.start_worker(WOODFROG_FAULT="dump.frozen=pause", WOODFROG_FAULT_RELEASE=str(release))
    reached = container.count()
    state = container.state()
    stopping = asyncio.create_task(asyncio.to_thread(container.call, "kill", container.id, "TERM"))
    await asyncio.to_thread(eventually, lambda: frozen(state.freezer), "it stands still")
    if how == "killed":
        os.kill(state.pid, 9)
    else:
        await asyncio.to_thread(container.call, "kill", container.id, "KILL")
        removing = asyncio.create_task(asyncio.to_thread(container.call, "delete", "--force", container.id))
        await asyncio.sleep(0.5)
    release.touch()
    await stopping
    if how == "removed":
        await removing
    eventually(lambda: not container.alive(), "it has ended")
    _, last = await rows(client, 2)
    assert (last["status"], last["failure_code"]) == ("failed", "container-gone")
    assert list((node.state / "spool").glob("*")) == []
    container.call("delete", "--force", container.id)
    again = Counting(node)
    await asyncio.to_thread(again.run)
    again.until(reached)
    assert again.has_counted_without_a_gap()
