"""What the end of a dump that failed changes in the journal: nothing of the container's next dump."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nodeworker.dump.uploader import SnapshotUploader
from nodeworker.journal import DumpRecord
from woodfrog.protocol.events import DumpStage, Trigger
from woodfrog.protocol.facts import ContainerFacts
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import CheckpointKey, ContainerId, IncarnationNumber, SnapshotId

pytestmark = pytest.mark.timeout(5)


class Calls:
    """A journal that remembers what was asked of it."""

    def __init__(self) -> None:
        self.thawed: list[str] = []
        self.finished: list[object] = []

    def transaction(self) -> Calls:
        return self

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, *_: object) -> None:
        """End."""

    def note_thawed(self, container_id: str) -> None:
        self.thawed.append(container_id)

    def finish_dump(self, record: object, *_: object) -> None:
        self.finished.append(record)


@pytest.mark.parametrize(
    ("stage", "thawed"),
    [
        (DumpStage.PREFLIGHT, ["one"]),
        (DumpStage.CAPTURE, ["one"]),
        (DumpStage.REHEARSAL, []),
        (DumpStage.STORE, []),
    ],
)
def test_a_freeze_that_came_after_a_capture_is_not_forgotten_with_it(
    tmp_path: Path, stage: DumpStage, thawed: list[str]
) -> None:
    journal = Calls()
    of: Any = SimpleNamespace(
        _settings=SimpleNamespace(node="here", spool=tmp_path, logs=tmp_path),
        _journal=journal,
        _remove_spool=lambda _record: None,
    )
    record = DumpRecord(
        snapshot_id=SnapshotId("s-1"),
        container_id=ContainerId("one"),
        key=CheckpointKey.checked("local", "default", "train"),
        incarnation=IncarnationNumber(1),
        trigger=Trigger.COMMAND,
        final=False,
        facts=ContainerFacts(),
        started_at=datetime.now(UTC),
        boot_id="boot",
    )
    SnapshotUploader.fail(of, record, stage, Failure("a-code", "a cause", ""))
    assert journal.thawed == thawed
    assert journal.finished == [record]
