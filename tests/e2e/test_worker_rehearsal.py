"""Restores that are rehearsed before a snapshot counts as valid, with real runc and CRIU."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client
from support.lone_runtime import eventually
from support.node import Counting, Node
from support.worker import checkpoint, query
from support.worker import eventually as until

from woodfrog.protocol.ids import CheckpointKey

pytestmark = [pytest.mark.criu, pytest.mark.nats, pytest.mark.timeout(180)]

KEY = CheckpointKey("local", "default", "trainer")
FAST = "i=0; while :; do i=$((i+1)); echo $i >>/numbers; echo $i >/v/last; done"
HELD = "exec 3>/v/held; i=0; while :; do i=$((i+1)); echo $i >>/numbers; echo $i >&3; done"
REMAPPED = f"""exec {sys.executable} -c '
import os, socket, time
held = os.open("/v/a", os.O_CREAT | os.O_RDWR)
os.link("/v/a", "/v/b")
os.unlink("/v/a")
one, other = socket.socketpair()
socket.send_fds(one, [b"x"], [held])
os.close(held)
for number in range(1, 1000000):
    with open("/numbers", "a") as file:
        print(number, file=file)
    time.sleep(0.02)
'"""
"""The file is on its way to another process, so nobody has it open for a look before the dump."""


def with_volume(source: Path) -> Any:
    """A directory of the host at ``/v``, which the container may write to and which does not travel."""
    source.mkdir(exist_ok=True)
    mount = {"destination": "/v", "type": "bind", "source": str(source), "options": ["rbind", "rw"]}
    return lambda spec: spec["mounts"].append(mount)


def started(node: Node, command: str, volume: Path) -> Counting:
    """A protected container that counts."""
    container = Counting(node, command, spec=with_volume(volume))
    assert container.create() == 0, container.said()
    assert container.call("start", container.id).returncode == 0
    container.until(3)
    node.until_it_runs()
    return container


async def outcome(client: Client, count: int = 1) -> dict[str, Any]:
    """Wait until the last of ``count`` dumps is stored or has failed; return its row."""

    async def row() -> dict[str, Any] | None:
        rows = await query(client, "checkpoint_history")
        ended = len(rows) >= count and rows[-1]["status"] in {"valid", "failed"}
        return rows[-1] if ended else None

    found: dict[str, Any] = await until(row, saying="the dump came to an end")
    return found


def cgroups(node: Node) -> list[Path]:
    """The cgroups of the node's rehearsals."""
    name = node.said("rehearsals are bounded by a cgroup")[-1]["cgroup"]
    return [path for pattern in (name, f"*/{name}") for path in Path("/sys/fs/cgroup").glob(pattern)]


def rehearsed(node: Node) -> list[int]:
    """The processes of a container that was restored in a rehearsal; none while CRIU is at work."""
    pids = {
        int(pid)
        for folder in cgroups(node)
        if (folder / "container").is_dir()
        for pid in (folder / "container/cgroup.procs").read_text().split()
    }
    with suppress(OSError):
        return sorted(pids) if stopped(pids) else []
    return []


def stopped(pids: Iterable[int]) -> bool:
    """Whether these processes are stopped, and held by no tracer."""
    return all(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "T" for pid in pids)


def mounts() -> list[str]:
    """Mounts of rehearsals that are seen outside of them."""
    return [line for line in Path("/proc/mounts").read_text().splitlines() if "woodfrog-rehearsal" in line]


def size_in(pid: int, name: str) -> int:
    """The size of a file as a process sees it."""
    return Path(f"/proc/{pid}/root/{name}").stat().st_size


def captured_size(node: Node) -> int:
    """The size of the largest file in the captured writable layer."""
    layer = next((node.state / "spool").glob("*/layer"))
    return max(path.stat().st_size for path in layer.iterdir())


def interfaces(pid: int) -> set[str]:
    """The network interfaces that a process sees, but for the tunnels that the kernel makes in every namespace."""
    lines = Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
    return {line.split(":")[0].strip() for line in lines} & {"lo", "eth0", "ens4"}


