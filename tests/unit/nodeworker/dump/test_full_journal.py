"""Where the disk has no room for the journal either, a dump's end is recorded as soon as there is, and its next try is not held up."""

from __future__ import annotations

import asyncio
import sqlite3
from types import SimpleNamespace
from typing import Any

import pytest

from nodeworker.dump import dump
from nodeworker.dump.dump import Dumper
from nodeworker.dump.uploader import SnapshotUploader
from nodeworker.errors import failure_of
from woodfrog.protocol.events import DumpStage
from woodfrog.protocol.failures import Failure

pytestmark = pytest.mark.timeout(5)

FULL = Failure("disk-full", "no space is left", "Free some.")
RECORD: Any = SimpleNamespace(snapshot_id="s1", container_id="one", key="train")


class Full:
    """A journal that has no room for its first writes."""

    def __init__(self, writes: int) -> None:
        self.left = writes
        self.recorded: list[tuple[object, Failure, object]] = []

    def finish_dump(self, record: object, failure: Failure, told: object) -> None:
        self.note_thawed(record)
        self.recorded.append((record, failure, told))

    def note_thawed(self, _what: object) -> None:
        self.left -= 1
        if self.left >= 0:
            raise sqlite3.OperationalError("database or disk is full")


@pytest.mark.parametrize("writes", [0, 1, 3])
async def test_the_end_of_a_dump_is_recorded_once_there_is_room(monkeypatch: pytest.MonkeyPatch, writes: int) -> None:
    monkeypatch.setattr(dump, "_RECORD_AGAIN_SECONDS", 0.01)
    journal = Full(writes)
    inside: Any = Dumper.__new__(Dumper)
    inside._journal, inside._unrecorded = journal, set()
    inside._settings = SimpleNamespace(node="a")
    inside._uploader = SimpleNamespace(fail=lambda record, stage, failure: journal.finish_dump(record, failure, stage))
    monkeypatch.setattr(dump.reports, "dump_failed", lambda _node, _record, stage, _failure: stage)
    await inside._fail(RECORD, DumpStage.CAPTURE, FULL)
    await asyncio.gather(*inside._unrecorded)
    assert journal.recorded == [(RECORD, FULL, DumpStage.CAPTURE)]


def test_the_next_try_of_a_final_dump_needs_no_room_for_the_note_that_the_container_runs() -> None:
    uploader: Any = SnapshotUploader.__new__(SnapshotUploader)
    uploader._journal = Full(1)
    removed: list[object] = []
    uploader._remove_spool = removed.append
    uploader.clear(RECORD)
    assert removed == [RECORD]


def test_a_request_for_which_the_journal_has_no_room_is_no_fault_of_the_worker() -> None:
    failure = failure_of(sqlite3.OperationalError("database or disk is full"), "on CreateRequest")
    assert (failure.code, bool(failure.advice)) == ("disk-full", True)
    assert (
        failure_of(ValueError("odd"), "on CreateRequest").cause
        == "the worker failed on CreateRequest: ValueError('odd')"
    )
    assert failure_of(ValueError("odd")).cause == "the worker failed: ValueError('odd')"
