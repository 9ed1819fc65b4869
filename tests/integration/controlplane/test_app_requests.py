"""Questions asked of a running control plane: resolve, checkpoint, query, and what is wrong with them."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from nats.aio.client import Client
from support.servers import ControlPlaneProcess
from support.worker import KEY, Worker, ask, audit_follows_the_log, checkpoint, eventually, query, snapshot_name

from woodfrog.protocol import subjects, wire
from woodfrog.protocol.commands import DumpCommand
from woodfrog.protocol.events import Event
from woodfrog.protocol.ids import CheckpointKey, CommandId, NodeName
from woodfrog.protocol.node_status import DiskSpace, NodeStatus
from woodfrog.protocol.requests import (
    CheckpointRequest,
    CommandAccepted,
    QueryRequest,
    Refusal,
    RestoreFrom,
    Rows,
    StartCold,
    WaitFor,
)

pytestmark = pytest.mark.nats


@pytest.fixture
async def worker(client: Client, control_plane: ControlPlaneProcess) -> Worker:
    worker = Worker(client)
    await worker.register()
    return worker


async def test_a_first_start_is_cold_and_the_next_one_goes_on_from_the_stored_snapshot(worker: Worker) -> None:
    first = await worker.resolve("c1")
    assert isinstance(first, StartCold)
    await worker.say(worker.started("c1"), *worker.snapshot(snapshot_name(1), final=True))
    second = await worker.resolve("c2")
    assert isinstance(second, RestoreFrom)
    assert second.snapshot_id == snapshot_name(1)
    assert second.manifest_digest == "ab" * 32
    assert second.incarnation == first.incarnation + 1


async def test_two_questions_about_one_container_get_the_same_answer(worker: Worker) -> None:
    await worker.run_container("c1")
    await worker.say(*worker.snapshot(snapshot_name(1), final=True))
    answers = await asyncio.gather(*(worker.resolve("c2") for _ in range(8)))
    assert isinstance(answers[0], RestoreFrom)
    assert all(answer == answers[0] for answer in answers)
    opened = [row for row in await query(worker.client, "events", key=KEY) if row["type"] == "incarnation.opened"]
    assert [row["data"]["incarnation"] for row in opened] == [1, 2]


async def test_a_resolve_takes_the_askers_own_last_words_into_account(worker: Worker) -> None:
    await worker.run_container("c1")
    for number in range(1, 16):
        await worker.say(*worker.snapshot(snapshot_name(number)))
    await worker.say(worker.dump_started(snapshot_name(99), final=True))
    answer = await worker.resolve("c2")
    assert isinstance(answer, WaitFor), answer
    assert snapshot_name(99) in answer.waiting_for


async def test_a_start_that_has_to_wait_is_answered_as_soon_as_what_it_waits_for_is_there(worker: Worker) -> None:
    await worker.run_container("c1")
    await worker.say(worker.dump_started(snapshot_name(1), final=True))
    asked = asyncio.create_task(worker.resolve("c2"))

    async def deferred() -> bool:
        return any(row["type"] == "incarnation.start-deferred" for row in await query(worker.client, "events", key=KEY))

    await eventually(deferred, saying="the start is told to wait")
    assert not asked.done()
    await worker.say(worker.captured(snapshot_name(1)), worker.stored(snapshot_name(1)))
    answer = await asked
    assert isinstance(answer, RestoreFrom), "one question was enough"


async def test_a_resolve_waits_until_reports_sent_before_it_are_taken_in(
    client: Client, worker: Worker, control_plane: ControlPlaneProcess
) -> None:
    await worker.run_container("c1")
    await worker.say(*worker.snapshot(snapshot_name(1)))
    assert control_plane.stop() == 0
    for _ in range(200):
        await worker.say(worker.dump_started("20261123T214501Z-ffffffff", 7))
    await worker.say(*worker.snapshot(snapshot_name(2), final=True))
    asked = asyncio.create_task(worker.resolve("c2"))
    control_plane.start()
    answer = await asked
    assert isinstance(answer, RestoreFrom)
    assert answer.snapshot_id == snapshot_name(2)


async def test_a_resolve_naming_reports_that_a_wiped_stream_lost_is_answered_all_the_same(worker: Worker) -> None:
    assert isinstance(await worker.resolve("c1", sequence=10_000), StartCold)


async def test_a_checkpoint_becomes_one_command_for_the_containers_node(worker: Worker) -> None:
    await worker.run_container("c1")
    command_id = await checkpoint(worker.client)
    subscription = await worker.client.jetstream().pull_subscribe(
        subjects.commands(worker.node), durable=subjects.commands_consumer(worker.node), stream=subjects.COMMANDS_STREAM
    )
    (message,) = await subscription.fetch(1, timeout=10)
    command: DumpCommand = wire.decode(message.data, DumpCommand)
    assert (command.command_id, command.container_id, command.key) == (command_id, "c1", KEY)
    await message.ack()
    assert await checkpoint(worker.client) == command_id, "the open command is named instead of a second one issued"
    await worker.say(
        msgspec.structs.replace(worker.dump_started(snapshot_name(1)), command_id=command_id),
        worker.captured(snapshot_name(1)),
        msgspec.structs.replace(worker.stored(snapshot_name(1)), command_id=command_id),
    )

    async def finished() -> bool:
        (row,) = await query(worker.client, "commands", command_id=command_id)
        return bool(row["status"] == "succeeded")

    await eventually(finished, saying="the command is finished")
    assert await checkpoint(worker.client) != command_id


async def test_a_checkpoint_of_nothing_that_runs_is_refused_with_an_advice(worker: Worker) -> None:
    answer = await ask(worker.client, subjects.CHECKPOINT, CheckpointRequest(key=KEY), CommandAccepted | Refusal)
    assert isinstance(answer, Refusal)
    assert answer.failure.code == "not-running"
    assert answer.failure.advice


def _request(**changed: object) -> dict[str, object]:
    whole: dict[str, object] = {
        "key": {"cluster": "local", "namespace": "default", "id": "job"},
        "container_id": "c1",
        "node": "node-1",
        "worker_id": "w",
        "facts": {},
        "container": {},
        "reports_sequence": 0,
    }
    return whole | changed


RESOLVE = subjects.resolve(NodeName("node-1"))
MALFORMED: list[tuple[str, object, str]] = [
    (RESOLVE, b"not json", "malformed"),
    (RESOLVE, _request(reports_sequence="many"), "$.reports_sequence"),
    (RESOLVE, _request(container_id="../c"), "$.container_id"),
    (RESOLVE, _request(worker_id="a/b"), "worker id"),
    (RESOLVE, _request(key={"cluster": "local", "namespace": "default", "id": "../etc"}), "checkpoint id"),
    (RESOLVE, _request(key={"cluster": "local", "namespace": "default", "id": ""}), "checkpoint id"),
    (RESOLVE, _request(key={"cluster": "local", "namespace": "default", "id": "a" * 300}), "300"),
    (RESOLVE, _request(key={"cluster": "local", "namespace": "a\nb", "id": "job"}), "namespace"),
    (RESOLVE, _request(node="no de"), "node"),
    (RESOLVE, _request(node="node-2"), "may not ask"),
    (subjects.CHECKPOINT, {"key": {"cluster": "local", "namespace": "x"}}, "$.key"),
    (subjects.CHECKPOINT, {"key": {"cluster": "local", "namespace": "x", "id": "a/b"}}, "checkpoint id"),
    (subjects.QUERY, {"view": "secrets"}, "$.view"),
    (subjects.QUERY, {"view": "events", "limit": 0}, "$.limit"),
    (subjects.QUERY, {"view": "events", "limit": 10**9}, "$.limit"),
    (subjects.QUERY, b"x" * 600_000, "600000 bytes"),
]


async def test_a_malformed_request_is_refused_naming_the_field_and_changes_nothing(
    client: Client, control_plane: ControlPlaneProcess
) -> None:
    for subject, question, named in MALFORMED:
        data = question if isinstance(question, bytes) else msgspec.json.encode(question)
        answer = await ask(client, subject, data, Any)
        assert answer["answer"] == "refused", question
        assert answer["failure"]["code"] == "malformed-request", question
        assert named in answer["failure"]["cause"]
    assert await query(client, "events") == []


async def test_a_query_is_restricted_to_a_key_or_a_command_or_a_number_of_rows(worker: Worker) -> None:
    other = CheckpointKey("local", "other", "job")
    await worker.run_container("c1")
    await worker.run_container("c2", other)
    command_id = await checkpoint(worker.client)
    assert {row["stream"] for row in await query(worker.client, "events", key=other)} == {f"checkpoint/{other}"}
    assert [row["command_id"] for row in await query(worker.client, "commands", command_id=command_id)] == [command_id]
    assert await query(worker.client, "commands", command_id=CommandId("none")) == []
    assert len(await query(worker.client, "events", limit=2)) == 2


async def test_a_query_whose_view_knows_no_such_restriction_is_refused(worker: Worker) -> None:
    answer = await ask(worker.client, subjects.QUERY, QueryRequest(view="nodes", key=KEY), Rows | Refusal)
    assert isinstance(answer, Refusal)
    assert answer.failure.code == "no-such-filter"


async def test_every_event_is_published_once_in_order_under_its_subject_and_cloudevents_headers(worker: Worker) -> None:
    await worker.run_container("c1")
    await worker.say(*worker.snapshot(snapshot_name(1)))
    rows = await audit_follows_the_log(worker.client, 6)
    message = await worker.client.jetstream().get_last_msg(
        subjects.AUDIT_STREAM, "woodfrog.v1.audit.id.snapshot-stored.local.default.job"
    )
    (row,) = [row for row in rows if row["type"] == "snapshot.stored"]
    held = message.headers or {}
    assert held["ce-specversion"] == "1.0"
    assert held["ce-type"] == "io.woodfrog.snapshot.stored.v1"
    assert held["ce-source"] == "/woodfrog/clusters/local"
    assert held["ce-subject"] == "checkpoint/local/default/job"
    assert (held["ce-id"], held["ce-sequence"], held["ce-hash"]) == (row["event_id"], str(row["position"]), row["hash"])
    assert held["ce-actor"] == "worker/node-1"
    assert message.seq == row["position"]
    assert message.data is not None
    event: Event = wire.decode(message.data, Event)
    assert event.node == "node-1"  # type: ignore[union-attr]


async def test_what_a_worker_says_of_itself_is_answered_to_whoever_asks_for_it_and_is_in_no_event(
    worker: Worker,
) -> None:
    await worker.taken_in()
    (before,) = await query(worker.client, "nodes", statuses=True)
    assert before["now"] is None

    async def known() -> dict[str, Any] | None:
        await worker.heartbeat(NodeStatus(disk=DiskSpace(total_bytes=10, free_bytes=4)))
        (row,) = await query(worker.client, "nodes", statuses=True)
        now: dict[str, Any] | None = row["now"]
        return now

    now = await eventually(known, saying="it is heard")
    assert (now["worker_id"], now["status"]["disk"]["free_bytes"]) == (worker.worker_id, 4)
    assert all("now" not in row for row in await query(worker.client, "nodes"))
    assert [row["type"] for row in await query(worker.client, "events")] == ["node.registered"]
