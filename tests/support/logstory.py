"""A story of one key's life, for tests of whatever reads the event log."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from controlplane.log.deadletters import DeadLetter, DeadLetters
from controlplane.log.records import Metadata, NewEvent
from woodfrog.protocol.commands import DumpCommand
from woodfrog.protocol.events import (
    ColdStartChosen,
    CommandFinished,
    CommandIssued,
    ContainerEnded,
    ContainerStarted,
    DumpFailed,
    DumpStage,
    DumpStarted,
    Event,
    IncarnationOpened,
    NodeLost,
    NodeRegistered,
    NodeReturned,
    Outcome,
    RestoreChosen,
    RestoreFailed,
    RestoreStage,
    SnapshotCaptured,
    SnapshotInvalidated,
    SnapshotStored,
    SnapshotSuperseded,
    StartDeferred,
    Trigger,
)
from woodfrog.protocol.facts import ContainerFacts, GpuFacts, NodeFacts
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import (
    CheckpointKey,
    CommandId,
    ContainerId,
    Epoch,
    IncarnationNumber,
    NodeName,
    SnapshotId,
    WorkerId,
)

START = datetime(2026, 11, 23, 21, 0, tzinfo=UTC)
KEY = CheckpointKey("local", "default", "train-7")
ONE, TWO, THREE = IncarnationNumber(1), IncarnationNumber(2), IncarnationNumber(3)
NODE_A, NODE_B = NodeName("node-a"), NodeName("node-b")
WORKER_A, WORKER_B = WorkerId("worker-a"), WorkerId("worker-b")
BROKEN = Failure(code="criu-failed", cause="CRIU gave up", advice="Read its log.", detail="Error (x)")
FULL = Failure(code="disk-full", cause="the node's disk is full", advice="Free space.")


def new(event: Event, seconds: float = 0, *, event_id: UUID | None = None) -> NewEvent:
    return NewEvent(
        event_id or uuid4(), event, Metadata(actor="test", causation="story"), START + timedelta(seconds=seconds)
    )


def opened(name: str, number: int = 1) -> NewEvent:
    return new(
        IncarnationOpened(
            key=CheckpointKey("local", "default", name),
            incarnation=IncarnationNumber(number),
            node=NODE_A,
            container_id=ContainerId(f"{name}-{number}"),
            container=ContainerFacts(image="train:1"),
        )
    )


def stored(name: str, incarnation: IncarnationNumber, node: NodeName, command_id: str | None = None) -> SnapshotStored:
    return SnapshotStored(
        key=KEY,
        incarnation=incarnation,
        snapshot_id=SnapshotId(name),
        node=node,
        manifest_digest="ab" * 32,
        raw_bytes=4096,
        stored_bytes=1024,
        store_seconds=1.5,
        taken_on=NodeFacts(architecture="x86_64"),
        taken_from=ContainerFacts(image="train:1"),
        command_id=None if command_id is None else CommandId(command_id),
    )


def story() -> list[NewEvent]:
    """One key's life: cold start, a commanded dump, a failed one, stop, a restore that fails once, a node that is lost."""
    facts = NodeFacts(
        architecture="x86_64",
        kernel_release="6.18",
        page_size_bytes=4096,
        criu_version="4.1.1",
        gpu_driver="580.65.06",
        gpus=(GpuFacts("GPU-1", "NVIDIA H100 80GB HBM3", "9.0", 80 << 30, mig=False, minor=0),),
    )
    one, two = {"key": KEY, "incarnation": ONE}, {"key": KEY, "incarnation": TWO}
    command = DumpCommand(
        command_id=CommandId("command-1"),
        node=NODE_A,
        key=KEY,
        incarnation=ONE,
        container_id=ContainerId("c1"),
        issued_at=START + timedelta(seconds=10),
        deadline=START + timedelta(seconds=610),
    )
    second = DumpCommand(
        **{name: getattr(command, name) for name in command.__struct_fields__} | {"command_id": "command-2"}
    )
    snapshots = [SnapshotId(f"20261123T2100{n}0Z-0000000{n}") for n in range(5)]
    on_a = {"node": NODE_A}
    told = [
        NodeRegistered(node=NODE_A, worker_id=WORKER_A, boot_id="boot-a", facts=facts),
        NodeRegistered(node=NODE_B, worker_id=WORKER_B, boot_id="boot-b", facts=facts),
        IncarnationOpened(**one, **on_a, container_id=ContainerId("c1"), container=ContainerFacts(image="train:1")),
        ColdStartChosen(**one, reason="no snapshot yet"),
        ContainerStarted(**one, **on_a, container_id=ContainerId("c1"), create_seconds=0.25),
        CommandIssued(**one, command=command),
        DumpStarted(
            **one, **on_a, snapshot_id=snapshots[0], trigger=Trigger.COMMAND, final=False, command_id=command.command_id
        ),
        SnapshotCaptured(**one, **on_a, snapshot_id=snapshots[0], freeze_seconds=0.5, raw_bytes=4096),
        stored(snapshots[0], ONE, NODE_A, command.command_id),
        CommandFinished(**one, command_id=command.command_id, outcome=Outcome.SUCCEEDED),
        CommandIssued(**one, command=second),
        DumpStarted(
            **one, **on_a, snapshot_id=snapshots[1], trigger=Trigger.COMMAND, final=False, command_id=second.command_id
        ),
        DumpFailed(
            **one,
            **on_a,
            snapshot_id=snapshots[1],
            stage=DumpStage.PREFLIGHT,
            failure=FULL,
            command_id=second.command_id,
        ),
        CommandFinished(**one, command_id=second.command_id, outcome=Outcome.FAILED, failure=FULL),
        DumpStarted(**one, **on_a, snapshot_id=snapshots[2], trigger=Trigger.STOP_SIGNAL, final=True),
        IncarnationOpened(
            **two, node=NODE_B, container_id=ContainerId("c2"), container=ContainerFacts(image="train:1")
        ),
        StartDeferred(**two, waiting_for="the final dump on node-a", until=START + timedelta(seconds=135)),
        SnapshotCaptured(**one, **on_a, snapshot_id=snapshots[2], freeze_seconds=0.7, raw_bytes=8192),
        ContainerEnded(**one, **on_a, container_id=ContainerId("c1"), exit_code=143),
        stored(snapshots[2], ONE, NODE_A),
        RestoreChosen(**two, snapshot_id=snapshots[2], reason="the newest"),
        RestoreFailed(**two, snapshot_id=snapshots[2], node=NODE_B, stage=RestoreStage.CRIU, failure=BROKEN),
        RestoreChosen(**two, snapshot_id=snapshots[0], reason="the one before"),
        ContainerStarted(
            **two, node=NODE_B, container_id=ContainerId("c2"), restored_from=snapshots[0], create_seconds=2.5
        ),
        SnapshotInvalidated(**one, snapshot_id=snapshots[2], reason="two nodes could not restore it"),
        DumpStarted(**one, **on_a, snapshot_id=snapshots[3], trigger=Trigger.STOP_SIGNAL, final=True),
        stored(snapshots[3], ONE, NODE_A),
        SnapshotSuperseded(**one, snapshot_id=snapshots[3], by=TWO),
        NodeLost(node=NODE_A, worker_id=WORKER_A, silent_seconds=15.5),
        NodeReturned(node=NODE_A, worker_id=WORKER_A),
        NodeLost(node=NODE_A, worker_id=WORKER_A, silent_seconds=16.0),
        DumpStarted(**two, node=NODE_B, snapshot_id=snapshots[4], trigger=Trigger.STOP_SIGNAL, final=True),
    ]
    return [new(event, seconds) for seconds, event in enumerate(told)]


async def put_one_aside(url: str, epoch: Epoch) -> None:
    """Keep one dead letter, so that the view of them has a row."""
    noon = datetime(2026, 11, 23, 12, tzinfo=UTC)
    letters = DeadLetters(url)
    await letters.put_aside(
        [DeadLetter("REPORTS", 7, noon, "woodfrog.v1.reports.a", "a", None, "unreadable", "no JSON", b"not json")],
        epoch=epoch,
    )
    await letters.close()
