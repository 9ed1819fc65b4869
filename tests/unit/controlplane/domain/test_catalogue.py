"""Every event is declared whole: what it means to the state, to the tables, to people and to whoever hears it twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args
from uuid import UUID

import pytest
from support.examples import example
from support.golden import today

import controlplane.domain
import woodfrog.protocol.events
from controlplane.core import state_cache
from controlplane.domain.catalogue import ENTRIES
from controlplane.domain.catalogue.entry import KeyEntry, SnapshotEntry, StartEntry
from controlplane.log.projections.fold import Rows, fold
from controlplane.log.records import Metadata, Recorded
from controlplane.log.schema import GENERATION, PROJECTIONS
from woodfrog.protocol.events import Event, ReportedEvent, stream_of
from woodfrog.protocol.events.base import EventBase
from woodfrog.protocol.ids import Position, Version

pytestmark = pytest.mark.timeout(10)

EVENTS = get_args(Event)


def test_every_event_has_an_entry() -> None:
    assert set(ENTRIES) == set(EVENTS)


@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: str(kind.__name__))
def test_every_event_says_in_a_sentence_what_happened(kind: Any) -> None:
    assert kind.__str__ is not EventBase.__str__, "it would show its fields"
    assert str(example(kind))


@pytest.mark.parametrize("kind", get_args(ReportedEvent), ids=lambda kind: str(kind.__name__))
def test_a_report_that_comes_twice_is_recognised_whatever_it_says(kind: Any) -> None:
    entry = ENTRIES[kind]
    if isinstance(entry, StartEntry | SnapshotEntry):
        assert entry.shown_by is not None


def test_rows_have_the_columns_of_their_tables_and_no_others() -> None:
    rows = Rows()
    for position, event in enumerate(today().values(), 1):
        recorded = Recorded(
            position=Position(position),
            stream=stream_of(event),
            version=Version(position),
            event_id=UUID(int=position),
            event=event,
            metadata=Metadata(actor="test", causation="test"),
            occurred_at=example(woodfrog.protocol.events.SnapshotExpired).delete_after,
            recorded_at=example(woodfrog.protocol.events.SnapshotExpired).delete_after,
            hash="",
        )
        fold(rows, recorded)
    for table in PROJECTIONS:
        assert rows.tables[table], f"no event makes a row of {table.name}"
        for row in rows.tables[table].values():
            assert list(row) == [column for column in table.columns.keys() if column != GENERATION]  # noqa: SIM118


def test_the_snapshots_that_move_bytes_are_those_that_can_come_to_hold_or_lose_some() -> None:
    moving = {kind.__name__ for kind, entry in ENTRIES.items() if isinstance(entry, KeyEntry) and entry.moves_bytes}
    assert moving == {
        "SnapshotStored",
        "SnapshotImported",
        "SnapshotDeleted",
        "SnapshotSuperseded",
        "SnapshotInvalidated",
        "SnapshotExpired",
        "DumpFailed",
    }


@pytest.mark.parametrize("package", [controlplane.domain, woodfrog.protocol.events], ids=lambda one: str(one.__name__))
def test_a_copy_of_the_state_is_void_when_any_module_that_folds_is_another(
    package: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = set()

    def read_bytes(path: Path) -> bytes:
        read.add(path)
        return b""

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    state_cache.fingerprint.__wrapped__()
    assert set(Path(package.__file__).parent.rglob("*.py")) <= read
