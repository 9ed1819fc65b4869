"""The control plane killed at every commit point, the broker killed and wiped: nothing is lost and nothing happens twice."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
from collections.abc import Callable

import msgspec
import pytest
from nats.aio.client import Client
from support.servers import ControlPlaneProcess, NatsServer
from support.worker import (
    KEY,
    Worker,
    audit_follows_the_log,
    checkpoint,
    eventually,
    query,
    snapshot_name,
    stored_messages,
)

from woodfrog.protocol import subjects, wire
from woodfrog.protocol.commands import DumpCommand
from woodfrog.protocol.requests import CheckpointRequest, RestoreFrom

pytestmark = [pytest.mark.nats, pytest.mark.timeout(90)]


@pytest.fixture
async def worker(client: Client, control_plane: ControlPlaneProcess) -> Worker:
    """A worker with a running container, whose story is told so far."""
    worker = Worker(client)
    await worker.register()
    await worker.run_container("c1")
    await audit_follows_the_log(client, 4)
    return worker


async def commands_sent(client: Client) -> list[str]:
    """The ids of all commands that COMMANDS ever held, if no worker has taken any."""
    found: list[str] = []
    for message in await stored_messages(client, subjects.COMMANDS_STREAM):
        assert message.data is not None
        command: DumpCommand = wire.decode(message.data, DumpCommand)
        found.append(command.command_id)
    return found


async def commands_decided(client: Client) -> list[str]:
    rows = await query(client, "events", limit=10_000)
    return [row["data"]["command"]["command_id"] for row in rows if row["type"] == "command.issued"]


async def reports_recorded(client: Client) -> list[tuple[str, str]]:
    rows = await query(client, "events", key=KEY, limit=10_000)
    return [(row["type"], row["data"]["snapshot_id"]) for row in rows if "snapshot_id" in row["data"]]


@pytest.mark.parametrize("fault", ["app.after-append", "relay.after-command", "relay.after-audit"])
async def test_a_command_decided_before_a_kill_is_sent_once_and_audited_once(
    client: Client, worker: Worker, control_plane: ControlPlaneProcess, fault: str
) -> None:
    assert control_plane.stop() == 0
    control_plane.start(fault=f"{fault}=kill")
    await client.publish(subjects.CHECKPOINT, wire.encode(CheckpointRequest(key=KEY)))
    await client.flush()
    assert control_plane.wait() == -signal.SIGKILL
    control_plane.start()
    rows = await audit_follows_the_log(client, 5)
    assert [row["type"] for row in rows].count("command.issued") == 1
    assert await commands_sent(client) == await commands_decided(client)


async def test_a_command_that_its_worker_took_before_the_control_plane_came_back_is_not_sent_again(
    client: Client, worker: Worker, control_plane: ControlPlaneProcess
) -> None:
    jetstream = client.jetstream()
    configuration = (await jetstream.stream_info(subjects.COMMANDS_STREAM)).config
    configuration.duplicate_window = 0.1  # the broker forgets message ids long before the control plane is back
    await jetstream.update_stream(configuration)
    assert control_plane.stop() == 0
    control_plane.start(fault="relay.after-command=kill")
    await client.publish(subjects.CHECKPOINT, wire.encode(CheckpointRequest(key=KEY)))
    await client.flush()
    assert control_plane.wait() == -signal.SIGKILL
    subscription = await jetstream.pull_subscribe(
        subjects.commands(worker.node), durable=subjects.commands_consumer(worker.node), stream=subjects.COMMANDS_STREAM
    )
    (message,) = await subscription.fetch(1, timeout=10)
    await message.ack_sync()
    await asyncio.sleep(0.3)
    control_plane.start()
    await audit_follows_the_log(client, 5)
    state = (await jetstream.stream_info(subjects.COMMANDS_STREAM)).state
    assert (state.last_seq, state.messages) == (1, 0)


@pytest.mark.parametrize("fault", ["ingest.before-ack", "app.after-append", "relay.after-audit"])
async def test_a_report_taken_in_before_a_kill_is_recorded_once_and_in_order(
    client: Client, worker: Worker, control_plane: ControlPlaneProcess, fault: str
) -> None:
    assert control_plane.stop() == 0
    control_plane.start(fault=f"{fault}=kill")
    await worker.say(*worker.snapshot(snapshot_name(1)))
    assert control_plane.wait() == -signal.SIGKILL
    await worker.say(*worker.snapshot(snapshot_name(2)))
    control_plane.start()
    await worker.taken_in()
    assert await reports_recorded(client) == [
        (kind, snapshot_name(number))
        for number in (1, 2)
        for kind in ("snapshot.dump-started", "snapshot.captured", "snapshot.stored")
    ]
    await audit_follows_the_log(client, 10)


async def test_a_control_plane_killed_again_and_again_loses_and_repeats_nothing(
    client: Client, worker: Worker, control_plane: ControlPlaneProcess
) -> None:
    async def tell() -> None:
        for number in range(1, 61):
            await worker.say(*worker.snapshot(snapshot_name(number)))
            await asyncio.sleep(0.05)

    telling = asyncio.create_task(tell())
    for _ in range(4):
        await asyncio.sleep(0.3)
        control_plane.signal(signal.SIGKILL)
        assert await asyncio.to_thread(control_plane.wait) == -signal.SIGKILL
        await asyncio.to_thread(control_plane.start)
    await telling
    await worker.taken_in()
    recorded = await reports_recorded(client)
    assert len(recorded) == 180
    assert [name for kind, name in recorded if kind == "snapshot.stored"] == [snapshot_name(n) for n in range(1, 61)]
    await audit_follows_the_log(client, 184)


async def test_a_broker_killed_while_reports_flow_loses_and_repeats_nothing(
    client: Client, worker: Worker, nats_server: NatsServer
) -> None:
    async def tell() -> None:
        for number in range(1, 61):
            await worker.say(*worker.snapshot(snapshot_name(number)))
            await asyncio.sleep(0.02)

    telling = asyncio.create_task(tell())
    for _ in range(2):
        await asyncio.sleep(0.5)
        nats_server.kill()
        await asyncio.to_thread(nats_server.start)
    await telling
    await worker.taken_in()
    recorded = await reports_recorded(client)
    assert len(recorded) == 180
    assert [name for kind, name in recorded if kind == "snapshot.stored"] == [snapshot_name(n) for n in range(1, 61)]
    await audit_follows_the_log(client, 184)


async def test_a_wiped_broker_is_filled_again_from_the_log(
    client: Client, worker: Worker, nats_server: NatsServer
) -> None:
    done = await checkpoint(client)
    await worker.say(
        worker.dump_started(snapshot_name(1)),
        worker.captured(snapshot_name(1)),
        msgspec.structs.replace(worker.stored(snapshot_name(1)), command_id=done),
    )
    await worker.taken_in()
    still_open = await checkpoint(client)
    before = await audit_follows_the_log(client, 10)
    nats_server.kill()
    nats_server.wipe()
    nats_server.start()
    after = await audit_follows_the_log(client, 10)
    assert after == before
    assert await commands_sent(client) == [still_open], "what is done is not asked for again"
    await worker.say(worker.dump_started(snapshot_name(2)))
    await worker.taken_in()
    assert (await audit_follows_the_log(client, 11))[-1]["type"] == "snapshot.dump-started"


async def test_a_worker_does_not_overtake_its_own_words_after_its_broker_was_wiped(
    client: Client, worker: Worker, nats_server: NatsServer
) -> None:
    for number in range(5):
        await worker.say(*worker.snapshot(snapshot_name(number)))
    await worker.taken_in()
    nats_server.kill()
    nats_server.wipe()
    await asyncio.to_thread(nats_server.start)
    await worker.say(*worker.snapshot(snapshot_name(9), final=True))
    answer = await worker.resolve("c2")
    assert isinstance(answer, RestoreFrom)
    assert answer.snapshot_id == snapshot_name(9)


async def test_a_wiped_commands_stream_gets_the_open_commands_again(
    client: Client, worker: Worker, control_plane: ControlPlaneProcess
) -> None:
    command_id = await checkpoint(client)
    await audit_follows_the_log(client, 5)
    assert control_plane.stop() == 0
    await client.jetstream().delete_stream(subjects.COMMANDS_STREAM)
    control_plane.start()

    async def sent() -> list[str]:
        return await commands_sent(client)

    assert await eventually(sent, saying="the command is sent again") == [command_id]
    await audit_follows_the_log(client, 5)


async def test_a_control_plane_on_another_database_does_not_continue_a_foreign_audit_stream(
    client: Client,
    worker: Worker,
    control_plane: ControlPlaneProcess,
    make_control_plane: Callable[..., ControlPlaneProcess],
) -> None:
    assert control_plane.stop() == 0
    held = await stored_messages(client, subjects.AUDIT_STREAM)
    other = make_control_plane()
    other.spawn()
    assert other.wait() == 1
    (line,) = other.lines("the control plane ends")
    assert line["code"] == "audit-of-another-log"
    assert await stored_messages(client, subjects.AUDIT_STREAM) == held


async def test_told_to_forget_it_a_control_plane_begins_anew_where_another_log_was_published(
    client: Client,
    worker: Worker,
    control_plane: ControlPlaneProcess,
    make_control_plane: Callable[..., ControlPlaneProcess],
) -> None:
    assert control_plane.stop() == 0
    other = make_control_plane()
    other.spawn("forget-audit")
    assert other.wait() == 0
    other.start()
    await worker.register()
    await audit_follows_the_log(client, 1)


async def test_a_control_plane_on_a_log_that_was_carried_over_goes_on_where_the_old_one_was(
    client: Client,
    worker: Worker,
    control_plane: ControlPlaneProcess,
    make_control_plane: Callable[..., ControlPlaneProcess],
) -> None:
    assert control_plane.stop() == 0
    other = make_control_plane()
    other.spawn("move", f"sqlite:///{control_plane.database}")
    assert other.wait() == 0
    other.start()
    command_id = await checkpoint(client)
    await audit_follows_the_log(client, 5)
    assert await commands_sent(client) == [command_id]


async def test_a_control_plane_started_before_its_broker_waits_for_it(
    nats_server: NatsServer, control_plane: ControlPlaneProcess, client: Client
) -> None:
    assert control_plane.stop() == 0
    nats_server.kill()
    control_plane.spawn()
    await asyncio.sleep(1.5)
    nats_server.start()
    assert await query(client, "events") == []


async def test_sigterm_ends_the_process_cleanly_with_reports_in_flight(
    client: Client, worker: Worker, control_plane: ControlPlaneProcess
) -> None:
    for number in range(1, 20):
        await worker.say(*worker.snapshot(snapshot_name(number)))
    assert control_plane.stop() == 0
    with sqlite3.connect(control_plane.database) as connection:
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
    control_plane.start()
    await worker.taken_in()
    assert len(await reports_recorded(client)) == 57


async def test_a_sigterm_while_the_broker_is_away_still_ends_the_process(
    nats_server: NatsServer, control_plane: ControlPlaneProcess
) -> None:
    nats_server.kill()
    assert control_plane.stop() == 0
