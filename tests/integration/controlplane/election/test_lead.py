"""Two control planes on one log, as processes: one leads, the other answers queries and takes over."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from nats.aio.client import Client
from support.servers import ControlPlaneProcess
from support.worker import (
    KEY,
    Worker,
    ask,
    audit_follows_the_log,
    checkpoint,
    eventually,
    query,
    snapshot_name,
    stored_messages,
)

from woodfrog.protocol import subjects, wire
from woodfrog.protocol.commands import DumpCommand
from woodfrog.protocol.node_status import DiskSpace, NodeStatus
from woodfrog.protocol.requests import QueryRequest, Refusal, Rows

pytestmark = [pytest.mark.nats, pytest.mark.timeout(120)]

TAKEOVER_SECONDS = 15.0
"""The longest that nobody may lead: the figure that is promised."""

Make = Callable[..., ControlPlaneProcess]


@pytest.fixture
def pair(make_control_plane: Make, database_url: str) -> tuple[ControlPlaneProcess, ControlPlaneProcess]:
    """A leader, and a standby on the same database."""
    leader, standby = (
        make_control_plane(WOODFROG_DATABASE_URL=database_url, WOODFROG_INSTANCE=name) for name in ("one", "two")
    )
    leader.start()
    standby.spawn()
    standby.wait_for("standing by")
    return leader, standby


@pytest.fixture
async def worker(client: Client, pair: object) -> Worker:
    """A worker with a running container, whose story is told so far."""
    worker = Worker(client)
    await worker.register()
    await worker.run_container("c1")
    await audit_follows_the_log(client, 4)
    return worker


async def led(process: ControlPlaneProcess) -> float:
    """Wait until a process leads and serves; answer how long that took, in seconds."""
    began = time.monotonic()
    await asyncio.to_thread(process.wait_for, "control plane ready", seconds=TAKEOVER_SECONDS)
    return time.monotonic() - began


async def commands_sent(client: Client) -> list[str]:
    found: list[str] = []
    for message in await stored_messages(client, subjects.COMMANDS_STREAM):
        assert message.data is not None
        command: DumpCommand = wire.decode(message.data, DumpCommand)
        found.append(command.command_id)
    return found


async def test_one_leads_and_the_other_stands_by_knowing_the_leader(
    pair: tuple[ControlPlaneProcess, ControlPlaneProcess],
) -> None:
    leader, standby = pair
    assert leader.lines("leading")
    assert not standby.lines("leading")
    assert standby.lines("standing by")[0]["leader"].startswith("one/")


async def test_a_standby_answers_queries_while_its_leader_is_held_up(
    client: Client, worker: Worker, pair: tuple[ControlPlaneProcess, ControlPlaneProcess]
) -> None:
    leader, standby = pair
    leader.signal(signal.SIGSTOP)
    try:
        # Of two in the queue group, about every second question goes to the one that does not answer.
        async def answered() -> Rows | None:
            question = QueryRequest(view="nodes", statuses=True)
            reply = await client.request(subjects.QUERY, wire.encode(question), timeout=0.5)
            answer: Rows | Refusal = wire.decode(reply.data, Rows | Refusal)
            return answer if isinstance(answer, Rows) else None

        await worker.heartbeat(NodeStatus(disk=DiskSpace(total_bytes=10, free_bytes=4)))
        answer = await eventually(answered, saying="the standby answers")
        assert [row["node"] for row in answer.rows] == [worker.node]
        assert answer.rows[0]["now"]["status"] == {"disk": {"total_bytes": 10, "free_bytes": 4}}
        assert not standby.lines("leading")
    finally:
        leader.signal(signal.SIGCONT)


async def test_a_standby_leads_at_once_when_its_leader_ends_in_order(
    client: Client, worker: Worker, pair: tuple[ControlPlaneProcess, ControlPlaneProcess]
) -> None:
    leader, standby = pair
    assert await asyncio.to_thread(leader.stop) == 0
    assert await led(standby) < 5  # nothing had to run out: the lease's duration is twice that
    await worker.say(*worker.snapshot(snapshot_name(1)))
    await worker.taken_in()
    await audit_follows_the_log(client, 7)


async def test_a_standby_on_the_same_machine_leads_at_once_when_its_leader_is_killed(
    client: Client, worker: Worker, pair: tuple[ControlPlaneProcess, ControlPlaneProcess]
) -> None:
    leader, standby = pair
    leader.signal(signal.SIGKILL)
    await asyncio.to_thread(leader.wait)
    assert await led(standby) < 5
    await worker.say(*worker.snapshot(snapshot_name(1)))
    await worker.taken_in()
    await audit_follows_the_log(client, 7)


@pytest.mark.root
async def test_a_standby_on_another_machine_leads_within_the_promised_time_when_its_leader_is_killed(
    client: Client, make_control_plane: Make, database_url: str
) -> None:
    # In a pid namespace of its own, the leader's death cannot be proved, as on another machine.
    leader = make_control_plane(
        WOODFROG_DATABASE_URL=database_url, prefix=("unshare", "--pid", "--fork", "--kill-child")
    )
    standby = make_control_plane(WOODFROG_DATABASE_URL=database_url)
    leader.start()
    standby.spawn()
    standby.wait_for("standing by")
    worker = Worker(client)
    await worker.register()
    leader.signal(signal.SIGKILL)
    await asyncio.to_thread(leader.wait)
    took_seconds = await led(standby)
    assert 5 < took_seconds < TAKEOVER_SECONDS
    await worker.run_container("c1")
    await audit_follows_the_log(client, 4)


async def test_a_leader_stopped_past_its_lease_and_resumed_writes_nothing_sends_nothing_and_ends(
    client: Client, worker: Worker, pair: tuple[ControlPlaneProcess, ControlPlaneProcess]
) -> None:
    leader, standby = pair
    leader.signal(signal.SIGSTOP)
    # It wakes up with work before it: a report and a question that were delivered to it while it slept.
    await worker.say(*worker.snapshot(snapshot_name(1)))
    await client.publish(subjects.CHECKPOINT, wire.encode({"key": wire.decode(wire.encode(KEY), dict)}))
    await client.flush()
    await led(standby)
    await worker.taken_in()
    command_id = await eventually(lambda: checkpoint(client), saying="the new leader decides")
    rows = await audit_follows_the_log(client, 8)
    sent = await commands_sent(client)
    leader.signal(signal.SIGCONT)
    assert await asyncio.to_thread(leader.wait) == 1
    assert sent == [command_id] == await commands_sent(client)
    assert await audit_follows_the_log(client, 8) == rows
    assert "lead-lost" in leader.text() or "StaleEpochError" in leader.text()


# In the middle of a transaction on SQLite a leader keeps the file locked, and nobody leads until it goes on (docs/reference/nats.md).
@pytest.mark.parametrize(
    ("database_url", "point", "decided"),
    [
        ("sqlite", "relay.before-command", 1),
        ("sqlite", "relay.before-audit", 1),
        ("postgresql", "relay.before-command", 1),
        ("postgresql", "relay.before-audit", 1),
        ("postgresql", "log.append.before-commit", 0),
    ],
    indirect=["database_url"],
)
async def test_a_leader_stopped_on_the_brink_of_sending_is_refused_when_it_goes_on(
    client: Client, make_control_plane: Make, database_url: str, tmp_path: Path, point: str, decided: int
) -> None:
    release = tmp_path / "release"
    leader = make_control_plane(WOODFROG_DATABASE_URL=database_url)
    leader.start()
    worker = Worker(client)
    await worker.register()
    await worker.run_container("c1")
    await audit_follows_the_log(client, 4)
    assert leader.stop() == 0
    leader = make_control_plane(
        WOODFROG_DATABASE_URL=database_url,
        WOODFROG_FAULT=f"{point}=pause",
        WOODFROG_FAULT_RELEASE=str(release),
    )
    leader.start()
    standby = make_control_plane(WOODFROG_DATABASE_URL=database_url)
    standby.spawn()
    standby.wait_for("standing by")
    await client.publish(subjects.CHECKPOINT, wire.encode({"key": wire.decode(wire.encode(KEY), dict)}))
    await client.flush()
    await led(standby)
    rows = await audit_follows_the_log(client, 4 + decided)
    sent = await commands_sent(client)
    assert len(sent) == decided
    release.touch()
    assert await asyncio.to_thread(leader.wait) == 1
    assert await commands_sent(client) == sent
    assert await audit_follows_the_log(client, 4 + decided) == rows
    await ask(client, subjects.QUERY, QueryRequest(view="commands"), Rows)
    assert [row["command_id"] for row in await query(client, "commands")] == sent
