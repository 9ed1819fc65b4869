"""Attacks of a node that was broken into, against a real server with exactly the shipped configuration: all refused.

Each is tried twice: where the server lists the nodes' keys, and where it asks the control plane about their tokens.
The attacker has node a's key or token and says whatever it likes; node b and the control plane are the victims. What a denied client
sees is silence, so each test looks at what the victim has, from the control plane's own account.
"""

from __future__ import annotations

import asyncio
import gc
import uuid
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import nats.errors
import nats.js.errors
import pytest
from msgspec.structs import replace
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig
from support.isolated import IsolatedServer, Mode
from support.servers import ControlPlaneProcess
from support.tokens import TokenApi
from support.worker import CONTAINER, FACTS, KEY, Worker, ask, eventually, query, stored_messages

from controlplane.bus.streams import command_queue, ensure_streams
from nodeworker.bus import Bus
from nodeworker.journal import Journal
from woodfrog.isolation import Isolation
from woodfrog.protocol import subjects, wire
from woodfrog.protocol.commands import Command, DumpCommand
from woodfrog.protocol.events import ContainerStarted, NodeRegistered
from woodfrog.protocol.facts import ContainerFacts
from woodfrog.protocol.failures import FailureError
from woodfrog.protocol.ids import CheckpointKey, CommandId, ContainerId, IncarnationNumber, NodeName, WorkerId
from woodfrog.protocol.reports import Heartbeat
from woodfrog.protocol.requests import (
    CheckpointRequest,
    CommandAccepted,
    Refusal,
    Resolution,
    ResolveRequest,
    RestoreFrom,
    StartCold,
)

pytestmark = [pytest.mark.nats, pytest.mark.timeout(90)]

A, B = NodeName("node.a"), NodeName("node.b")
MSG_NEXT = f"$JS.API.CONSUMER.MSG.NEXT.{subjects.COMMANDS_STREAM}"
QUIET_SECONDS = 0.5
"""How long an attack gets to show an effect that must not come; what is allowed takes some milliseconds."""


@pytest.fixture(autouse=True)
def forgotten_transports() -> Iterator[None]:
    """nats-py 2.16 forgets the transport of a connection that the server turns away; collect it here, where it is known."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(params=["keys", "tokens"])
def mode(request: pytest.FixtureRequest) -> Mode:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
async def kubernetes(tmp_path: Path) -> AsyncIterator[TokenApi]:
    async with TokenApi(tmp_path) as api:
        yield api


@pytest.fixture
async def unanswered(tmp_path: Path, mode: Mode, kubernetes: TokenApi) -> AsyncIterator[IsolatedServer]:
    """A server whose questions nobody answers yet."""
    server = IsolatedServer(tmp_path, A, B, mode=mode, kubernetes=kubernetes)
    yield server
    await server.close()


@pytest.fixture
async def server(unanswered: IsolatedServer) -> IsolatedServer:
    await unanswered.let_in()
    return unanswered


@pytest.fixture
async def control(server: IsolatedServer) -> Client:
    """The control plane's connection; the streams and both nodes' queues are there."""
    control = await server.as_control()
    jetstream = control.jetstream()
    await ensure_streams(jetstream)
    for node in (A, B):
        await jetstream.add_consumer(subjects.COMMANDS_STREAM, command_queue(node))
    return control


@pytest.fixture
async def attacker(server: IsolatedServer, control: Client) -> Client:
    """Node a's connection."""
    return await server.as_node(A)


def command(node: NodeName) -> DumpCommand:
    now = datetime.now(UTC)
    return DumpCommand(
        command_id=CommandId(str(uuid.uuid4())),
        node=node,
        key=KEY,
        incarnation=IncarnationNumber(1),
        container_id=ContainerId("c1"),
        issued_at=now,
        deadline=now + timedelta(minutes=1),
    )


async def order(control: Client, node: NodeName) -> DumpCommand:
    """Put a command into a node's queue."""
    ordered = command(node)
    await control.jetstream().publish(subjects.commands(node), wire.encode(ordered))
    return ordered


async def silence(client: Client, subject: str, data: bytes = b"") -> None:
    """Ask, and expect no answer."""
    with pytest.raises((nats.errors.TimeoutError, nats.errors.NoRespondersError)):
        await client.request(subject, data, timeout=QUIET_SECONDS)


async def last_sequence(control: Client, stream: str) -> int:
    return (await control.jetstream().stream_info(stream)).state.last_seq


