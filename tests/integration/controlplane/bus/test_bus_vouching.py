"""What a broker confirmed and then lost still reaches the log: workers keep it until the control plane vouches for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from nats.aio.client import Client
from support.servers import ControlPlaneProcess, NatsServer
from support.worker import FACTS, KEY, Worker, eventually, query, snapshot_name

from nodeworker.bus import Bus
from nodeworker.journal import Journal
from woodfrog.protocol import subjects
from woodfrog.protocol.commands import Command
from woodfrog.protocol.events import NodeRegistered, ReportedEvent
from woodfrog.protocol.reports import Heartbeat

pytestmark = [pytest.mark.nats, pytest.mark.timeout(90)]


async def nothing(_: Command) -> None:
    """Obey by doing nothing."""


@pytest.fixture
def words(client: Client) -> Worker:
    """Builds what the worker says; sends nothing itself."""
    return Worker(client)


@pytest.fixture
def journal(tmp_path: Path, words: Worker) -> Iterator[Journal]:
    opened = Journal(tmp_path / "journal.sqlite3", node=words.node, worker_id=words.worker_id)
    yield opened
    opened.close()


@pytest.fixture
async def bus(nats_url: str, journal: Journal, words: Worker, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bus]:
    monkeypatch.setattr("nodeworker.bus._VOUCH_SECONDS", 1.0)
    bus = Bus(nats_url, words.node, journal, heartbeat=lambda: Heartbeat(words.node, words.worker_id, "boot", FACTS))
    task = asyncio.create_task(bus.run(nothing))
    yield bus
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def say(bus: Bus, journal: Journal, *events: ReportedEvent) -> None:
    await asyncio.to_thread(journal.report, *events)
    assert await bus.flush(20)


async def begin(bus: Bus, journal: Journal, words: Worker) -> None:
    await say(
        bus,
        journal,
        NodeRegistered(node=words.node, worker_id=words.worker_id, boot_id="boot", facts=FACTS),
    )
    answer = await words.resolve("c1", sequence=1)
    await say(bus, journal, words.started("c1", answer.incarnation))  # type: ignore[union-attr]


async def told(client: Client, count: int) -> list[str]:
    """Wait for so many words about dumps in the log."""

    async def all_there() -> list[str]:
        found = [row["type"] for row in await query(client, "events", key=KEY) if "snapshot_id" in row["data"]]
        return found if len(found) >= count else []

    return await eventually(all_there, saying="they are in the log", seconds=40)  # type: ignore[no-any-return]


DUMP = ["snapshot.dump-started", "snapshot.captured", "snapshot.stored"]


async def vouched(journal: Journal) -> None:
    async def none_kept() -> bool:
        return not journal.confirmed() and not journal.outbox()

    await eventually(none_kept, saying="every report is vouched for", seconds=40)


async def test_reports_confirmed_by_a_broker_that_was_wiped_before_they_were_taken_in_reach_the_log(
    client: Client,
    control_plane: ControlPlaneProcess,
    nats_server: NatsServer,
    bus: Bus,
    journal: Journal,
    words: Worker,
) -> None:
    await begin(bus, journal, words)
    await vouched(journal)
    assert control_plane.stop() == 0
    await say(bus, journal, *words.snapshot(snapshot_name(1)))
    assert (journal.outbox(), len(journal.confirmed())) == ([], 3)
    nats_server.kill()
    nats_server.wipe()
    nats_server.start()
    journal.report(*words.snapshot(snapshot_name(2)))
    control_plane.start()
    assert await told(client, 6) == DUMP * 2
    await vouched(journal)
    assert await query(client, "dead_letters") == []


async def test_a_report_that_was_purged_while_the_broker_remembers_its_id_is_sent_under_another(
    client: Client, control_plane: ControlPlaneProcess, bus: Bus, journal: Journal, words: Worker
) -> None:
    await begin(bus, journal, words)
    assert control_plane.stop() == 0
    await say(bus, journal, *words.snapshot(snapshot_name(1)))
    await client.jetstream().purge_stream(subjects.REPORTS_STREAM)
    control_plane.start()
    assert await told(client, 3) == DUMP
    await vouched(journal)


async def test_a_report_that_says_nothing_new_is_put_aside_with_that_reason_and_not_asked_for_again(
    client: Client, control_plane: ControlPlaneProcess, bus: Bus, journal: Journal, words: Worker
) -> None:
    await begin(bus, journal, words)
    started, captured, stored = words.snapshot(snapshot_name(1))
    await say(bus, journal, captured, stored, started)
    await vouched(journal)
    assert await told(client, 2) == DUMP[1:]
    (letter,) = await query(client, "dead_letters")
    assert letter["kind"] == "overtaken"
