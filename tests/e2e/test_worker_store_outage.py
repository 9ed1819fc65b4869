"""The store is away while containers end: what they did is stored when it is back, whoever was restarted meanwhile."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from nats.aio.client import Client
from support.node import Counting, Node, running_node
from support.time_scale import scaled
from support.worker import ask, eventually, query

from woodfrog.protocol import subjects
from woodfrog.protocol.ids import CheckpointKey
from woodfrog.protocol.requests import ForgetRequest, Forgetting, Refusal
from woodfrog.service.nats import connect

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


@contextmanager
def store_away(node: Node) -> Iterator[None]:
    """Have something else be where the node's store is."""
    store = node.state / "store"
    elsewhere = store.rename(node.state / "elsewhere")
    store.write_text("not a directory")
    yield
    store.unlink()
    elsewhere.rename(store)


async def test_a_final_capture_outlives_an_outage_of_the_store_and_a_restart_of_the_worker_in_the_middle_of_it(
    node: Node, client: Client
) -> None:
    node.start_worker(**SCALED)
    container = await asyncio.to_thread(counting, node, "outlives")
    with store_away(node):
        await asyncio.to_thread(stopped, [container])
        await asyncio.sleep(AWAY_SECONDS / 2)
        await asyncio.to_thread(node.stop_worker)
        await asyncio.to_thread(node.start_worker, **SCALED)
        await asyncio.sleep(AWAY_SECONDS / 2)
        assert await statuses(client, "outlives") == ["captured"]
        assert len(list((node.state / "spool").iterdir())) == 1

    async def valid() -> bool:
        return await statuses(client, "outlives") == ["valid"]

    await eventually(valid, saying="it is stored")
    await asyncio.to_thread(followed, node, "outlives", container)


async def test_what_was_not_stored_of_a_reinstalled_node_is_recorded_as_lost_with_its_cause(
    node: Node, client: Client
) -> None:
    node.start_worker(**SCALED)
    container = await asyncio.to_thread(counting, node, "reinstalled")
    with store_away(node):
        await asyncio.to_thread(stopped, [container])
        await not_stored(client, "reinstalled", "captured")
        await asyncio.to_thread(node.stop_worker)
        for file in node.state.glob("journal.sqlite3*"):
            file.unlink()
        shutil.rmtree(node.state / "spool")
    await asyncio.to_thread(node.start_worker, **SCALED)

    async def failed() -> bool:
        return await statuses(client, "reinstalled") == ["failed"]

    await eventually(failed, saying="the capture is recorded as lost")
    (row,) = await query(client, "failures", key=CheckpointKey("local", "default", "reinstalled"))
    assert (row["failure_code"], row["stage"]) == ("node-reset", "store")
    await asyncio.to_thread(counting, node, "reinstalled")
    (*_, reason) = await reasons(client, "reinstalled")
    assert "was removed, and with it this capture" in reason


async def test_what_was_recorded_as_lost_is_stored_and_resumed_from_if_the_disk_with_the_nodes_state_comes_back(
    node: Node, client: Client
) -> None:
    node.start_worker(**SCALED)
    container = await asyncio.to_thread(counting, node, "mounted-late")
    disk = node.state / "disk"
    with store_away(node):
        await asyncio.to_thread(stopped, [container])
        await not_stored(client, "mounted-late", "captured")
        await asyncio.to_thread(node.stop_worker)
        disk.mkdir()
        state = [*node.state.glob("journal.sqlite3*"), node.state / "spool"]
        for part in state:
            part.rename(disk / part.name)
        await asyncio.to_thread(node.start_worker, **SCALED)

        async def failed() -> bool:
            return await statuses(client, "mounted-late") == ["failed"]

        await eventually(failed, saying="the capture is recorded as lost")
        await asyncio.to_thread(node.stop_worker)
        for file in node.state.glob("journal.sqlite3*"):
            file.unlink()
        shutil.rmtree(node.state / "spool", ignore_errors=True)
        for part in state:
            (disk / part.name).rename(part)
    await asyncio.to_thread(node.start_worker, **SCALED)

    async def valid() -> bool:
        return await statuses(client, "mounted-late") == ["valid"]

    await eventually(valid, saying="it is stored after all")
    await asyncio.to_thread(followed, node, "mounted-late", container)


