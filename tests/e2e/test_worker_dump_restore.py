"""The worker with everything real: dumps, restores, and what is left when it is killed in the middle."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client
from support.harm import invert
from support.lone_runtime import eventually
from support.node import NUMBERS, Counting, Node
from support.worker import ask, query
from support.worker import eventually as eventually_async

from woodfrog.protocol import subjects
from woodfrog.protocol.ids import CheckpointKey
from woodfrog.protocol.requests import CheckpointRequest, CommandAccepted, Refusal

pytestmark = [pytest.mark.criu, pytest.mark.nats, pytest.mark.root, pytest.mark.timeout(120)]

KEY = CheckpointKey("local", "default", "trainer")


async def snapshots(client: Client, status: str, count: int = 1) -> list[dict[str, Any]]:
    """Wait for ``count`` snapshots of this status."""

    async def found() -> list[dict[str, Any]]:
        rows = await query(client, "checkpoint_history", key=KEY)
        rows = [row for row in rows if row["status"] == status]
        return rows if len(rows) >= count else []

    rows: list[dict[str, Any]] = await eventually_async(found, saying=f"{count} snapshots are {status}", seconds=40)
    return rows


async def accepted(client: Client) -> str:
    """Ask for a checkpoint until the control plane has heard that the container runs."""

    async def command() -> str | None:
        answer = await ask(client, subjects.CHECKPOINT, CheckpointRequest(KEY), CommandAccepted | Refusal)
        return answer.command_id if isinstance(answer, CommandAccepted) else None

    command_id: str = await eventually_async(command, saying="the command is accepted")
    return command_id


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Let ``folder`` lie on a disk of one megabyte."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def stop(container: Counting) -> None:
    done = container.call("kill", container.id, "TERM")
    assert done.returncode == 0, done.stderr
    eventually(lambda: not container.alive(), "the container is dead")


def delete(container: Counting) -> None:
    done = container.call("delete", container.id)
    assert done.returncode == 0, done.stderr


async def test_a_stopped_container_goes_on_in_the_next_one_with_no_number_missing_or_repeated(
    node: Node, client: Client
) -> None:
    node.start_worker()
    first = Counting(node)
    first.run()
    first.until(20)
    await asyncio.to_thread(stop, first)
    reached = first.count()
    assert reached >= 20
    assert first.has_counted_without_a_gap()
    delete(first)

    second = Counting(node)
    await asyncio.to_thread(second.run)
    second.until(reached + 20)
    assert second.has_counted_without_a_gap()
    (taken,) = await snapshots(client, "valid")
    assert taken["trigger"] == "stop-signal"
    assert taken["freeze_seconds"] > 0

    async def started() -> list[dict[str, Any]]:
        rows = await query(client, "restore_history", key=KEY)
        return rows if len(rows) == 2 and rows[1]["started_at"] else []

    rows = await eventually_async(started, saying="both starts are told")
    assert [row["choice"] for row in rows] == ["cold", "restored"]
    assert rows[1]["snapshot_id"] == taken["snapshot_id"]
    eventually(lambda: not (node.state / "fetched" / second.id).exists(), "what was fetched is removed again")
    assert list((node.state / "spool").iterdir()) == []


async def test_a_checkpoint_by_command_leaves_the_container_running_and_becomes_valid(
    node: Node, client: Client
) -> None:
    node.start_worker()
    container = Counting(node)
    container.run()
    node.until_it_runs()

    command_id = await accepted(client)
    (taken,) = await snapshots(client, "valid")
    assert taken["trigger"] == "command"
    before = container.count()
    container.until(before + 5)
    assert container.has_counted_without_a_gap()

    async def finished() -> list[dict[str, Any]]:
        rows = await query(client, "commands", command_id=command_id)
        return [row for row in rows if row["status"] != "open"]

    (command,) = await eventually_async(finished, saying="the command has its end")
    assert command["status"] == "succeeded"


@pytest.mark.parametrize("point", ["dump.after-journal", "dump.frozen", "dump.after-criu"])
async def test_a_worker_killed_while_the_container_is_frozen_thaws_it_and_tells_that_the_dump_failed(
    node: Node, client: Client, point: str
) -> None:
    node.start_worker(WOODFROG_FAULT=f"{point}=kill")
    container = Counting(node)
    container.run()
    node.until_it_runs()
    await accepted(client)
    await asyncio.to_thread(node.wait_for_death)

    node.start_worker()
    before = container.count()
    container.until(before + 5)
    assert container.has_counted_without_a_gap()
    (failed,) = await snapshots(client, "failed")
    assert failed["failure_code"] == "worker-restarted"
    assert list((node.state / "spool").iterdir()) == []


@pytest.mark.parametrize("point", ["dump.complete", "dump.captured", "dump.stored"])
async def test_a_checkpoint_that_was_whole_when_the_worker_was_killed_becomes_valid_and_its_command_succeeds(
    node: Node, client: Client, point: str
) -> None:
    node.start_worker(WOODFROG_FAULT=f"{point}=kill")
    container = Counting(node)
    container.run()
    command_id = await accepted(client)
    await asyncio.to_thread(node.wait_for_death)
    node.start_worker()
    before = container.count()
    container.until(before + 5)
    await snapshots(client, "valid")

    async def finished() -> list[dict[str, Any]]:
        rows = await query(client, "commands", command_id=command_id)
        return [row for row in rows if row["status"] != "open"]

    (command,) = await eventually_async(finished, saying="the command has its end")
    assert command["status"] == "succeeded"
    assert len(await query(client, "checkpoint_history", key=KEY)) == 1, "it was not dumped again"


async def test_a_worker_told_to_stop_in_the_middle_of_a_dump_leaves_nothing_frozen(node: Node, client: Client) -> None:
    release = node.folder / "release"
    node.start_worker(WOODFROG_FAULT="dump.frozen=pause", WOODFROG_FAULT_RELEASE=str(release))
    container = Counting(node)
    container.run()
    await accepted(client)
    eventually(lambda: container.state().status == "paused", "the container is frozen")
    stopping = asyncio.create_task(asyncio.to_thread(node.stop_worker))
    await asyncio.to_thread(eventually, lambda: not node.runtime.socket.exists(), "the worker takes leave")
    release.touch()
    assert await stopping == 0
    before = container.count()
    container.until(before + 5)
    assert container.has_counted_without_a_gap()
    node.start_worker()
    await snapshots(client, "valid")


@pytest.mark.parametrize("point", ["dump.captured", "dump.stored"])
async def test_a_final_dump_that_was_whole_when_the_worker_was_killed_becomes_valid(
    node: Node, client: Client, point: str
) -> None:
    node.start_worker(WOODFROG_FAULT=f"{point}=kill")
    first = Counting(node)
    first.run()
    first.until(10)
    stopping = asyncio.create_task(asyncio.to_thread(first.call, "kill", first.id, "TERM"))
    await asyncio.to_thread(node.wait_for_death)
    await stopping
    eventually(lambda: not first.alive(), "the container is dead")
    reached = first.count()
    node.start_worker()
    await snapshots(client, "valid")
    delete(first)

    second = Counting(node)
    await asyncio.to_thread(second.run)
    second.until(reached + 5)
    assert second.has_counted_without_a_gap()


async def test_a_damaged_snapshot_is_told_and_the_container_starts_from_the_one_before(
    node: Node, client: Client
) -> None:
    node.start_worker()
    first = Counting(node)
    first.run()
    first.until(10)
    await accepted(client)
    (older,) = await snapshots(client, "valid")
    first.until(first.count() + 20)
    await asyncio.to_thread(stop, first)
    newer = next(row for row in await snapshots(client, "valid", 2) if row["snapshot_id"] != older["snapshot_id"])
    delete(first)
    packs = [path for path in (node.state / "store").rglob("*") if newer["snapshot_id"] in str(path) and path.is_file()]
    largest = max(packs, key=lambda path: path.stat().st_size)
    invert(largest)
    copy = node.state / "copies" / str(KEY) / newer["snapshot_id"]
    eventually(copy.is_dir, "there is a copy")
    shutil.rmtree(copy)

    second = Counting(node)
    await asyncio.to_thread(second.run)
    second.until(second.count() + 5)
    assert second.has_counted_without_a_gap()
    rows = await query(client, "restore_history", key=KEY)
    assert rows[1]["snapshot_id"] == older["snapshot_id"]
    (condemned,) = await snapshots(client, "invalidated")
    assert condemned["snapshot_id"] == newer["snapshot_id"]


async def test_a_snapshot_that_criu_cannot_restore_leaves_no_trace_in_the_cold_start(
    node: Node, client: Client
) -> None:
    node.start_worker()
    first = Counting(node)
    first.run()
    first.until(10)
    first.rootfs.chmod(0o1711)
    await asyncio.to_thread(stop, first)
    await snapshots(client, "valid")
    delete(first)

    second = Counting(node)
    mode = second.rootfs.stat().st_mode
    marker = second.rootfs / "bin" / "sh"
    question = {"ask": "create", "container_id": second.id, "bundle": str(second.bundle)}
    restore = await asyncio.to_thread(
        lambda: node.ask(**question, runc_root=str(node.runtime.root), checkpoint_id="trainer")
    )
    assert restore["answer"] == "restore"
    assert second.count() >= 10, "the writable layer lies in the container"
    assert second.rootfs.stat().st_mode & 0o7777 == 0o1711
    cold = await asyncio.to_thread(
        lambda: node.ask(ask="restore-failed", container_id=second.id, message="criu failed: type NOTIFY errno 0")
    )
    assert cold["answer"] == "cold"
    assert second.numbers() == []
    assert marker.exists(), "the root filesystem is mounted again"
    assert second.rootfs.stat().st_mode == mode
    failed = await query(client, "failures", key=KEY)
    assert any(row["snapshot_id"] == restore["snapshot_id"] for row in failed)


async def test_dumps_at_the_stop_signal_go_on_without_nats_and_are_told_later(node: Node, client: Client) -> None:
    node.start_worker()
    first = Counting(node)
    first.run()
    first.until(10)
    node.nats.kill()
    await asyncio.to_thread(stop, first)
    delete(first)
    reached = first.count()
    node.nats.start()
    await snapshots(client, "valid")

    second = Counting(node)
    await asyncio.to_thread(second.run)
    second.until(reached + 5)
    assert second.has_counted_without_a_gap()


async def test_an_open_file_whose_name_was_deleted_while_another_remains_is_open_after_a_restore(
    node: Node, client: Client
) -> None:
    node.start_worker()
    keep_open = "echo kept >/one; ln /one /two; exec 7</one; rm /one; "
    first = Counting(node, command=keep_open + NUMBERS)
    first.run()
    first.until(5)
    await asyncio.to_thread(stop, first)
    await snapshots(client, "valid")
    delete(first)

    second = Counting(node)
    await asyncio.to_thread(second.run)
    second.until(first.count() + 5)
    opened = f"/proc/{second.state().pid}/fd/7"
    assert os.path.samestat(os.stat(opened), os.stat(second.rootfs / "two"))  # noqa: PTH116 -- a test may block
    assert list(second.rootfs.glob("link_remap*")) == []


async def test_a_dump_that_the_disk_cannot_hold_leaves_the_container_as_it_was_and_says_so(
    node: Node, client: Client
) -> None:
    node.start_worker()
    container = Counting(node)
    container.run()
    spool = node.state / "spool"
    with small_disk(spool):
        await accepted(client)
        (failed,) = await snapshots(client, "failed")
    assert failed["failure_code"] == "disk-full"
    container.until(container.count() + 5)
    assert container.has_counted_without_a_gap()

    await accepted(client)
    await snapshots(client, "valid")


def test_an_id_that_may_not_be_one_is_refused_with_the_rule(node: Node) -> None:
    node.start_worker()
    container = Counting(node, checkpoint_id="../other")
    assert container.create() != 0
    assert "checkpoint id '../other' contains '/'" in container.said() + node.runtime.log.read_text()


def test_a_second_worker_on_the_same_state_is_refused_and_the_first_one_ends_cleanly(node: Node) -> None:
    node.start_worker()
    second = node.second_worker()
    assert second.returncode == 1
    assert "worker-running" in second.stderr
    assert node.stop_worker() == 0
    assert not node.runtime.socket.exists()


async def test_an_end_that_nobody_could_tell_is_noticed_when_the_worker_returns(node: Node, client: Client) -> None:
    node.start_worker()
    container = Counting(node)
    container.run()
    node.until_it_runs()
    assert node.stop_worker() == 0
    node.runtime.runc.delete(node.runtime.root, container.id, force=True)
    node.start_worker()
    assert node.ask(ask="containers")["containers"] == []

    async def ended() -> list[dict[str, Any]]:
        return [row for row in await query(client, "restore_history", key=KEY) if row["ended_at"]]

    await eventually_async(ended, saying="the end is told")


async def test_an_end_that_the_worker_never_knew_of_is_noticed_when_a_dump_is_asked_for(
    node: Node, client: Client
) -> None:
    node.start_worker()
    container = Counting(node)
    container.run()
    node.until_it_runs()
    assert node.stop_worker() == 0
    node.runtime.runc.delete(node.runtime.root, container.id, force=True)
    for file in node.state.glob("journal*"):
        file.unlink()
    node.start_worker()
    await accepted(client)

    async def ended() -> list[dict[str, Any]]:
        return [row for row in await query(client, "restore_history", key=KEY) if row["ended_at"]]

    await eventually_async(ended, saying="the end is told")
    answer = await ask(client, subjects.CHECKPOINT, CheckpointRequest(key=KEY), Refusal)
    assert answer.failure.code == "not-running", answer