async def heard_by(victim: Client, subject: str) -> asyncio.Queue[Msg]:
    """Collect what arrives on a subject."""
    heard: asyncio.Queue[Msg] = asyncio.Queue()
    await victim.subscribe(subject, cb=heard.put)
    await victim.flush()
    return heard


async def test_1_a_node_cannot_fetch_another_nodes_commands(control: Client, attacker: Client) -> None:
    ordered = await order(control, B)
    await silence(attacker, f"{MSG_NEXT}.{subjects.commands_consumer(B)}", b'{"batch": 1, "no_wait": true}')
    queue = await control.jetstream().pull_subscribe_bind(
        consumer=subjects.commands_consumer(B), stream=subjects.COMMANDS_STREAM
    )
    (message,) = await queue.fetch(1, timeout=5)
    assert (wire.decode(message.data, DumpCommand), message.metadata.num_delivered) == (ordered, 1)


async def test_2_a_node_cannot_command_another_node_nor_itself(control: Client, attacker: Client) -> None:
    for node in (A, B):
        await silence(attacker, subjects.commands(node), wire.encode(command(node)))
    assert await last_sequence(control, subjects.COMMANDS_STREAM) == 0


async def test_3_a_node_cannot_report_for_another_node(control: Client, attacker: Client) -> None:
    await silence(attacker, subjects.reports(B), b"{}")
    await silence(attacker, "woodfrog.v1.audit.node.node-lost.b", b"{}")
    assert await last_sequence(control, subjects.REPORTS_STREAM) == 0
    assert await last_sequence(control, subjects.AUDIT_STREAM) == 0


async def test_4_a_node_cannot_give_signs_of_life_or_ask_for_another_node(control: Client, attacker: Client) -> None:
    alive = await heard_by(control, subjects.HEARTBEATS_ALL)
    asked = await heard_by(control, subjects.RESOLVE_ALL)
    await attacker.publish(subjects.heartbeats(B), b"{}")
    await attacker.publish(subjects.resolve(B), b"{}")
    await attacker.publish(subjects.heartbeats(A), b"own")
    await attacker.publish(subjects.resolve(A), b"own")
    await attacker.flush()
    assert (await asyncio.wait_for(alive.get(), 5)).data == b"own"
    assert (await asyncio.wait_for(asked.get(), 5)).data == b"own"
    assert alive.empty()
    assert asked.empty()


async def test_5_a_node_cannot_look_at_streams_or_change_them(control: Client, attacker: Client) -> None:
    for verb in ("INFO", "DELETE", "PURGE", "UPDATE"):
        for stream in (subjects.COMMANDS_STREAM, subjects.REPORTS_STREAM, subjects.AUDIT_STREAM, subjects.PODS_STREAM):
            await silence(attacker, f"$JS.API.STREAM.{verb}.{stream}")
    await silence(attacker, "$JS.API.STREAM.NAMES")
    await silence(attacker, "$JS.API.INFO")
    assert len(await control.jetstream().streams_info()) == 4


async def test_6_a_node_cannot_read_a_stored_message(control: Client, attacker: Client) -> None:
    await order(control, A)
    for stream in (subjects.COMMANDS_STREAM, subjects.AUDIT_STREAM, subjects.PODS_STREAM):
        await silence(attacker, f"$JS.API.STREAM.MSG.GET.{stream}", b'{"seq": 1}')
        await silence(attacker, f"$JS.API.DIRECT.GET.{stream}", b'{"seq": 1}')
        await silence(attacker, f"$JS.API.DIRECT.GET.{stream}.{subjects.commands(A)}")


async def test_7_a_node_cannot_listen_to_what_is_said(control: Client, attacker: Client) -> None:
    heard: asyncio.Queue[Msg] = asyncio.Queue()
    for subject in (
        ">",
        "woodfrog.>",
        subjects.COMMANDS_ALL,
        subjects.REPORTS_ALL,
        subjects.AUDIT_ALL,
        subjects.PODS_ALL,
        "$JS.>",
        "$SYS.>",
    ):
        await attacker.subscribe(subject, cb=heard.put)
    await attacker.flush()
    await order(control, A)
    await control.jetstream().publish(subjects.reports(B), b"{}")
    await control.publish("woodfrog.v1.audit.node.node-lost.b", b"{}")
    await control.flush()
    await asyncio.sleep(QUIET_SECONDS)
    assert heard.empty()


