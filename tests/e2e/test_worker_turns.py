"""Many stops at once on one node: how many containers stand at the same time, who comes first, and what a killed worker leaves."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client
from support.lone_runtime import eventually
from support.node import Counting, Node
from support.worker import ask, query
from support.worker import eventually as eventually_async

from nodeworker.capture.criu.freezer import Freezer
from nodeworker.journal import Journal
from woodfrog.protocol import subjects
from woodfrog.protocol.ids import CheckpointKey, NodeName, WorkerId
from woodfrog.protocol.requests import CheckpointRequest, CommandAccepted, Refusal

pytestmark = [pytest.mark.criu, pytest.mark.nats, pytest.mark.root, pytest.mark.timeout(120)]

GRACE_PERIOD = "io.kubernetes.pod.terminationGracePeriod"


def counting(node: Node, name: str, grace_seconds: int | None = None, on: Counting | None = None) -> Counting:
    """A container of an id of its own that counts."""
    annotations = {} if grace_seconds is None else {GRACE_PERIOD: str(grace_seconds)}
    made = Counting(node, checkpoint_id=name, annotations=annotations, on=on)
    made.run_on(on or made)
    return made


def stands(freezer: Freezer) -> bool:
    """Whether a container stands, or is about to, as the kernel says."""
    file = freezer.path / ("freezer.state" if freezer.version == 1 else "cgroup.freeze")
    try:
        return file.read_text().strip() not in {"THAWED", "0"}
    except OSError:
        return False  # its cgroup is gone


@contextmanager
def watched(containers: Sequence[Counting]) -> Iterator[list[int]]:
    """Look again and again how many containers stand at once."""
    freezers = [container.state().freezer for container in containers]
    seen: list[int] = []
    end = threading.Event()

    def look() -> None:
        while not end.wait(0.002):
            seen.append(sum(stands(freezer) for freezer in freezers))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield seen
    finally:
        end.set()
        looking.join()


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


def number(port: int, name: str) -> float:
    """One of the worker's numbers."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
        lines: list[str] = page.read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"woodfrog_worker_{name} "))


@contextmanager
def stopping(containers: Sequence[Counting]) -> Iterator[None]:
    """Send each the stop signal, all at once, and wait for every call to return."""

    def stop(container: Counting) -> None:
        done = container.call("kill", container.id, "TERM")
        assert done.returncode == 0, done.stderr

    with ThreadPoolExecutor(len(containers)) as pool:
        calls = [pool.submit(stop, container) for container in containers]
        yield
        for call in calls:
            call.result()


async def test_of_eight_containers_stopped_at_once_no_more_than_two_stand_at_a_time_and_all_go_on(
    node: Node, client: Client
) -> None:
    node.start_worker(WOODFROG_DUMPS_AT_ONCE="2")
    containers = [counting(node, f"burst-{number}") for number in range(8)]

    def stop_all() -> list[int]:
        with watched(containers) as seen, stopping(containers):
            pass
        return seen

    seen = await asyncio.to_thread(stop_all)
    assert max(seen) == 2

    assert sorted(await valid(client, 8)) == [f"burst-{number}" for number in range(8)]
    for before in (containers[0], containers[-1]):
        reached = before.count()
        number = containers.index(before)
        after = await asyncio.to_thread(counting, node, f"burst-{number}")
        after.until(reached + 10)
        assert after.has_counted_without_a_gap()


async def asked_for(client: Client, name: str) -> None:
    """Ask for a dump of a container until the control plane has heard that it runs."""

    async def command() -> bool:
        question = CheckpointRequest(CheckpointKey("local", "default", name))
        return isinstance(await ask(client, subjects.CHECKPOINT, question, CommandAccepted | Refusal), CommandAccepted)

    await eventually_async(command, saying="the command is accepted")


