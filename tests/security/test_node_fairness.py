"""A node that asks without end is told to wait, and every other is answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import nats
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.aio.msg import Msg
from support.servers import NatsServer
from support.world import ANY_CONTAINER, ANY_NODE, KEY

from controlplane.bus import endpoints
from controlplane.bus.endpoints import Decisions
from controlplane.bus.request_slots import RequestSlots
from controlplane.bus.responder import Responder
from controlplane.bus.stream_storage import limit_streams
from controlplane.bus.streams import ensure_streams
from controlplane.core.input_queue import InputQueue
from controlplane.core.key_waiters import KeyWaiters
from controlplane.core.watermark import Watermark
from controlplane.settings import Settings
from woodfrog.protocol import subjects, wire
from woodfrog.protocol.failures import NODE_BUSY, REPEATED_CODES, FailureError
from woodfrog.protocol.ids import ContainerId, NodeName, WorkerId
from woodfrog.protocol.requests import Refusal, ResolveRequest, Rows
from woodfrog.service.env import InvalidSettingError

pytestmark = pytest.mark.timeout(30)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=300))
def test_whoever_has_less_than_an_equal_part_always_gets_a_place(steps: list[tuple[str, bool]]) -> None:
    places, most, of_one = RequestSlots(12, 8), 12, 8
    taken = dict.fromkeys("abc", 0)
    for asker, comes in steps:
        if comes:
            got = places.enter(asker)
            assert got or taken[asker] >= min(of_one, most // 3)
            assert not got or taken[asker] < of_one
            taken[asker] += got
        elif taken[asker]:
            places.leave(asker)
            taken[asker] -= 1
        assert places.taken == sum(taken.values()) <= most + most // 3 * 2


def test_people_are_not_bound_to_the_places_of_a_node() -> None:
    places = RequestSlots(10, 2)
    assert [places.enter("") for _ in range(10)] == [True] * 10
    assert [places.enter("node-1") for _ in range(3)] == [True, True, False]
    assert places.turned_away == 1


async def soon(what: Callable[[], bool]) -> bool:
    """Let everything that can go on do so, until something is so."""
    for _ in range(10_000):
        if what():
            return True
        await asyncio.sleep(0)
    return False


class Broker:
    """Hands questions over as nats-py does, one after the other, and keeps the answers."""

    def __init__(self) -> None:
        self.max_payload = 1 << 20
        self.is_connected = False
        self.heard: dict[str, Callable[[Msg], Any]] = {}
        self.answers: list[tuple[str, Any]] = []

    async def subscribe(self, subject: str, *, queue: str, cb: Callable[[Msg], Any]) -> None:
        self.heard[subject] = cb

    async def flush(self, _seconds: float) -> None:
        pass

    async def publish(self, reply: str, data: bytes) -> None:
        self.answers.append((reply, wire.decode(data, Refusal | Rows)))

    async def ask(self, node: str) -> None:
        message = SimpleNamespace(subject=subjects.resolve(NodeName(node)), reply=node, data=b"{}", headers=None)
        await self.heard[subjects.RESOLVE_ALL](cast("Msg", message))


async def test_one_node_that_asks_without_end_keeps_no_other_from_being_answered() -> None:
    broker, go_on = Broker(), asyncio.Event()

    async def answer(message: Msg) -> Rows:
        if message.reply == "liar":
            await go_on.wait()
        return Rows(rows=[])

    answering = Responder(cast("Client", broker), {subjects.RESOLVE_ALL: answer}, questions_per_node=4)
    task = asyncio.create_task(answering.run())
    await answering.listening.wait()
    for _ in range(100):
        await broker.ask("liar")
    await broker.ask("honest.node")
    assert await soon(lambda: broker.answers[-1][0] == "honest.node")
    refusals = [said for node, said in broker.answers if node == "liar"]
    assert len(refusals) == answering.places.turned_away == 96
    assert all(isinstance(said, Refusal) and said.failure.code == NODE_BUSY for said in refusals)
    assert NODE_BUSY in REPEATED_CODES, "a worker asks again"
    go_on.set()
    assert await soon(lambda: not answering.places.taken)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_one_node_waits_for_its_reports_with_a_part_of_its_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever names a sequence that is just ahead would else hold a question for seconds, and as many as it likes."""
    monkeypatch.setattr(endpoints, "_CATCH_UP_SECONDS", 5.0)
    taken_in = Watermark(5)

    class JetStream:
        async def stream_info(self, _stream: str) -> Any:
            return SimpleNamespace(state=SimpleNamespace(last_seq=10))

    client = SimpleNamespace(jetstream=lambda timeout: JetStream())
    decisions = Decisions(
        cast("Client", client), cast("InputQueue", None), taken_in, KeyWaiters(), lambda: None, questions_per_node=8
    )

    def asks(node: str) -> ResolveRequest:
        return ResolveRequest(KEY, ContainerId("c"), NodeName(node), WorkerId("w"), ANY_NODE, ANY_CONTAINER, 10)

    waiting = [asyncio.create_task(decisions._catch_up(asks("liar"))) for _ in range(2)]
    await asyncio.sleep(0.05)
    with pytest.raises(FailureError, match=NODE_BUSY):
        await decisions._catch_up(asks("liar"))
    honest = asyncio.create_task(decisions._catch_up(asks("honest")))
    await asyncio.sleep(0.05)
    await taken_in.set(10)
    await asyncio.wait_for(asyncio.gather(*waiting, honest), 5)
    await decisions._catch_up(asks("liar"))


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    server = NatsServer(tmp_path / "nats")
    server.start()
    connected = await nats.connect(server.url)
    yield connected
    await connected.close()
    server.close()


@pytest.mark.nats
async def test_a_node_fills_its_own_part_of_reports_and_no_more(client: Client) -> None:
    jetstream = client.jetstream()
    await ensure_streams(jetstream)
    assert await limit_streams(jetstream, 64 << 20, 10)
    assert await limit_streams(jetstream, 64 << 20, 10), "and leaves it so"
    for _ in range(30):
        await jetstream.publish(subjects.reports(NodeName("liar")), b"{}")
    await jetstream.publish(subjects.reports(NodeName("honest")), b"{}")
    state = (await jetstream.stream_info(subjects.REPORTS_STREAM, subjects_filter=">")).state
    assert state.subjects == {subjects.reports(NodeName("liar")): 10, subjects.reports(NodeName("honest")): 1}
    assert await limit_streams(jetstream, 64 << 20, 20), "another setting is taken over"
    config = (await jetstream.stream_info(subjects.REPORTS_STREAM)).config
    assert config.max_msgs_per_subject == 20
    await jetstream.update_stream(config.evolve(max_msgs_per_subject=7))
    assert await limit_streams(jetstream, 64 << 20, 30)
    config = (await jetstream.stream_info(subjects.REPORTS_STREAM)).config
    assert config.max_msgs_per_subject == 7, "an operator's own limit stays"


@pytest.mark.parametrize("name", ["WOODFROG_QUESTIONS_PER_NODE", "WOODFROG_REPORTS_PER_NODE"])
@pytest.mark.parametrize("text", ["0", "-1", "many", "1.5"])
def test_a_bound_is_a_number_of_one_or_more(name: str, text: str) -> None:
    with pytest.raises(InvalidSettingError, match=name):
        Settings.from_environment({"WOODFROG_DATABASE_URL": "sqlite+aiosqlite:///x", name: text})