async def test_8_a_node_cannot_read_another_nodes_inbox(
    server: IsolatedServer, control: Client, attacker: Client
) -> None:
    stolen = await heard_by(attacker, f"{subjects.inbox(B)}.>")
    for prefix in ("_INBOX.>", "_R_.>"):
        await attacker.subscribe(prefix, cb=stolen.put)
    await attacker.flush()
    victim = await server.as_node(B)
    confirmation = await victim.jetstream().publish(subjects.reports(B), b"{}")
    assert confirmation.seq == 1
    await asyncio.sleep(QUIET_SECONDS)
    assert stolen.empty()


async def test_9_the_confirmation_of_a_report_cannot_be_made_a_command(control: Client, attacker: Client) -> None:
    alive = await heard_by(control, subjects.HEARTBEATS_ALL)
    for number, reply in enumerate((subjects.commands(B), subjects.reports(B), subjects.heartbeats(B)), start=1):
        await attacker.publish(subjects.reports(A), b"{}", reply=reply)
        await attacker.flush()
        while await last_sequence(control, subjects.REPORTS_STREAM) < number:  # noqa: ASYNC110 - the stream has no event
            await asyncio.sleep(0.02)
    await asyncio.sleep(QUIET_SECONDS)
    assert await last_sequence(control, subjects.COMMANDS_STREAM) == 0
    assert await last_sequence(control, subjects.REPORTS_STREAM) == 3
    assert alive.empty()


async def test_10_a_fetched_command_cannot_be_made_another_nodes_command(control: Client, attacker: Client) -> None:
    await order(control, A)
    own_queue = f"{MSG_NEXT}.{subjects.commands_consumer(A)}"
    for reply in (subjects.commands(B), subjects.reports(B)):
        await attacker.publish(own_queue, b'{"batch": 1, "no_wait": true}', reply=reply)
    await attacker.flush()
    await asyncio.sleep(QUIET_SECONDS)
    assert await last_sequence(control, subjects.COMMANDS_STREAM) == 1
    assert await last_sequence(control, subjects.REPORTS_STREAM) == 0


async def test_a_node_cannot_acknowledge_another_nodes_command(
    server: IsolatedServer, control: Client, attacker: Client
) -> None:
    await order(control, B)
    victim = await server.as_node(B)
    queue = await victim.jetstream().pull_subscribe_bind(
        consumer=subjects.commands_consumer(B), stream=subjects.COMMANDS_STREAM
    )
    (message,) = await queue.fetch(1, timeout=5)
    await attacker.publish(message.reply, b"+ACK")
    # An answer without a body would count as an acknowledgement, if the broker sent it there.
    nothing_waits = b'{"batch": 1, "no_wait": true}'
    with suppress(nats.errors.Error):
        await attacker.publish(f"{MSG_NEXT}.{subjects.commands_consumer(A)}", nothing_waits, reply=message.reply)
    await attacker.flush()
    await asyncio.sleep(QUIET_SECONDS)
    assert (await control.jetstream().stream_info(subjects.COMMANDS_STREAM)).state.messages == 1
    await message.ack()


async def test_a_node_cannot_make_or_change_a_consumer(control: Client, attacker: Client) -> None:
    own, other = subjects.commands_consumer(A), subjects.commands_consumer(B)
    for name in (own, other, "mine"):
        config = ConsumerConfig(
            durable_name=name, deliver_subject=subjects.commands(B), filter_subject=subjects.commands(A)
        )
        request = wire.encode({"stream_name": subjects.COMMANDS_STREAM, "config": config.as_dict()})
        for api in ("CREATE", "DURABLE.CREATE"):
            await silence(attacker, f"$JS.API.CONSUMER.{api}.{subjects.COMMANDS_STREAM}.{name}", request)
        await silence(attacker, f"$JS.API.CONSUMER.DELETE.{subjects.COMMANDS_STREAM}.{name}")
    found = await control.jetstream().consumers_info(subjects.COMMANDS_STREAM)
    assert {consumer.name for consumer in found} == {own, other}
    assert all(consumer.config.deliver_subject is None for consumer in found)


async def test_a_node_cannot_tell_of_pods(control: Client, attacker: Client) -> None:
    await silence(attacker, subjects.pods("default", "victim"), b"{}")
    assert await last_sequence(control, subjects.PODS_STREAM) == 0