async def valid(client: Client, count: int) -> list[str]:
    """Wait for so many snapshots, and name their ids in the order in which they were begun."""

    async def all_valid() -> list[dict[str, Any]]:
        rows = await query(client, "checkpoint_history")
        return rows if sum(row["status"] == "valid" for row in rows) == count else []

    rows: list[dict[str, Any]] = await eventually_async(all_valid, saying=f"{count} are stored", seconds=60)
    return [row["id"] for row in sorted(rows, key=lambda row: int(row["position"]))]


async def stop(container: Counting) -> None:
    """Send the stop signal; the call returns when the container is dumped and dead."""
    done = await asyncio.to_thread(container.call, "kill", container.id, "TERM")
    assert done.returncode == 0, done.stderr
    assert not container.alive()


async def waiting(port: int, count: int) -> None:
    """Wait until so many dumps wait for their turn."""
    await asyncio.to_thread(eventually, lambda: number(port, "dumps_waiting") == count, f"{count} wait")


async def test_stops_overtake_a_dump_that_was_asked_for_before_and_the_one_with_the_least_time_is_first(
    node: Node, client: Client, tmp_path: Path
) -> None:
    release, once = tmp_path / "release", tmp_path / "once"
    once.mkdir()
    port = free_port()
    node.start_worker(
        WOODFROG_DUMPS_AT_ONCE="1",
        WOODFROG_HTTP_ADDRESS=f"127.0.0.1:{port}",
        WOODFROG_FAULT="dump.frozen=pause",
        WOODFROG_FAULT_ONCE=str(once),
        WOODFROG_FAULT_RELEASE=str(release),
    )
    first, asked, patient, urgent = (
        counting(node, name, grace)
        for name, grace in (("first", None), ("asked", None), ("patient", 600), ("urgent", 1))
    )

    async with asyncio.TaskGroup() as group:
        group.create_task(stop(first))
        await asyncio.to_thread(eventually, lambda: stands(first.state().freezer), "the first stands")
        await asked_for(client, "asked")
        await waiting(port, 1)
        group.create_task(stop(patient))
        await waiting(port, 2)
        group.create_task(stop(urgent))
        await waiting(port, 3)
        assert number(port, "dumps_in_flight") == 1
        await asyncio.sleep(1.0)  # all that the urgent one has
        for container in (asked, patient, urgent):
            assert not stands(container.state().freezer)
            reached = container.count()
            await asyncio.to_thread(container.until, reached + 5)
        release.touch()

    assert await valid(client, 4) == ["first", "urgent", "patient", "asked"]
    (late,) = node.said("a final dump begins after its deadline")
    assert "the grace period was 1 s" in late["warning"]
    assert asked.alive()


async def test_a_successor_that_starts_while_the_stop_waits_goes_on_from_that_last_dump(
    node: Node, client: Client, tmp_path: Path
) -> None:
    release, port = tmp_path / "release", free_port()
    node.start_worker(
        WOODFROG_DUMPS_AT_ONCE="1",
        WOODFROG_HTTP_ADDRESS=f"127.0.0.1:{port}",
        WOODFROG_FAULT="dump.frozen=pause",
        WOODFROG_FAULT_RELEASE=str(release),
    )
    first, before = (counting(node, name) for name in ("first", "moved"))
    async with asyncio.TaskGroup() as group:
        group.create_task(stop(first))
        await asyncio.to_thread(eventually, lambda: stands(first.state().freezer), "the first stands")
        group.create_task(stop(before))
        await waiting(port, 1)
        starting = group.create_task(asyncio.to_thread(counting, node, "moved"))
        await waiting(port, 2)  # the control plane has asked for a dump of the container before
        reached = before.count()
        release.touch()
    after = starting.result()
    after.until(max(reached, before.count()) + 5)
    assert after.has_counted_without_a_gap()
    rows = await query(client, "restore_history", key=CheckpointKey("local", "default", "moved"))
    assert [row["choice"] for row in rows] == ["cold", "restored"]
    (taken,) = await query(client, "checkpoint_history", key=CheckpointKey("local", "default", "moved"))
    assert (taken["trigger"], taken["status"]) == ("stop-signal", "valid")


