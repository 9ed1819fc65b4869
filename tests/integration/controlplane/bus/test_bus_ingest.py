"""Reports that may not be believed: each is refused with a reason and none stands in the way of those behind it."""

from __future__ import annotations

import asyncio
import signal
from datetime import datetime
from uuid import uuid4

import msgspec
import pytest
from nats.aio.client import Client
from support.servers import ControlPlaneProcess
from support.worker import KEY, Worker, eventually, query, snapshot_name, swallow_next

from controlplane.bus.report_consumer import RefusedReportError, read_report
from woodfrog.protocol import subjects, wire
from woodfrog.protocol.events import ContainerEnded
from woodfrog.protocol.ids import CheckpointKey, ContainerId, IncarnationNumber, NodeName, WorkerId
from woodfrog.protocol.reports import Report

pytestmark = pytest.mark.nats

NODE = NodeName("node-1")
REPORT = Report(
    uuid4(),
    NODE,
    WorkerId("w"),
    datetime.fromisoformat("2026-11-23T21:45:01+00:00"),
    ContainerEnded(key=KEY, incarnation=IncarnationNumber(1), node=NODE, container_id=ContainerId("c1")),
)


def other_key(**part: str) -> Report:
    key = msgspec.structs.replace(KEY, **part)
    return msgspec.structs.replace(REPORT, event=msgspec.structs.replace(REPORT.event, key=key))


def without_offset() -> bytes:
    return wire.encode(REPORT).replace(b"2026-11-23T21:45:01Z", b"2026-11-23T21:45:01")


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"\xff\x00 not json", "malformed"),
        (b"{}", "report_id"),
        (b'{"report_id": 7}', "$.report_id"),
        (wire.encode(REPORT).replace(b"container.ended", b"command.issued"), "$.event"),
        (wire.encode(REPORT).replace(b"container.ended", b"no.such.event"), "$.event"),
        (without_offset(), "$.at"),
        (wire.encode(other_key(id="../../etc")), "checkpoint id"),
        (wire.encode(other_key(namespace="a b")), "namespace"),
        (wire.encode(other_key(cluster="")), "cluster"),
        (wire.encode(msgspec.structs.replace(REPORT, node=NodeName("node-2"))), "$.node"),
        (wire.encode(msgspec.structs.replace(REPORT, node=NodeName("node\n1"))), "node"),
        (wire.encode(other_key(id="a" * 600_000)), "bytes"),
    ],
)
def test_a_report_that_cannot_be_taken_in_is_refused_naming_what_is_wrong(data: bytes, named: str) -> None:
    with pytest.raises(RefusedReportError) as refused:
        read_report(subjects.reports(NODE), data)
    assert named in str(refused.value)


async def test_poison_among_reports_is_put_aside_visibly_and_those_behind_it_go_on(
    client: Client, control_plane: ControlPlaneProcess
) -> None:
    terminated = await client.subscribe("$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.REPORTS.>")
    worker = Worker(client)
    await worker.register()
    await worker.run_container("c1")
    for number, poison in enumerate((b"not json", without_offset(), wire.encode(other_key(id="a/b")))):
        await worker.send_bytes(poison, f"poison-{number}")
        await worker.say(*worker.snapshot(snapshot_name(number)))
    await worker.taken_in()
    stored = [row for row in await query(client, "events", key=KEY) if row["type"] == "snapshot.stored"]
    assert [row["data"]["snapshot_id"] for row in stored] == [snapshot_name(number) for number in range(3)]
    refused = control_plane.lines("report refused")
    assert [line["refused_reports"] for line in refused] == [1, 2, 3]
    assert ["malformed" in refused[0]["reason"], "$.at" in refused[1]["reason"], "a/b" in refused[2]["reason"]] == [
        True
    ] * 3
    letters = await query(client, "dead_letters")
    assert [(row["kind"], row["reason"], row["sequence"]) for row in letters] == [
        ("unreadable", line["reason"], line["sequence"]) for line in refused
    ]
    assert [row["node"] for row in letters] == [worker.node] * 3
    assert letters[0]["excerpt"] == "not json"
    advisory = msgspec.json.decode((await terminated.next_msg(timeout=10)).data)
    assert advisory["stream_seq"] == refused[0]["sequence"]
    assert "malformed" in advisory["reason"]


async def test_a_report_that_no_worker_of_the_node_can_have_made_is_refused(
    client: Client, control_plane: ControlPlaneProcess
) -> None:
    stranger = Worker(client)
    await stranger.say(stranger.started("c1"))
    worker = Worker(client, "node-2")
    await worker.register()
    await worker.taken_in()
    (refused,) = control_plane.lines("report refused")
    (letter,) = await query(client, "dead_letters")
    assert (letter["kind"], letter["reason"], letter["node"]) == ("rejected", refused["reason"], stranger.node)
    assert letter["report_id"]
    assert [row["type"] for row in await query(client, "events")] == ["node.registered"]


