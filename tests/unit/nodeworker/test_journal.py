"""The journal remembers, over any kind of death, what was frozen, begun and said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from nodeworker.journal import ContainerRecord, ContainerState, DumpRecord, DumpStep, FrozenRecord, Journal
from woodfrog.protocol.commands import DumpCommand
from woodfrog.protocol.events import ContainerEnded, DumpFailed, DumpStage, DumpStarted, Outcome, Trigger
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

pytestmark = pytest.mark.timeout(20)

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
KEY = CheckpointKey("local", "default", "job")
NODE = NodeName("node-a")
CONTAINER = ContainerRecord(
    container_id=ContainerId("c1"),
    key=KEY,
    bundle="/bundle",
    runc_root="/run/runc",
    facts=ContainerFacts(mounts=("/proc",)),
    asked_at=NOW,
    incarnation=IncarnationNumber(3),
)
DUMP = DumpRecord(
    snapshot_id=SnapshotId("20261123T120000Z-00000001"),
    container_id=ContainerId("c1"),
    key=KEY,
    incarnation=IncarnationNumber(3),
    trigger=Trigger.COMMAND,
    final=False,
    facts=ContainerFacts(),
    started_at=NOW,
    boot_id="boot",
    command_id=CommandId("command-1"),
)
STARTED = DumpStarted(
    key=KEY,
    incarnation=IncarnationNumber(3),
    snapshot_id=DUMP.snapshot_id,
    node=NODE,
    trigger=Trigger.COMMAND,
    final=False,
    command_id=CommandId("command-1"),
)
FAILURE = Failure("disk-full", "the spool is full", "Make room.")
FAILED = DumpFailed(
    key=KEY,
    incarnation=IncarnationNumber(3),
    snapshot_id=DUMP.snapshot_id,
    node=NODE,
    stage=DumpStage.CAPTURE,
    failure=FAILURE,
    command_id=CommandId("command-1"),
)
COMMAND = DumpCommand(
    command_id=CommandId("command-1"),
    node=NODE,
    key=KEY,
    incarnation=IncarnationNumber(3),
    container_id=ContainerId("c1"),
    issued_at=NOW,
    deadline=NOW + timedelta(minutes=10),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite3"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    opened = Journal(path, node=NODE, worker_id=WorkerId("life-1"))
    yield opened
    opened.close()


def reopen(path: Path) -> Journal:
    return Journal(path, node=NODE, worker_id=WorkerId("life-2"))


def test_everything_written_is_there_after_the_worker_comes_back(path: Path, journal: Journal) -> None:
    journal.save_container(CONTAINER)
    journal.note_frozen(
        FrozenRecord(
            container_id=ContainerId("c1"),
            freezer_path="/sys/fs/cgroup/freezer/c1",
            cgroup_version=1,
            snapshot_id=DUMP.snapshot_id,
            since=NOW,
        )
    )
    journal.save_dump(DUMP, STARTED)
    journal.take_command(COMMAND)
    journal.close()

    later = reopen(path)
    assert later.containers() == [CONTAINER]
    assert [record.freezer_path for record in later.frozen()] == ["/sys/fs/cgroup/freezer/c1"]
    assert later.dumps() == [DUMP]
    assert [record.command for record in later.open_commands()] == [COMMAND]
    assert [report.event for _, report in later.outbox()] == [STARTED]
    later.close()


def test_a_worker_killed_right_after_a_write_has_it_on_disk(path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from datetime import datetime, UTC\n"
        "from nodeworker.journal import FrozenRecord, Journal\n"
        "journal = Journal(Path(sys.argv[1]), node='node-a', worker_id='life-0')\n"
        "journal.note_frozen(FrozenRecord(container_id='c1', freezer_path='/f', cgroup_version=2, snapshot_id='s',"
        " since=datetime.now(UTC)))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).parents[3]
    ended = subprocess.run([sys.executable, "-c", script, path], cwd=root, env=os.environ, check=False, timeout=15)
    assert ended.returncode == -signal.SIGKILL

    later = reopen(path)
    assert [record.container_id for record in later.frozen()] == ["c1"]
    later.close()


def test_a_change_and_its_report_are_written_together_or_not_at_all(journal: Journal) -> None:
    def die_half_way() -> None:
        with journal.transaction():
            journal.save_dump(DUMP, STARTED)
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        die_half_way()
    assert journal.dumps() == []
    assert journal.outbox() == []


def test_reports_keep_their_order_and_the_life_that_wrote_them(path: Path, journal: Journal) -> None:
    journal.save_dump(DUMP, STARTED)
    journal.close()
    later = reopen(path)
    later.finish_dump(DUMP, FAILURE, FAILED)

    told = [(report.worker_id, report.event) for _, report in later.outbox()]
    assert told == [("life-1", STARTED), ("life-2", FAILED)]
    later.close()


def test_a_confirmed_report_is_gone_and_its_sequence_is_remembered(journal: Journal) -> None:
    journal.report(STARTED, FAILED)
    (place, _), (second, _) = journal.outbox()
    journal.confirm(place, 41)
    assert [left for left, _ in journal.outbox()] == [second]
    assert journal.reports_sequence() == 41


def test_a_confirmed_report_is_kept_until_somebody_vouches_for_it_and_can_be_sent_again_in_its_place(
    path: Path, journal: Journal
) -> None:
    journal.report(STARTED, STARTED, STARTED)
    (first, lost), (second, settled), (_, new) = journal.outbox()
    journal.confirm(first, 1)
    journal.confirm(second, 2)
    assert journal.confirmed() == [lost.report_id, settled.report_id]
    later = Journal(path, node=NODE, worker_id=WorkerId("another"))
    later.let_go([settled.report_id])
    later.take_back([lost.report_id])
    assert [report.report_id for _, report in later.outbox()] == [lost.report_id, new.report_id]
    assert later.confirmed() == []
    later.close()


def test_reports_that_nobody_vouches_for_do_not_fill_the_disk(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nodeworker.journal._CONFIRMED_KEPT", 3)
    journal.report(*[STARTED] * 5)
    told = journal.outbox()
    for place, _ in told:
        journal.confirm(place, place)
    assert journal.confirmed() == [report.report_id for _, report in told[2:]]


def test_outbox_places_are_never_used_again(journal: Journal) -> None:
    journal.report(STARTED)
    (first, _), *_ = journal.outbox()
    journal.confirm(first, 1)
    journal.report(FAILED)
    (second, _), *_ = journal.outbox()
    assert second > first
    assert journal.last_place() == second


def test_a_listener_hears_of_reports_only_once_they_are_committed(journal: Journal) -> None:
    seen: list[int] = []
    journal.on_report = lambda: seen.append(len(journal.outbox()))
    with journal.transaction():
        journal.report(STARTED)
        assert seen == []
        journal.save_dump(DUMP, FAILED)
    journal.note_thawed(ContainerId("c1"))
    assert seen == [2]


def test_a_command_is_taken_once_and_keeps_its_first_end(journal: Journal) -> None:
    assert journal.take_command(COMMAND) is None
    again = journal.take_command(COMMAND)
    assert again is not None
    assert again.outcome is None

    journal.save_dump(DUMP)
    journal.finish_dump(DUMP, FAILURE, FAILED)
    journal.finish_command(COMMAND.command_id, None)

    ended = journal.take_command(COMMAND)
    assert ended is not None
    assert (ended.outcome, ended.failure) == (Outcome.FAILED, FAILURE)
    assert journal.open_commands() == []
    assert journal.dumps() == []


def test_a_dump_goes_through_its_steps_in_one_record(journal: Journal) -> None:
    journal.save_dump(DUMP)
    journal.save_dump(msgspec.structs.replace(DUMP, step=DumpStep.CAPTURED, freeze_seconds=0.25))
    (record,) = journal.dumps()
    assert (record.step, record.freeze_seconds) == (DumpStep.CAPTURED, 0.25)


def test_a_forgotten_container_leaves_only_its_report(journal: Journal) -> None:
    journal.save_container(CONTAINER)
    journal.save_container(msgspec.structs.replace(CONTAINER, state=ContainerState.RUNNING))
    found = journal.container(CONTAINER.container_id)
    assert found is not None
    assert found.state is ContainerState.RUNNING
    ended = ContainerEnded(key=KEY, incarnation=CONTAINER.incarnation, node=NODE, container_id=CONTAINER.container_id)
    journal.forget_container(CONTAINER.container_id, ended)
    assert journal.containers() == []
    assert [report.event for _, report in journal.outbox()] == [ended]
