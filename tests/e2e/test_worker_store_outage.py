"""The store is away while containers end: what they did is stored when it is back, whoever was restarted meanwhile."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client
from support.node import Counting, Node
from support.worker import eventually, query

from protocol.ids import CheckpointKey

pytestmark = [pytest.mark.criu, pytest.mark.nats, pytest.mark.root, pytest.mark.timeout(180)]

AWAY_SECONDS = 6.0
"""For a minute: the pauses between tries are a tenth of those in life."""
SCALED = {"WOODFROG_STORE_PAUSE_LIMIT": "0.5s", "WOODFROG_STORE_ATTEMPTS": "2", "WOODFROG_COPIES": "off"}


def counting(node: Node, name: str) -> Counting:
    made = Counting(node, checkpoint_id=name)
    made.run()
    made.until(3)
    return made


def stopped(containers: list[Counting]) -> None:
    with ThreadPoolExecutor(len(containers)) as pool:
        for done in pool.map(lambda each: each.call("kill", each.id, "TERM"), containers):
            assert done.returncode == 0, done.stderr


async def statuses(client: Client, *names: str) -> list[str]:
    rows: list[dict[str, Any]] = []
    for name in names:
        rows += await query(client, "checkpoint_history", key=CheckpointKey("local", "default", name))
    return [row["status"] for row in rows]


def followed(node: Node, name: str, container: Counting) -> None:
    """Let another container, elsewhere, go on."""
    reached = container.count()
    successor = counting(node, name)
    successor.until(reached + 3)
    assert successor.has_counted_without_a_gap()


async def test_a_final_capture_outlives_an_outage_of_the_store_and_a_restart_of_the_worker_in_the_middle_of_it(
    node: Node, client: Client
) -> None:
    node.start_worker(**SCALED)
    container = await asyncio.to_thread(counting, node, "outlives")
    store = node.state / "store"
    store.rename(node.state / "elsewhere")
    store.write_text("not a directory")
    await asyncio.to_thread(stopped, [container])
    await asyncio.sleep(AWAY_SECONDS / 2)
    await asyncio.to_thread(node.stop_worker)
    await asyncio.to_thread(node.start_worker, **SCALED)
    await asyncio.sleep(AWAY_SECONDS / 2)
    assert await statuses(client, "outlives") == ["captured"]
    assert len(list((node.state / "spool").iterdir())) == 1
    store.unlink()
    (node.state / "elsewhere").rename(store)

    async def valid() -> bool:
        return await statuses(client, "outlives") == ["valid"]

    await eventually(valid, saying="it is stored")
    await asyncio.to_thread(followed, node, "outlives", container)


@contextmanager
def small_store(at: Path) -> Iterator[Path]:
    """A store on a disk that is full until the file that is yielded is removed."""
    at.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", at], check=True, timeout=10)
    try:
        yield at / "ballast"
    finally:
        subprocess.run(["umount", "--lazy", at], check=True, timeout=10)


async def test_a_store_that_is_full_during_a_drain_loses_none_of_several_containers(node: Node, client: Client) -> None:
    names = [f"drained-{number}" for number in range(5)]
    with small_store(node.state / "store") as ballast:
        node.start_worker(**SCALED)
        containers = [await asyncio.to_thread(counting, node, name) for name in names]
        with ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1 << 20))
            except OSError:
                pass
        await asyncio.to_thread(stopped, containers)
        await asyncio.sleep(AWAY_SECONDS)
        assert await statuses(client, *names) == ["captured"] * len(names)
        ballast.unlink()

        async def valid() -> bool:
            return await statuses(client, *names) == ["valid"] * len(names)

        await eventually(valid, saying="all are stored", seconds=60)
        await asyncio.to_thread(followed, node, names[0], containers[0])