async def test_a_report_sent_again_long_after_it_was_recorded_changes_nothing(
    client: Client, control_plane: ControlPlaneProcess
) -> None:
    worker = Worker(client)
    await worker.register()
    await worker.run_container("c1")
    dump = worker.report(worker.dump_started(snapshot_name(0)))
    await worker.send(dump)
    for number in range(1, 13):
        await worker.say(*worker.snapshot(snapshot_name(number)))
    await worker.taken_in()
    before = await query(client, "events")
    await worker.send_bytes(wire.encode(dump), str(uuid4()))
    await worker.taken_in()
    assert await query(client, "events") == before
    assert control_plane.lines("report refused") == []


async def test_a_report_id_used_for_another_event_is_refused(
    client: Client, control_plane: ControlPlaneProcess
) -> None:
    worker = Worker(client)
    await worker.register()
    await worker.run_container("c1")
    dump = worker.report(worker.dump_started(snapshot_name(0)))
    await worker.send(dump)
    forged = msgspec.structs.replace(dump, event=worker.dump_started(snapshot_name(1)))
    await worker.send_bytes(wire.encode(forged), str(uuid4()))
    await worker.taken_in()
    (refused,) = control_plane.lines("report refused")
    assert "report id" in refused["reason"]


async def test_a_refused_report_whose_control_plane_was_killed_before_the_broker_knew_is_put_aside_once(
    client: Client, control_plane: ControlPlaneProcess
) -> None:
    worker = Worker(client)
    await worker.register()
    await worker.taken_in()
    assert control_plane.stop() == 0
    control_plane.start(fault="ingest.before-ack=kill")
    await worker.send_bytes(b"not json", "poison")
    assert await asyncio.to_thread(control_plane.wait) == -signal.SIGKILL
    control_plane.start()
    await worker.taken_in()
    assert len(await query(client, "dead_letters")) == 1


async def test_a_deleted_consumer_is_made_again_and_nothing_is_recorded_twice(
    client: Client, control_plane: ControlPlaneProcess
) -> None:
    worker = Worker(client)
    await worker.register()
    await worker.run_container("c1")
    await worker.say(*worker.snapshot(snapshot_name(0)))
    await worker.taken_in()
    before = await query(client, "events")
    await client.jetstream().delete_consumer(subjects.REPORTS_STREAM, subjects.INGEST_CONSUMER)
    await worker.say(*worker.snapshot(snapshot_name(1)))

    async def all_there() -> bool:
        return len(await query(client, "events")) == len(before) + 3

    await eventually(all_there, saying="the reports behind the loss are recorded")
    assert (await query(client, "events"))[: len(before)] == before


async def story(client: Client) -> list[str]:
    """What the log says of the key's dumps, in order."""
    return [row["type"] for row in await query(client, "events", key=KEY) if "snapshot_id" in row["data"]]


DUMP = ["snapshot.dump-started", "snapshot.captured", "snapshot.stored"]


@pytest.mark.parametrize("before", [True, False], ids=["just opened", "in the middle"])
async def test_a_report_that_went_to_somebody_else_is_taken_in_before_those_behind_it(
    client: Client, control_plane: ControlPlaneProcess, before: bool
) -> None:
    worker = Worker(client)
    await worker.register()
    await worker.run_container("c1")
    assert control_plane.stop() == 0
    if before:
        swallowed = await swallow_next(client, subjects.REPORTS_STREAM, subjects.INGEST_CONSUMER)
        control_plane.start()
    else:
        control_plane.start()
        await worker.say(*worker.snapshot(snapshot_name(0)))
        await worker.taken_in()
        swallowed = await swallow_next(client, subjects.REPORTS_STREAM, subjects.INGEST_CONSUMER)
        control_plane.signal(signal.SIGSTOP)
        await asyncio.sleep(3)  # longer than its own questions wait at the broker
    await worker.say(*worker.snapshot(snapshot_name(1)))
    await swallowed.next_msg(timeout=10)
    control_plane.signal(signal.SIGCONT)
    await worker.taken_in()
    assert await story(client) == DUMP * (1 if before else 2)
    assert control_plane.lines("report refused") == []


async def test_numbers_that_the_stream_itself_has_forgotten_are_no_loss(
    client: Client, control_plane: ControlPlaneProcess
) -> None:
    worker = Worker(client)
    await worker.register()
    await worker.run_container("c1")
    assert control_plane.stop() == 0
    forgotten = Worker(client, "node-2")
    await forgotten.register()
    assert await client.jetstream().delete_msg(subjects.REPORTS_STREAM, forgotten.sequence)
    await worker.say(*worker.snapshot(snapshot_name(0)))
    control_plane.start()
    await worker.taken_in()
    assert await story(client) == DUMP
    assert control_plane.lines("ingestion starts over") == []


def test_keys_of_other_clusters_are_for_the_decision_to_judge() -> None:
    report = other_key(cluster="elsewhere")
    assert read_report(subjects.reports(NODE), wire.encode(report)).event.key == CheckpointKey(  # type: ignore[union-attr]
        "elsewhere", KEY.namespace, KEY.id
    )
