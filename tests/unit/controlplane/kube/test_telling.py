"""What pods are told of what became of their containers."""

from __future__ import annotations

from datetime import timedelta

import kubernetes_validate
import pytest
from msgspec.structs import replace
from support.world import BROKEN, KEY, NOON, World

from controlplane.kube.event_recorder import EventFormatter, PodNote, event_object
from woodfrog.protocol.events import ColdStartChosen, ContainerStarted, RehearsalOutcome, SnapshotRehearsed
from woodfrog.protocol.facts import ContainerFacts
from woodfrog.protocol.ids import ContainerId, IncarnationNumber, NodeName, Position, SnapshotId

pytestmark = pytest.mark.timeout(10)

POD = ContainerFacts(pod="train-1", pod_uid="0b9cbf2c-6f0c")


def told(world: World) -> list[PodNote]:
    """Everything that is told, when the log is read as it stands."""
    formatter = EventFormatter(world.state.keys.get)
    notes = [formatter.note(event, at) for event, at in world.log]
    return [note for note in notes if note is not None]


def one_life() -> World:
    world = World("a", "b")
    world.run("c1", container=POD)
    world.snapshot(1, "s1")
    return world


def test_a_cold_start_and_a_checkpoint_are_told_on_the_pod() -> None:
    notes = told(one_life())
    assert [(note.reason, note.warning) for note in notes] == [("ColdStarted", False), ("Checkpointed", False)]
    assert notes[0].note == "trainer: starts from its image: no snapshot of this id is known"
    assert notes[1].note == "trainer: snapshot s1 is stored and verified: 500 B, frozen for 0.10 s"
    assert {(note.namespace, note.pod, note.uid) for note in notes} == {("default", "train-1", "0b9cbf2c-6f0c")}


def test_a_restore_names_the_snapshot_and_its_age() -> None:
    world = one_life()
    world.ended(1)
    world.now += timedelta(minutes=5)
    world.ask("c2", "b", container=ContainerFacts(pod="train-2", pod_uid="u2"))
    started = ContainerStarted(
        key=KEY,
        incarnation=IncarnationNumber(2),
        node=NodeName("b"),
        container_id=ContainerId("c2"),
        restored_from=SnapshotId("s1"),
    )
    note = EventFormatter(world.state.keys.get).note(started, world.now)
    assert note is not None
    assert (note.reason, note.pod) == ("Restored", "train-2")
    assert note.note == "trainer: resumes from snapshot s1, stored 5.0 min ago"
    assert not note.warning
    lacking = replace(started, warnings=("the pod has no emptyDir cache",))
    told_too = EventFormatter(world.state.keys.get).note(lacking, world.now)
    assert told_too is not None
    assert told_too.note.endswith("5.0 min ago; the pod has no emptyDir cache")
    assert told_too.warning


def test_captures_that_wait_are_told_once_a_minute_and_not_each_that_a_newer_one_replaces() -> None:
    world = World("a")
    world.run("c1", container=POD)
    for count in range(7):
        world.dump(1, f"s{count}", final=False)
        world.captured(1, f"s{count}")
        world.delayed(1, f"s{count}")
        if count:
            replaced = replace(BROKEN, code="capture-replaced")
            world.dump_failed(1, f"s{count - 1}", failure=replaced)
        world.now += timedelta(seconds=20)
    assert [note.reason for note in told(world)] == ["ColdStarted", *["CheckpointNotStored"] * 3]


def test_failures_are_warnings_with_an_advice() -> None:
    world = one_life()
    world.dump(1, "s2")
    world.dump_failed(1, "s2")
    world.ended(1)
    world.ask("c2", "b", container=POD)
    world.restore_failed(2, "s1")
    failed, restore = [note for note in told(world) if note.warning]
    assert failed.reason == "CheckpointFailed"
    assert BROKEN.cause in failed.note
    assert BROKEN.advice in failed.note
    assert restore.reason == "RestoreFailed"
    assert "another way is sought" in restore.note


def test_of_a_container_without_a_pod_nothing_is_told() -> None:
    world = World("a")
    world.run("c1")
    world.snapshot(1, "s1")
    assert told(world) == []


def test_of_many_checkpoints_one_a_minute_is_told_and_every_failure() -> None:
    world = one_life()
    for number in range(2, 14):
        world.now += timedelta(seconds=10)
        world.snapshot(1, f"s{number}")
    world.dump(1, "x", final=False)
    world.dump_failed(1, "x")
    reasons = [note.reason for note in told(world)]
    assert reasons.count("Checkpointed") == 3
    assert reasons.count("CheckpointFailed") == 1


def test_telling_again_gives_the_same_name_and_the_object_is_one_that_kubernetes_takes() -> None:
    note = told(one_life())[0]
    first = event_object(note, Position(7), NOON, "controlplane-0")
    again = event_object(note, Position(7), NOON + timedelta(hours=1), "controlplane-1")
    other = event_object(note, Position(8), NOON, "controlplane-0")
    assert first["metadata"]["name"] == again["metadata"]["name"] != other["metadata"]["name"]
    kubernetes_validate.validate(first, "1.33", strict=True)


def test_a_note_is_never_longer_than_kubernetes_takes() -> None:
    world = World("a")
    world.ask("c1", container=ContainerFacts(pod="p" * 253, pod_uid="u" * 36))
    state = world.state.keys.get
    note = EventFormatter(state).note(
        ColdStartChosen(key=KEY, incarnation=IncarnationNumber(1), reason="ü" * 5000), NOON
    )
    assert note is not None
    written = event_object(note, Position(2**60), NOON, "i")
    assert len(written["note"].encode()) <= 1024
    assert len(written["metadata"]["name"]) <= 253


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (RehearsalOutcome.RESTORABLE, ("Rehearsed", "trainer: a restore of snapshot s1 was rehearsed in 1.5 s")),
        (RehearsalOutcome.NOT_REHEARSED, ("NotRehearsed", f"trainer: a restore of snapshot s1 was not rehearsed: {BROKEN.cause}")),
        (RehearsalOutcome.FAILED, None),
    ],
)  # fmt: skip
def test_a_rehearsal_is_noted_on_the_pod_and_one_that_failed_only_once(
    outcome: RehearsalOutcome, expected: tuple[str, str] | None
) -> None:
    failure = None if outcome is RehearsalOutcome.RESTORABLE else BROKEN
    event = SnapshotRehearsed(
        key=KEY, incarnation=IncarnationNumber(1), snapshot_id=SnapshotId("s1"), node=NodeName("a"), outcome=outcome, failure=failure, seconds=1.5,
    )  # fmt: skip
    note = EventFormatter(one_life().state.keys.get).note(event, NOON)
    assert (None if note is None else (note.reason, note.note)) == expected