@contextmanager
def small_store(at: Path) -> Iterator[Path]:
    """A store on a disk that is full until the file that is yielded is removed."""
    at.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", at], check=True, timeout=10)
    try:
        yield at / "ballast"
    finally:
        subprocess.run(["umount", "--lazy", at], check=True, timeout=10)


def fill(ballast: Path) -> None:
    """Write until nothing more fits."""
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 20))


async def reasons(client: Client, name: str) -> list[str]:
    rows = await query(client, "restore_history", key=CheckpointKey("local", "default", name))
    return [row["reason"] for row in rows]


def contents(spool: Path) -> dict[str, str]:
    """Digest all that waits in the spool, but what CRIU logged."""
    return {
        str(path.relative_to(spool)): blake3(path.read_bytes()).hexdigest()
        for path in spool.rglob("*")
        if path.is_file() and "work" not in path.parts
    }


async def not_stored(client: Client, name: str, *waiting: str) -> None:
    """Wait until the log knows that the store does not take the last capture."""

    async def known() -> bool:
        rows = await query(client, "events", key=CheckpointKey("local", "default", name))
        delayed = [row for row in rows if row["type"] == "snapshot.store-delayed"]
        return len(delayed) == len(waiting) and all(row["data"]["manifest_digest"] for row in delayed)

    await eventually(known, saying="the capture waits for the store")
    assert await statuses(client, name) == list(waiting)


async def test_while_the_store_is_away_a_container_goes_on_on_its_node_from_what_is_not_stored_yet(
    node: Node, client: Client
) -> None:
    node.start_worker(**SCALED)
    first = await asyncio.to_thread(counting, node, "stays")
    spool = node.state / "spool"
    with store_away(node):
        await asyncio.to_thread(stopped, [first])
        await not_stored(client, "stays", "captured")
        captured = await asyncio.to_thread(contents, spool)

        second = await asyncio.to_thread(counting, node, "stays")
        await asyncio.to_thread(second.until, first.count() + 3)
        assert second.numbers()[: first.count()] == first.numbers(), "not one number was lost or counted again"
        assert second.has_counted_without_a_gap()
        assert await asyncio.to_thread(contents, spool) == captured
        assert "which is on this node, not stored: store-unreachable since" in (await reasons(client, "stays"))[-1]

        await asyncio.to_thread(stopped, [second])
        await not_stored(client, "stays", "captured", "captured")
        await asyncio.to_thread(node.stop_worker)
        await asyncio.to_thread(node.start_worker, **SCALED)
        third = await asyncio.to_thread(counting, node, "stays")
        await asyncio.to_thread(third.until, second.count() + 3)
        assert third.numbers()[: second.count()] == second.numbers(), "nor with another worker than captured it"
    await asyncio.to_thread(stopped, [third])

    async def valid() -> bool:
        return await statuses(client, "stays") == ["valid"] * 3

    await eventually(valid, saying="all are stored, none is superseded")
    await asyncio.to_thread(followed, node, "stays", third)
    assert "is the newest snapshot" in (await reasons(client, "stays"))[-1]
    assert not list(spool.iterdir())


