"""A worker's journal on a full disk: what cannot be written is said, what was written stays, and it goes on with space."""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nodeworker.journal import ContainerRecord, Journal
from woodfrog.protocol.events import ContainerEnded
from woodfrog.protocol.facts import ContainerFacts
from woodfrog.protocol.ids import CheckpointKey, ContainerId, IncarnationNumber, NodeName, WorkerId

pytestmark = pytest.mark.root

KEY = CheckpointKey("local", "default", "job")
NODE = NodeName("node-1")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(tmp_path)], check=True)
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def record(number: int) -> ContainerRecord:
    return ContainerRecord(
        container_id=ContainerId(f"c{number}"), key=KEY, bundle="/b" * 500, runc_root="/r", facts=ContainerFacts(),
        asked_at=datetime.now(UTC),
    )  # fmt: skip


def ended(number: int) -> ContainerEnded:
    return ContainerEnded(
        key=KEY, incarnation=IncarnationNumber(1), node=NODE, container_id=ContainerId(f"c{number}"), exit_code=0
    )


def test_a_full_disk_costs_the_journal_nothing_that_was_written_and_leaves_nothing_half_written(
    small_disk: Path,
) -> None:
    path = small_disk / "journal.db"
    journal = Journal(path, node=NODE, worker_id=WorkerId("w"))
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space"):
        filler.write_bytes(bytes(2 << 20))
    written = 0

    def write_much() -> None:
        nonlocal written
        for number in range(10_000):
            journal.save_container(record(number), ended(number))
            written += 1

    with pytest.raises(sqlite3.OperationalError, match="full"):
        write_much()
    assert len(journal.containers()) == written, "a record without its report, or a report without its record"
    assert len(journal.outbox(limit=100_000)) == written
    filler.unlink()
    journal.save_container(record(written), ended(written))
    journal.close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    again = Journal(path, node=NODE, worker_id=WorkerId("x"))
    assert [one.container_id for one in again.containers()] == [f"c{number}" for number in range(written + 1)]
    assert len(again.outbox(limit=100_000)) == written + 1
    again.close()
