"""What a worker says it does: each thing once, from what it journals and what it has in hand."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from nodeworker.agent import status_watch
from nodeworker.agent.status_watch import Creates, StatusWatch, work_of
from nodeworker.disk.reservations import Disk
from nodeworker.journal import ContainerRecord, ContainerState, DumpRecord, DumpStep, Journal
from woodfrog.protocol.commands import CheckCommand, Command, DeleteCommand, DumpCommand, StoreCommand
from woodfrog.protocol.events import DumpStarted, Trigger
from woodfrog.protocol.facts import ContainerFacts
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import (
    CheckpointKey,
    CommandId,
    ContainerId,
    IncarnationNumber,
    NodeName,
    SnapshotId,
    WorkerId,
)
from woodfrog.protocol.node_status import SelfTest

pytestmark = pytest.mark.timeout(10)

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
NODE = NodeName("a")
ONE = IncarnationNumber(1)
NO_CREATES = Creates(lambda _: False, lambda _: "")
AWAY = Failure("store-unreachable", "the store does not answer", "See the network.")


def key(name: str) -> CheckpointKey:
    return CheckpointKey("local", "team", name)


def dump(name: str, seconds: float = 0, **changes: Any) -> DumpRecord:
    record = DumpRecord(
        snapshot_id=SnapshotId(f"s-{name}"), container_id=ContainerId(f"c-{name}"), key=key(name), incarnation=ONE,
        trigger=Trigger.COMMAND, final=False, facts=ContainerFacts(), started_at=NOON + timedelta(seconds=seconds),
        boot_id="boot", raw_bytes=1000,
    )  # fmt: skip
    return msgspec.structs.replace(record, **changes)


def container(name: str, **changes: Any) -> ContainerRecord:
    record = ContainerRecord(
        container_id=ContainerId(f"c-{name}"), key=key(name), bundle="/b", runc_root="/r", facts=ContainerFacts(), asked_at=NOON,
    )  # fmt: skip
    return msgspec.structs.replace(record, **changes)


def command(kind: Any, name: str, **more: Any) -> Command:
    about = {"node": NODE, "key": key(name), "incarnation": ONE, "issued_at": NOON, "deadline": NOON}
    found: Command = kind(command_id=CommandId(f"command-{name}"), **about, **more)
    return found


def said(work: Any) -> list[tuple[str, str, str]]:
    return [(each.kind, each.key.id, each.doing) for each in work]


def test_a_dump_is_a_dump_until_it_is_captured_and_then_what_is_stored_or_waits_for_that() -> None:
    dumps = [
        dump("waits", 3, step=DumpStep.CAPTURED, delay=AWAY),
        dump("frozen", 1),
        dump("stored", 2, step=DumpStep.CAPTURED),
    ]
    assert said(work_of(dumps, [], [], [], NO_CREATES)) == [
        ("dump", "frozen", ""),
        ("store", "stored", ""),
        ("store", "waits", "waits: the store does not answer"),
    ]


def test_commands_are_shown_once_each_and_those_that_have_not_begun_wait_for_their_turn() -> None:
    dumps = [dump("begun", command_id=CommandId("command-begun"))]
    commands = [
        (command(DumpCommand, "begun", container_id=ContainerId("c")), NOON),
        (command(DumpCommand, "queued", container_id=ContainerId("d")), NOON + timedelta(seconds=1)),
        (command(StoreCommand, "begun", snapshot_id=SnapshotId("s-begun")), NOON),
        (command(DeleteCommand, "old", snapshot_id=SnapshotId("s-old")), NOON + timedelta(seconds=2)),
        (command(CheckCommand, "asked", container_id=ContainerId("e")), NOON + timedelta(seconds=3)),
    ]
    assert said(work_of(dumps, [], commands, [], NO_CREATES)) == [
        ("dump", "begun", ""),
        ("dump", "queued", "waits for its turn"),
        ("delete", "old", ""),
        ("check", "asked", ""),
    ]


def test_stops_that_wait_and_starts_under_way_are_shown_by_their_ids() -> None:
    containers = [
        container("starts"),
        container("left-over"),
        container("stops", state=ContainerState.RUNNING),
    ]
    creates = Creates(lambda name: name == "c-starts", lambda _: "fetching")
    stops = [(ContainerId("c-stops"), NOON - timedelta(seconds=1)), (ContainerId("c-unknown"), NOON)]
    assert said(work_of([], containers, [], stops, creates)) == [
        ("dump", "stops", "waits for its turn"),
        ("start", "starts", "fetching"),
    ]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal(tmp_path / "journal.sqlite3", node=NODE, worker_id=WorkerId("w"))
    yield opened
    opened.close()


def watch(journal: Journal, folder: Path) -> StatusWatch:
    idle = cast("Any", SimpleNamespace(under_way=[], waiting_stops=[]))
    return StatusWatch(folder, journal, idle, idle, NO_CREATES, Disk(), SelfTest(NOON))


async def test_its_disk_is_told_with_what_waits_there_for_the_store(journal: Journal, tmp_path: Path) -> None:
    for record in (dump("a", step=DumpStep.CAPTURED, delay=AWAY), dump("b", step=DumpStep.CAPTURED)):
        started = DumpStarted(
            key=record.key, incarnation=ONE, snapshot_id=record.snapshot_id, node=NODE, trigger=record.trigger, final=False
        )  # fmt: skip
        journal.save_dump(record, started)
    watched = watch(journal, tmp_path)
    await watched.look()
    disk = watched.last.disk
    assert disk is not None
    assert 0 < disk.free_bytes <= disk.total_bytes
    assert (disk.waiting_captures, disk.waiting_bytes) == (1, 1000)
    assert watched.last.self_test == SelfTest(NOON)
    assert len(watched.last.work) == 2


async def test_of_much_work_the_oldest_is_named_and_the_rest_counted(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_watch, "MOST_WORK", 2)
    monkeypatch.setattr(journal, "dumps", lambda: [dump(str(number), -number) for number in range(5)])
    watched = watch(journal, tmp_path)
    await watched.look()
    assert ([work.key.id for work in watched.last.work], watched.last.more_work) == (["4", "3"], 3)


async def test_a_journal_that_cannot_be_read_ends_nothing_and_what_was_known_stays(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = watch(journal, tmp_path)
    await watched.look()
    known = watched.last
    tries = []

    def broken() -> list[DumpRecord]:
        tries.append(1)
        raise sqlite3.OperationalError("disk I/O error")

    class EndError(Exception):
        pass

    async def no_pause(_seconds: float) -> None:
        if len(tries) == 2:
            raise EndError

    monkeypatch.setattr(journal, "dumps", broken)
    monkeypatch.setattr(status_watch.asyncio, "sleep", no_pause)
    with pytest.raises(EndError):
        await watched.run()
    assert (len(tries), watched.last) == (2, known)