async def test_with_a_full_store_a_container_goes_on_on_its_node_and_a_broken_capture_is_told_apart(
    node: Node, client: Client
) -> None:
    with small_store(node.state / "store") as ballast:
        node.start_worker(**SCALED)
        first, broken = [await asyncio.to_thread(counting, node, name) for name in ("full", "broken")]
        fill(ballast)
        await asyncio.to_thread(stopped, [first, broken])
        await not_stored(client, "full", "captured")
        await not_stored(client, "broken", "captured")

        rows = await query(client, "checkpoint_history", key=CheckpointKey("local", "default", "broken"))
        pages = next((node.state / "spool" / rows[0]["snapshot_id"] / "images").glob("pages-*.img"))
        with pages.open("r+b") as file:
            file.seek(100)
            file.write(bytes(byte ^ 0xFF for byte in pages.read_bytes()[100:108]))
        await asyncio.to_thread(counting, node, "broken")
        assert "it could not be restored in this start" in (await reasons(client, "broken"))[-1]
        failures = await query(client, "failures", key=CheckpointKey("local", "default", "broken"))
        assert [row["failure_code"] for row in failures][-1] == "spool-lost"

        second = await asyncio.to_thread(counting, node, "full")
        await asyncio.to_thread(second.until, first.count() + 3)
        assert second.has_counted_without_a_gap()
        ballast.unlink()

        async def valid() -> bool:
            return await statuses(client, "full", "broken") == ["valid", "failed"]

        await eventually(
            valid, saying="the whole one is stored while its successor runs, the broken one never", seconds=60
        )
        failures = await query(client, "failures", key=CheckpointKey("local", "default", "broken"))
        assert [row["failure_code"] for row in failures][-1] == "spool-corrupt"
        await asyncio.to_thread(stopped, [second])
        await asyncio.to_thread(followed, node, "full", second)


async def test_a_store_that_is_full_during_a_drain_loses_none_of_several_containers(node: Node, client: Client) -> None:
    names = [f"drained-{number}" for number in range(5)]
    with small_store(node.state / "store") as ballast:
        node.start_worker(**SCALED)
        containers = [await asyncio.to_thread(counting, node, name) for name in names]
        fill(ballast)
        await asyncio.to_thread(stopped, containers)
        await asyncio.sleep(AWAY_SECONDS)
        assert await statuses(client, *names) == ["captured"] * len(names)
        ballast.unlink()

        async def valid() -> bool:
            return await statuses(client, *names) == ["valid"] * len(names)

        await eventually(valid, saying="all are stored", seconds=60)
        await asyncio.to_thread(followed, node, names[0], containers[0])


async def test_what_a_lost_node_stores_of_an_id_that_was_forgotten_meanwhile_it_removes_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WOODFROG_NODE_LOST_SECONDS", str(scaled(1.5)))
    with running_node() as node:
        client = await connect(node.nats.url, name="test")
        node.start_worker(**SCALED)
        container = await asyncio.to_thread(counting, node, "unwanted")
        with store_away(node):
            await asyncio.to_thread(stopped, [container])
            await not_stored(client, "unwanted", "captured")
            node.kill_worker()

            async def lost() -> bool:
                return [row["status"] for row in await query(client, "nodes")] == ["lost"]

            await eventually(lost, saying="the node is lost")
            key = CheckpointKey("local", "default", "unwanted")

            async def forgotten() -> bool:
                request = ForgetRequest(key, "it is not needed", force=True)
                answer = await ask(client, subjects.FORGET, request, Forgetting | Refusal)
                assert isinstance(answer, Forgetting), answer
                return answer.left == 0

            await eventually(forgotten, saying="it is forgotten")
        await asyncio.to_thread(node.start_worker, **SCALED)

        async def refused() -> bool:
            return "forgotten" in [row["kind"] for row in await query(client, "dead_letters")]

        await eventually(refused, saying="what it stored is refused")
        folder = node.state / "store/local/default/unwanted"
        assert list(folder.iterdir())
        node.stop_worker()
        await asyncio.to_thread(node.start_worker, **SCALED)  # asks at once what became of its reports

        async def removed() -> bool:
            return not folder.exists() or not list(folder.iterdir())

        await eventually(removed, saying="its bytes are removed", seconds=40)
        again = await asyncio.to_thread(counting, node, "unwanted")
        assert again.numbers()[:2] == [1, 2]
        await client.close()