ASKED_BY_PEOPLE = sorted(
    subject
    for subject in vars(subjects).values()
    if isinstance(subject, str) and subject.startswith(subjects.CONTROL_ALL.removesuffix("*")) and "*" not in subject
)
"""All of them: one that the accounts do not export is asked in vain."""


async def test_a_node_cannot_ask_what_people_ask(control: Client, attacker: Client) -> None:
    asked = await heard_by(control, subjects.CONTROL_ALL)
    for subject in ASKED_BY_PEOPLE:
        await silence(attacker, subject, b"{}")
    assert asked.empty()


async def test_a_stranger_is_not_let_in(server: IsolatedServer) -> None:
    for url in (server.url, server.url.replace("nats://", "nats://woodfrog:woodfrog@")):
        with pytest.raises(nats.errors.Error):
            await nats.connect(url, allow_reconnect=False, max_reconnect_attempts=0)


async def test_people_ask_and_listen_and_do_nothing_else(server: IsolatedServer, control: Client) -> None:
    asked = await heard_by(control, subjects.CONTROL_ALL)
    person = await server.as_operator()
    heard = await heard_by(person, subjects.AUDIT_ALL)
    for subject in ASKED_BY_PEOPLE:
        await person.publish(subject, b"asked")
    await person.publish("woodfrog.v1.audit.node.node-lost.b", b"forged")
    await person.publish(subjects.reports(B), b"forged")
    await person.publish(subjects.commands(B), b"forged")
    await person.flush()
    assert [(await asyncio.wait_for(asked.get(), 5)).subject for _ in ASKED_BY_PEOPLE] == ASKED_BY_PEOPLE
    await control.jetstream().publish("woodfrog.v1.audit.node.node-lost.b", b"true")
    told = [(await asyncio.wait_for(heard.get(), 5)).data]
    while told[-1] != b"true":
        told.append((await asyncio.wait_for(heard.get(), 5)).data)
    for stream in (subjects.REPORTS_STREAM, subjects.COMMANDS_STREAM):
        assert await last_sequence(control, stream) == 0
    assert [message.data for message in await stored_messages(control, subjects.AUDIT_STREAM)] == [b"true"]


async def test_the_worker_does_all_its_work_under_this_configuration(
    server: IsolatedServer, control: Client, tmp_path: Path
) -> None:
    worker_id = WorkerId("life-1")
    journal = Journal(tmp_path / "journal.sqlite3", node=A, worker_id=worker_id)
    bus = Bus(
        server.url, A, journal,
        heartbeat=lambda: Heartbeat(A, worker_id, "boot", FACTS), **server.credentials(A),
    )  # fmt: skip
    obeyed: asyncio.Queue[Command] = asyncio.Queue()
    cold = StartCold(incarnation=IncarnationNumber(1), reason="nothing is stored")

    async def answer(message: Msg) -> None:
        await message.respond(wire.encode(cold))

    await control.subscribe(subjects.RESOLVE_ALL, cb=answer)
    alive = await heard_by(control, subjects.HEARTBEATS_ALL)
    running = asyncio.create_task(bus.run(obeyed.put))
    try:
        journal.report(NodeRegistered(node=A, worker_id=worker_id, boot_id="boot", facts=FACTS))
        assert await bus.flush(20)
        assert journal.outbox() == []
        assert wire.decode((await asyncio.wait_for(alive.get(), 20)).data, Heartbeat).node == A
        ordered = await order(control, A)
        # Its deadline is told by the worker's own clock.
        assert replace(await asyncio.wait_for(obeyed.get(), 20), deadline=ordered.deadline) == ordered

        async def acknowledged() -> bool:
            return not (await control.jetstream().stream_info(subjects.COMMANDS_STREAM)).state.messages

        await eventually(acknowledged, saying="the command is acknowledged")

        def question(sequence: int) -> ResolveRequest:
            return ResolveRequest(KEY, ContainerId("c1"), A, worker_id, FACTS, ContainerFacts(), sequence)

        assert await asyncio.wait_for(bus.resolve(question), 20) == cold
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        journal.close()
    assert "Permissions Violation" not in server.log.read_text()


