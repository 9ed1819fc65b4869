"""What people are told about an id, from rows of the log as SQL gives them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace
from support.golden import today

from controlplane.describe import describe, explain, moment
from woodfrog.protocol.amounts import size
from woodfrog.protocol.events import (
    CheckpointForgotten,
    ColdStartChosen,
    ContainerEnded,
    ContainerStarted,
    DumpFailed,
    DumpStage,
    Event,
    IncarnationOpened,
    RestoreChosen,
    RestoreFailed,
    RestoreStage,
    SnapshotInvalidated,
    SnapshotStored,
    SnapshotStoreDelayed,
    StartDeferred,
    event_type,
)
from woodfrog.protocol.facts import ContainerFacts, NodeFacts
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import CheckpointKey, ContainerId, IncarnationNumber, NodeName, SnapshotId
from woodfrog.protocol.wire import encode

TODAY = today()

pytestmark = pytest.mark.timeout(5)

KEY = CheckpointKey("local", "default", "count")
NODE = NodeName("here")
OLDER, NEWER = SnapshotId("20261123T100000Z-aaaaaaaa"), SnapshotId("20261123T110000Z-bbbbbbbb")
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
CORRUPT = Failure("snapshot-corrupt", "a pack differs from its digest", "Check the disk.")
FULL = Failure("disk-full", "the disk is full", "Free some space.")


def number(value: int) -> IncarnationNumber:
    return IncarnationNumber(value)


def opened(incarnation: int) -> IncarnationOpened:
    return IncarnationOpened(
        key=KEY,
        incarnation=number(incarnation),
        node=NODE,
        container_id=ContainerId(f"c{incarnation}"),
        container=ContainerFacts(),
    )


def stored(incarnation: int, snapshot: SnapshotId) -> SnapshotStored:
    return SnapshotStored(
        key=KEY,
        incarnation=number(incarnation),
        snapshot_id=snapshot,
        node=NODE,
        manifest_digest="0" * 64,
        raw_bytes=4096,
        stored_bytes=1024,
        store_seconds=0.5,
        taken_on=NodeFacts(),
        taken_from=ContainerFacts(),
    )


def restored(incarnation: int, snapshot: SnapshotId, reason: str = "it is the newest") -> RestoreChosen:
    return RestoreChosen(key=KEY, incarnation=number(incarnation), snapshot_id=snapshot, reason=reason)


def cold(incarnation: int, reason: str = "there is no snapshot") -> ColdStartChosen:
    return ColdStartChosen(key=KEY, incarnation=number(incarnation), reason=reason)


def started(incarnation: int, snapshot: SnapshotId | None = None) -> ContainerStarted:
    return ContainerStarted(
        key=KEY,
        incarnation=number(incarnation),
        node=NODE,
        container_id=ContainerId(f"c{incarnation}"),
        restored_from=snapshot,
    )


def broken(incarnation: int, snapshot: SnapshotId) -> RestoreFailed:
    return RestoreFailed(
        key=KEY,
        incarnation=number(incarnation),
        snapshot_id=snapshot,
        node=NODE,
        stage=RestoreStage.FETCH,
        failure=CORRUPT,
    )


def rows(*events: Event) -> list[dict[str, Any]]:
    return [
        {
            "position": position,
            "occurred_at": (NOON + timedelta(seconds=position)).isoformat(),
            "type": event_type(event),
            "data": json.loads(encode(event)),
        }
        for position, event in enumerate(events, 1)
    ]


def test_an_id_that_never_started_has_nothing_to_explain() -> None:
    assert explain([]) is None


def test_a_first_start_is_cold_because_it_is_the_first() -> None:
    told = explain(rows(opened(1), cold(1), started(1)))
    assert told is not None
    assert (told.choice, told.snapshot_id, told.reason) == ("cold", None, "there is no snapshot")
    assert "first container" in " ".join(told.sentences)
    assert told.advice == ()


def test_a_start_after_the_id_was_forgotten_is_the_first_one_again() -> None:
    forgotten = CheckpointForgotten(key=KEY, incarnation=number(1), idle_seconds=0.0)
    explained = explain(rows(opened(1), cold(1), stored(1, OLDER), forgotten, opened(2), cold(2)))
    assert explained is not None
    assert explained.sentences[1] == "It is the first container since the id was forgotten."
    explained = explain(rows(opened(2), cold(2)))
    assert explained is not None
    assert explained.sentences[1] == "It is the first container with this id that the log holds."
    explained = explain(rows(opened(1), forgotten, opened(2), stored(2, NEWER), opened(3), restored(3, NEWER)))
    assert explained is not None
    assert explained.sentences[1] == "Incarnation 2 had left 1 stored snapshot."


def test_the_last_start_is_the_one_explained() -> None:
    told = explain(rows(opened(1), cold(1), started(1), stored(1, OLDER), opened(2), restored(2, OLDER)))
    assert told is not None
    assert (told.incarnation, told.choice, told.snapshot_id) == (2, "restored", OLDER)


def test_a_fall_back_names_the_broken_snapshot_its_failure_and_what_to_do() -> None:
    first = (opened(1), cold(1), stored(1, OLDER), stored(1, NEWER))
    told = explain(
        rows(*first, opened(2), restored(2, NEWER), broken(2, NEWER), restored(2, OLDER, "the newer one failed"))
    )
    assert told is not None
    assert (told.choice, told.snapshot_id, told.reason) == ("restored", OLDER, "the newer one failed")
    text = " ".join(told.sentences)
    assert NEWER in text
    assert "snapshot-corrupt" in text
    assert told.advice == ("snapshot-corrupt: Check the disk.",)


def test_a_snapshot_that_the_start_condemned_is_told_of_though_it_belongs_to_an_older_incarnation() -> None:
    condemned = SnapshotInvalidated(key=KEY, incarnation=number(1), snapshot_id=NEWER, reason="its bytes are not whole")
    told = explain(rows(opened(1), cold(1), stored(1, NEWER), opened(2), broken(2, NEWER), condemned, cold(2)))
    assert told is not None
    assert any(NEWER in line and "its bytes are not whole" in line for line in told.sentences)


def test_a_failed_dump_of_the_predecessor_explains_why_nothing_newer_is_there() -> None:
    failed = DumpFailed(
        key=KEY, incarnation=number(1), snapshot_id=NEWER, node=NODE, stage=DumpStage.CAPTURE, failure=FULL
    )
    told = explain(rows(opened(1), cold(1), stored(1, OLDER), failed, opened(2), restored(2, OLDER), started(2, OLDER)))
    assert told is not None
    assert any(NEWER in sentence and "disk-full" in sentence for sentence in told.sentences)
    assert told.advice == ("disk-full: Free some space.",)


def test_a_start_that_waits_says_for_what_and_is_undecided() -> None:
    waits = StartDeferred(key=KEY, incarnation=number(2), waiting_for="the final dump of incarnation 1", until=NOON)
    told = explain(rows(opened(1), cold(1), opened(2), waits))
    assert told is not None
    assert told.choice == "undecided"
    assert "the final dump of incarnation 1" in " ".join(told.sentences)


def test_what_another_incarnation_did_is_not_told_as_this_ones() -> None:
    late = ContainerEnded(key=KEY, incarnation=number(1), node=NODE, container_id=ContainerId("c1"), exit_code=99)
    told = explain(rows(opened(1), cold(1), opened(2), cold(2, "nothing valid"), late))
    assert told is not None
    assert not any("99" in sentence for sentence in told.sentences)


def test_an_event_of_a_later_version_is_told_as_it_is_and_explains_nothing() -> None:
    unknown = {"position": 3, "occurred_at": NOON.isoformat(), "type": "moon.rose", "data": {"type": "moon.rose"}}
    assert "moon.rose" in describe(unknown)
    told = explain([*rows(opened(1), cold(1)), unknown])
    assert told is not None
    assert told.choice == "cold"


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (started(2, OLDER), f"from snapshot {OLDER}"),
        (started(1), "cold"),
        (replace(started(2, OLDER), warnings=("the pod has no emptyDir cache",)), "; the pod has no emptyDir cache"),
        (stored(1, OLDER), "1.0 KiB in 0.50 s"),
        (broken(2, NEWER), "snapshot-corrupt"),
    ],
)
def test_an_event_is_told_in_one_line(event: Event, words: str) -> None:
    (row,) = rows(event)
    told = describe(row)
    assert words in told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1.5 * 2**30, "1.5 GiB"), (2**60, "1048576.0 TiB")],
)
def test_sizes_are_told_in_the_unit_that_fits(count: float, text: str) -> None:
    assert size(count) == text


def test_moments_are_told_to_the_second_and_what_is_none_is_left_alone() -> None:
    assert moment("2026-11-23T21:45:01.123456+00:00") == "2026-11-23 21:45:01"
    assert moment(None) == ""
    assert moment("soon") == "soon"


@pytest.mark.parametrize("name", TODAY)
def test_every_event_that_may_happen_is_told_in_a_sentence(name: str) -> None:
    told = describe({"data": json.loads(encode(TODAY[name]))})
    assert told
    assert not told.startswith("{")
    assert "object at" not in told


def test_a_capture_that_waits_for_its_store_is_told_until_it_is_stored() -> None:
    waits = SnapshotStoreDelayed(key=KEY, incarnation=number(1), snapshot_id=OLDER, node=NODE, failure=FULL, since=NOON)
    told = explain(rows(opened(1), cold(1), waits))
    assert told is not None
    assert told.sentences[-1] == (
        f"Snapshot {OLDER} is on node {NODE} only, not stored since 2026-11-23 12:00:00, and is tried again: "
        "the disk is full (disk-full)."
    )
    told = explain(rows(opened(1), cold(1), replace(waits, manifest_digest="d" * 64)))
    assert told is not None
    assert told.sentences[-1].endswith(
        "(disk-full). A container that starts on that node is restored from it meanwhile."
    )
    told = explain(rows(opened(1), cold(1), waits, stored(1, OLDER)))
    assert told is not None
    assert not any("not stored since" in sentence for sentence in told.sentences)


def test_captures_in_whose_place_a_newer_one_waited_are_no_part_of_the_answer() -> None:
    replaced = DumpFailed(
        key=KEY,
        incarnation=number(1),
        snapshot_id=OLDER,
        node=NODE,
        stage=DumpStage.STORE,
        failure=replace(FULL, code="capture-replaced"),
    )
    told = explain(rows(opened(1), cold(1), *[replaced] * 50, stored(1, NEWER), opened(2)))
    assert told is not None
    assert not any("had failed" in sentence for sentence in told.sentences)
    assert not told.advice
    told = explain(rows(opened(1), cold(1), replaced))
    assert told is not None
    assert not any("failed" in sentence for sentence in told.sentences)


def test_a_start_that_leaves_work_behind_says_so() -> None:
    left = ColdStartChosen(key=KEY, incarnation=number(1), reason="no snapshot is usable", left=2)
    told = explain(rows(opened(1), left))
    assert told is not None
    assert "It was to start cold: no snapshot is usable; 2 snapshots with captured work left behind." in told.sentences