async def test_a_container_that_ends_while_its_dump_waits_leaves_the_queue_and_that_is_told(
    node: Node, client: Client, tmp_path: Path
) -> None:
    release = tmp_path / "release"
    node.start_worker(
        WOODFROG_DUMPS_AT_ONCE="1", WOODFROG_FAULT="dump.frozen=pause", WOODFROG_FAULT_RELEASE=str(release)
    )
    first, killed = counting(node, "first"), counting(node, "killed")

    def end_one() -> None:
        with stopping([first]):
            eventually(lambda: stands(first.state().freezer), "the first stands")
            with ThreadPoolExecutor(1) as pool:
                stop = pool.submit(killed.call, "kill", killed.id, "TERM")
                time.sleep(0.5)
                assert not stop.done()
                killed.call("kill", killed.id, "KILL")
                eventually(lambda: not killed.alive(), "it is dead")
                assert killed.call("delete", killed.id).returncode == 0
                stop.result()
            release.touch()

    await asyncio.to_thread(end_one)

    async def failed() -> list[dict[str, Any]]:
        rows = await query(client, "checkpoint_history", key=CheckpointKey("local", "default", "killed"))
        return [row for row in rows if row["status"] == "failed"]

    (row,) = await eventually_async(failed, saying="the loss is told")
    assert (row["failure_code"], row["failure_stage"]) == ("ended-waiting", "preflight")


async def test_a_worker_that_is_killed_with_a_full_queue_leaves_nothing_frozen(node: Node) -> None:
    node.start_worker(WOODFROG_DUMPS_AT_ONCE="2", WOODFROG_FAULT="dump.frozen=kill")
    containers = [counting(node, f"burst-{number}") for number in range(6)]

    def stop_all() -> None:
        with stopping(containers):
            node.wait_for_death()

    await asyncio.to_thread(stop_all)
    node.start_worker(WOODFROG_DUMPS_AT_ONCE="2")
    reached = [container.count() for container in containers]
    for container, count in zip(containers, reached, strict=True):
        assert not stands(container.state().freezer)
        container.until(count + 5)

    def stop_again() -> list[int]:
        with watched(containers) as seen, stopping(containers):
            pass
        return seen

    seen = await asyncio.to_thread(stop_again)
    assert max(seen) <= 2
    assert not any(container.alive() for container in containers)


async def test_a_worker_that_is_ended_answers_every_stop_and_leaves_what_else_waits_to_its_next_life(
    node: Node, client: Client, tmp_path: Path
) -> None:
    release, port = tmp_path / "release", free_port()
    settings = {"WOODFROG_DUMPS_AT_ONCE": "1", "WOODFROG_HTTP_ADDRESS": f"127.0.0.1:{port}"}
    node.start_worker(WOODFROG_FAULT="dump.frozen=pause", WOODFROG_FAULT_RELEASE=str(release), **settings)
    first, second, asked = (counting(node, name) for name in ("first", "second", "asked"))
    async with asyncio.TaskGroup() as group:
        group.create_task(stop(first))
        await asyncio.to_thread(eventually, lambda: stands(first.state().freezer), "the first stands")
        await asked_for(client, "asked")
        await waiting(port, 1)
        group.create_task(stop(second))
        await waiting(port, 2)
        ending = group.create_task(asyncio.to_thread(node.stop_worker))
        await asyncio.sleep(0.3)
        assert not ending.done()
        release.touch()
    assert ending.result() == 0
    assert asked.alive()
    assert not stands(asked.state().freezer)
    journal = Journal(node.state / "journal.sqlite3", node=NodeName("node-1"), worker_id=WorkerId("test"))
    (left,) = journal.open_commands()  # not acknowledged either, so the broker sends it again
    journal.close()
    assert left.command.key.id == "asked"
    await asyncio.to_thread(node.start_worker, **settings)
    assert await valid(client, 2) == ["first", "second"]
