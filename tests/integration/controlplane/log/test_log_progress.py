"""The verbs of the log that take long on a large one say how far they are, and end where they said they would."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support.archives import FORM, SEGMENT_EVENTS
from support.cli import woodfrog
from support.databases import Database
from support.logstory import KEY, NODE_A

from controlplane.core import history
from controlplane.log import EventLog, NewEvent
from controlplane.log.archive.writer import Archive
from controlplane.log.progress import Progress
from controlplane.log.projections import rebuild
from woodfrog.cli import progress
from woodfrog.protocol.ids import Position

pytestmark = pytest.mark.timeout(60)


class Watched(Progress):
    """Remembers every number that was told."""

    def __init__(self) -> None:
        self.told: list[int] = []
        super().__init__()

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "done":
            self.told.append(value)

    def ended_well(self) -> bool:
        """Whether it only grew, in steps, to what was said at the beginning."""
        told = self.told[self.told.index(0) :]
        return told == sorted(told) and len(set(told)) > 2 and told[-1] == self.total > 0


async def test_each_is_told_as_it_goes_on(
    small: EventLog, told: list[NewEvent], archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild, "SLICE_EVENTS", 5)
    rebuilt, proved, filed, whole = (Watched() for _ in range(4))
    await small.rebuild(rebuilt)
    assert rebuilt.ended_well()
    assert (await history.verify(small, progress=proved)).sound
    assert proved.ended_well()
    await archive.archive(Position(35), form=FORM, segment_positions=SEGMENT_EVENTS, progress=filed)
    assert filed.ended_well()
    assert (filed.total, filed.passes) == (60, 2)
    await archive.verify(whole)
    assert whole.done == len(told) == 35, "files and table, each event once"


async def test_what_is_exported_and_looked_back_upon_is_told_as_well(storied: EventLog) -> None:
    exported, looked = Watched(), Watched()
    rows: list[dict[str, Any]] = []
    await history.export(storied, 11, 30, rows.append, exported)
    assert (exported.done, exported.total, len(rows)) == (20, 20, 20)
    await history.choose_at(storied, KEY, NODE_A, datetime.now(UTC), looked)
    assert looked.done == looked.total == 40


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("log", "verify", "-o", "json"), "verifying"),
        (("log", "rebuild"), "rebuilding"),
        (("log", "export"), "exporting"),
        (("choose", KEY.id, "--node", NODE_A, "-o", "json"), "reading the log"),
        (("log", "archive", "--before", "100", "--segment-events", str(SEGMENT_EVENTS), "-o", "json"), "archiving"),
    ],
)
async def test_people_are_told_beside_what_the_verb_answers(
    storied: EventLog,
    database: Database,
    folder: Path,
    words: tuple[str, ...],
    what: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "_FIRST_SECONDS", 0.0)
    monkeypatch.setattr(progress, "_NEXT_SECONDS", 0.001)
    monkeypatch.setenv("WOODFROG_DATABASE_URL", database.url)
    monkeypatch.setenv("WOODFROG_LOG_ARCHIVE", str(folder))
    done = await asyncio.to_thread(woodfrog, *words)
    assert done.exit_code == 0, done.stderr
    said = done.stderr.splitlines()
    assert said
    assert {line.partition(": ")[2].partition(":")[0] for line in said} == {what}
    if "json" in words:
        json.loads(done.stdout)