async def test_control_plane_and_worker_work_together_under_this_configuration(
    unanswered: IsolatedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nodeworker.bus._VOUCH_SECONDS", 1.0)
    server = unanswered
    seed = {"WOODFROG_NATS_SEED_FILE": str(server.control_seed)}
    plane = ControlPlaneProcess(tmp_path, server.url, **seed, **server.callout)
    worker_id = WorkerId("life-1")
    journal = Journal(tmp_path / "journal.sqlite3", node=A, worker_id=worker_id)
    bus = Bus(
        server.url, A, journal,
        heartbeat=lambda: Heartbeat(A, worker_id, "boot", FACTS), **server.credentials(A),
    )  # fmt: skip
    obeyed: asyncio.Queue[Command] = asyncio.Queue()
    running = asyncio.create_task(bus.run(obeyed.put))
    person = await server.as_operator()
    try:
        await asyncio.to_thread(plane.start)
        journal.report(NodeRegistered(node=A, worker_id=worker_id, boot_id="boot", facts=FACTS))

        def question(sequence: int) -> ResolveRequest:
            return ResolveRequest(KEY, ContainerId("c1"), A, worker_id, FACTS, ContainerFacts(), sequence)

        answer = await asyncio.wait_for(bus.resolve(question), 20)
        assert isinstance(answer, StartCold)
        journal.report(
            ContainerStarted(key=KEY, incarnation=answer.incarnation, node=A, container_id=ContainerId("c1"))
        )
        assert await bus.flush(20)

        async def none_kept() -> bool:
            return not await asyncio.to_thread(journal.confirmed)

        await eventually(none_kept, saying="the control plane vouches for what it took in")

        async def accepted() -> CommandAccepted | None:
            reply = await person.request(subjects.CHECKPOINT, wire.encode(CheckpointRequest(key=KEY)), timeout=5)
            told: CommandAccepted | Refusal = wire.decode(reply.data, CommandAccepted | Refusal)
            return told if isinstance(told, CommandAccepted) else None

        given = await eventually(accepted, saying="a person's command is accepted")
        assert (await asyncio.wait_for(obeyed.get(), 20)).command_id == given.command_id
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        journal.close()
        plane.close()


class Claims:
    """A control plane that asks Kubernetes about pods, node a's worker that lies, and node b's, which has the pod of the id."""

    def __init__(self, kubernetes: TokenApi, liar: Worker, honest: Worker, person: Client) -> None:
        self.kubernetes, self.liar, self.honest, self.person = kubernetes, liar, honest, person

    async def ask(self, worker: Worker, container: str, pod: dict[str, Any], key: CheckpointKey = KEY) -> Resolution:
        """Have a worker ask for a start in a pod."""
        facts = replace(CONTAINER, pod=pod["metadata"]["name"], pod_uid=pod["metadata"]["uid"])
        question = ResolveRequest(
            key, ContainerId(container), worker.node, worker.worker_id, FACTS, facts, worker.sequence
        )
        answer: Resolution = await ask(worker.client, subjects.resolve(worker.node), question, Resolution)
        return answer

    async def refused(self, cause: str) -> None:
        """See in the log that the lie was refused, as what, and of which node."""

        async def recorded() -> bool:
            rows = await query(self.person, "failures")
            return any(
                (row["failure_code"], row["node"], row["type"]) == ("pod-not-here", A, "incarnation.start-refused")
                and cause in row["failure_cause"]
                for row in rows
            )

        await eventually(recorded, saying=f"recorded: {cause}")


@pytest.fixture
async def claims(unanswered: IsolatedServer, kubernetes: TokenApi, tmp_path: Path) -> AsyncIterator[Claims]:
    server = unanswered
    kubernetes.place("job-0", B, checkpoint_id=KEY.id)
    environment = {
        "WOODFROG_NATS_SEED_FILE": str(server.control_seed),
        "WOODFROG_KUBERNETES": "on",
        "KUBECONFIG": str(kubernetes.kubeconfig),
        **server.callout,
    }
    plane = ControlPlaneProcess(tmp_path, server.url, **environment)
    try:
        await asyncio.to_thread(plane.start)
        workers = [Worker(await server.as_node(node), node) for node in (A, B)]
        for worker in workers:
            await worker.register()
        yield Claims(kubernetes, *workers, await server.as_operator())
    finally:
        plane.close()


def cause_of(answer: Resolution) -> str:
    assert isinstance(answer, Refusal), answer
    assert answer.failure.code == "pod-not-here"
    return answer.failure.cause


async def test_11_a_node_gets_no_start_of_a_pod_on_another_node(claims: Claims) -> None:
    pod = claims.kubernetes.pods["job-0"]
    assert isinstance(await claims.ask(claims.honest, "c1", pod), StartCold)
    assert "is on node node.b" in cause_of(await claims.ask(claims.liar, "x", pod))
    await claims.refused("is on node node.b")
    assert len(await query(claims.person, "restore_history", key=KEY)) == 1


async def test_12_a_node_gets_no_start_of_a_pod_that_does_not_exist(claims: Claims) -> None:
    nobody = {"metadata": {"name": "nobody", "uid": "no-such-pod"}}
    assert "there is no pod" in cause_of(await claims.ask(claims.liar, "x", nobody))
    await claims.refused("there is no pod default/nobody")
    later = claims.kubernetes.place("later", A, checkpoint_id="later")  # the watch does not show it
    key = CheckpointKey(KEY.cluster, KEY.namespace, "later")
    assert isinstance(await claims.ask(claims.liar, "c2", later, key), StartCold)


async def test_13_a_node_gets_no_start_of_an_id_that_its_own_pod_does_not_have(claims: Claims) -> None:
    own = claims.kubernetes.place("own", A, namespace="attacker", checkpoint_id=KEY.id)
    assert "there is no pod default/own" in cause_of(await claims.ask(claims.liar, "x", own))
    beside = claims.kubernetes.place("beside", A, checkpoint_id="another")
    assert "no container of pod default/beside has the id" in cause_of(await claims.ask(claims.liar, "y", beside))
    await claims.refused("there is no pod default/own")


async def test_14_a_node_reports_no_snapshot_of_an_id_whose_pod_is_elsewhere(claims: Claims) -> None:
    pod = claims.kubernetes.pods["job-0"]
    assert isinstance(await claims.ask(claims.honest, "c1", pod), StartCold)
    await claims.honest.say(claims.honest.started("c1"))
    liar = claims.liar
    await liar.say(liar.started("x"), liar.dump_started("evil"), liar.captured("evil"), liar.stored("evil"))

    async def all_refused() -> bool:
        return [row["node"] for row in await query(claims.person, "dead_letters")] == [A] * 4

    await eventually(all_refused, saying="every word of it is refused")
    assert await query(claims.person, "checkpoint_history", key=KEY) == []
    honest = claims.honest
    await honest.say(honest.dump_started("good", final=True), honest.captured("good"), honest.stored("good"))
    answer = await claims.ask(honest, "c2", pod)  # which takes its own reports into account
    assert isinstance(answer, RestoreFrom)
    assert answer.snapshot_id == "good"


@pytest.mark.parametrize("mode", ["keys"], indirect=True)
async def test_a_node_let_in_later_works_after_a_reload_and_one_shut_out_does_not(
    server: IsolatedServer, control: Client
) -> None:
    late = NodeName("late")
    server.isolation.add_node(late)
    server.reload()
    worker = Worker(await server.as_node(late), late)
    await worker.send_bytes(b"{}", "1")
    assert await last_sequence(control, subjects.REPORTS_STREAM) == 1
    server.isolation.remove_node(late)
    server.reload()
    await silence(worker.client, subjects.reports(late), b"{}")
    assert await last_sequence(control, subjects.REPORTS_STREAM) == 1


def test_keys_stay_when_the_configuration_is_written_again(tmp_path: Path) -> None:
    isolation = Isolation(tmp_path / "nats")
    isolation.make()
    isolation.add_node(A)
    isolation.server_configuration.write_text("mine")
    before = {file.name: file.read_text() for file in (tmp_path / "nats").rglob("*") if file.is_file()}
    Isolation(tmp_path / "nats").make()
    assert {file.name: file.read_text() for file in (tmp_path / "nats").rglob("*") if file.is_file()} == before
    readable = [file.name for file in (tmp_path / "nats").rglob("*") if file.is_file() and file.stat().st_mode & 0o077]
    assert sorted(readable) == ["accounts.conf", "nats.conf"]


@pytest.mark.parametrize("name", ["", "a b", 'a" }', "../a", "a\nb", "a>", "*"])
def test_a_name_that_no_node_can_have_gets_into_no_configuration(tmp_path: Path, name: str) -> None:
    isolation = Isolation(tmp_path / "nats")
    isolation.make()
    with pytest.raises(FailureError, match="node"):
        isolation.add_node(NodeName(name))
    with pytest.raises(FailureError, match="nkey"):
        isolation.add_node(A, 'U" }] } NODES {')
    assert isolation.nodes() == {}