@pytest.mark.parametrize("command", [FAST, HELD], ids=["opened-again", "held-open"])
async def test_the_first_snapshot_of_a_kind_is_rehearsed_and_leaves_nothing(
    node: Node, client: Client, tmp_path: Path, command: str
) -> None:
    node.start_worker(WOODFROG_REHEARSE="first")
    container = started(node, command, tmp_path / "v")
    await checkpoint(client, KEY)
    row = await outcome(client)
    assert (row["status"], row["rehearsal"], row["rehearsal_reason"]) == ("valid", "restorable", None)
    assert cgroups(node) == mounts() == []
    await checkpoint(client, KEY)
    row = await outcome(client, 2)
    assert (row["status"], row["rehearsal"]) == ("valid", None)
    container.until(container.count() + 10)
    assert container.has_counted_without_a_gap()


async def test_a_snapshot_that_only_a_restore_shows_to_be_broken_never_counts_as_valid(
    node: Node, client: Client, tmp_path: Path
) -> None:
    node.start_worker(WOODFROG_REHEARSE="first")
    container = started(node, REMAPPED, tmp_path / "v")
    await checkpoint(client, KEY)
    row = await outcome(client)
    assert (row["status"], row["rehearsal"], row["failure_stage"]) == ("failed", "failed", "rehearsal")
    assert row["failure_code"] == "unrestorable"
    assert "link-remap" in row["failure_cause"]
    events = [each["type"] for each in await query(client, "events")]
    assert "snapshot.captured" in events
    assert "snapshot.stored" not in events
    container.until(container.count() + 10)
    assert container.has_counted_without_a_gap()
    assert list((node.state / "logs").glob("*.rehearsal.log"))


async def test_no_program_runs_in_a_rehearsal_and_a_worker_that_dies_in_one_leaves_nothing(
    node: Node, client: Client, tmp_path: Path
) -> None:
    volume = tmp_path / "v"
    release = tmp_path / "release"
    node.start_worker(
        WOODFROG_REHEARSE="always",
        WOODFROG_FAULT="rehearsal.restored=pause",
        WOODFROG_FAULT_RELEASE=str(release),
    )
    container = started(node, FAST, volume)
    before = set(volume.iterdir())
    await checkpoint(client, KEY)
    pids = eventually(lambda: rehearsed(node), "a container is rehearsed", 60)
    size = captured_size(node)
    for _ in range(3):
        assert stopped(pids)
        assert size_in(pids[0], "numbers") == size, "it has not counted on"
        container.until(container.count() + 50)
    assert set(volume.iterdir()) == before
    assert len(node.ask(ask="containers")["containers"]) == 1
    assert interfaces(pids[0]) == {"lo"}
    node.kill_worker()
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "the rehearsed processes are gone")
    assert mounts() == []
    node.start_worker(WOODFROG_REHEARSE="always")
    assert cgroups(node) == mounts() == []
    row = await outcome(client)
    assert (row["status"], row["rehearsal"]) == ("valid", None), "what ended a worker is not tried again"
    container.until(container.count() + 10)
    assert container.has_counted_without_a_gap()


async def test_a_stop_ends_a_rehearsal_and_too_little_memory_prevents_one(
    node: Node, client: Client, tmp_path: Path
) -> None:
    node.start_worker(
        WOODFROG_REHEARSE="always",
        WOODFROG_FAULT="rehearsal.restored=pause",
        WOODFROG_FAULT_RELEASE=str(tmp_path / "never"),
    )
    container = started(node, FAST, tmp_path / "v")
    await checkpoint(client, KEY)
    eventually(lambda: rehearsed(node), "a container is rehearsed", 60)
    assert container.call("kill", container.id, "TERM").returncode == 0
    row = await outcome(client, 2)
    assert (row["status"], row["final"], row["rehearsal"]) == ("valid", True, None), "the final one is not rehearsed"
    first = (await query(client, "checkpoint_history"))[0]
    assert (first["rehearsal"], first["rehearsal_reason"]) == ("not-rehearsed", "a container was being stopped")
    container.call("delete", container.id)
    node.stop_worker()
    node.start_worker(WOODFROG_REHEARSE="always", WOODFROG_REHEARSE_MEMORY="1MiB")
    started(node, FAST, tmp_path / "v")
    await checkpoint(client, KEY)
    row = await outcome(client, 3)
    assert (row["status"], row["rehearsal"]) == ("valid", "not-rehearsed")
    assert "the node allows 1 MiB for rehearsals" in row["rehearsal_reason"]
