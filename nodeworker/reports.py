"""What a worker reports: every event that it says, built from the record that the event is about.

Whoever reads here knows all that a node says of itself and its containers; whoever adds an event for workers adds it here.
"""

from __future__ import annotations

from datetime import datetime

from msgspec.structs import replace

from nodeworker.domain.rehearsal import Verdict
from nodeworker.journal import ContainerRecord, DumpRecord
from nodeworker.store.snapshots import Stored
from woodfrog.protocol.commands import Command, DeleteCommand, DumpCommand
from woodfrog.protocol.events import (
    CommandFinished,
    ContainerEnded,
    ContainerStarted,
    DumpFailed,
    DumpStage,
    DumpStarted,
    NodeRegistered,
    Outcome,
    RestoreFailed,
    RestoreStage,
    SnapshotCaptured,
    SnapshotDeleted,
    SnapshotRehearsed,
    SnapshotStored,
    SnapshotStoreDelayed,
)
from woodfrog.protocol.facts import NodeFacts
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import NodeName, SnapshotId, WorkerId, new_snapshot_id


def registered(node: NodeName, worker_id: WorkerId, boot_id: str, facts: NodeFacts, journal: str) -> NodeRegistered:
    """Return that a worker begins."""
    return NodeRegistered(node=node, worker_id=worker_id, boot_id=boot_id, facts=facts, journal=journal)


def container_started(node: NodeName, record: ContainerRecord) -> ContainerStarted:
    """Return that a container's processes run."""
    return ContainerStarted(
        key=record.key,
        incarnation=record.incarnation,
        node=node,
        container_id=record.container_id,
        restored_from=record.restored_from,
        create_seconds=record.create_seconds,
        warnings=record.warnings,
    )


def container_ended(
    node: NodeName, record: ContainerRecord, exit_code: int | None, *, never_ran: bool = False
) -> ContainerEnded:
    """Return that a container is gone. One that never ran has no exit code, whatever its engine says."""
    return ContainerEnded(
        key=record.key,
        incarnation=record.incarnation,
        node=node,
        container_id=record.container_id,
        exit_code=None if never_ran else exit_code,
        stopped=record.stopped,
        never_ran=never_ran,
    )


def commanded_container_gone(command: DumpCommand) -> ContainerEnded:
    """Return that the container of a command is gone, of which nothing is known here."""
    return ContainerEnded(
        key=command.key, incarnation=command.incarnation, node=command.node, container_id=command.container_id
    )


def restore_failed(
    node: NodeName,
    record: ContainerRecord,
    snapshot_id: SnapshotId,
    stage: RestoreStage,
    failure: Failure,
    store: str | None,
) -> RestoreFailed:
    """Return that a container could not be restored from a snapshot."""
    return RestoreFailed(
        key=record.key,
        incarnation=record.incarnation,
        snapshot_id=snapshot_id,
        node=node,
        stage=stage,
        failure=failure,
        store=store,
    )


def dump_started(node: NodeName, record: DumpRecord) -> DumpStarted:
    """Return that a dump begins."""
    return DumpStarted(
        key=record.key,
        incarnation=record.incarnation,
        snapshot_id=record.snapshot_id,
        node=node,
        trigger=record.trigger,
        final=record.final,
        command_id=record.command_id,
    )


def captured(node: NodeName, record: DumpRecord) -> SnapshotCaptured:
    """Return that a capture is whole and is yet to be stored."""
    return SnapshotCaptured(
        key=record.key,
        incarnation=record.incarnation,
        snapshot_id=record.snapshot_id,
        node=node,
        freeze_seconds=record.freeze_seconds,
        raw_bytes=record.raw_bytes,
    )


def rehearsed(node: NodeName, record: DumpRecord, verdict: Verdict, seconds: float) -> SnapshotRehearsed:
    """Return what came of a rehearsal."""
    return SnapshotRehearsed(
        key=record.key,
        incarnation=record.incarnation,
        snapshot_id=record.snapshot_id,
        node=node,
        outcome=verdict.outcome,
        failure=verdict.failure,
        seconds=seconds,
    )


def store_delayed(
    node: NodeName, record: DumpRecord, failure: Failure, since: datetime, facts: NodeFacts
) -> SnapshotStoreDelayed:
    """Return that the store does not take a capture; with a digest it says what can be restored here meanwhile."""
    return SnapshotStoreDelayed(
        key=record.key,
        incarnation=record.incarnation,
        snapshot_id=record.snapshot_id,
        node=node,
        failure=failure,
        since=since,
        manifest_digest=record.manifest_digest,
        taken_on=replace(facts, store=None) if record.manifest_digest else None,
        taken_from=record.facts if record.manifest_digest else None,
    )


def stored(
    node: NodeName, record: DumpRecord, stored: Stored, store_seconds: float, facts: NodeFacts
) -> SnapshotStored:
    """Return that a snapshot is in the store."""
    return SnapshotStored(
        key=record.key,
        incarnation=record.incarnation,
        snapshot_id=record.snapshot_id,
        node=node,
        manifest_digest=stored.manifest_digest,
        raw_bytes=stored.raw_bytes,
        stored_bytes=stored.stored_bytes,
        store_seconds=store_seconds,
        taken_on=replace(facts, store=stored.store),
        taken_from=record.facts,
        command_id=record.command_id,
        warnings=record.warnings,
    )


def dump_failed(node: NodeName, record: DumpRecord, stage: DumpStage, failure: Failure) -> DumpFailed:
    """Return that a dump came to nothing."""
    return DumpFailed(
        key=record.key,
        incarnation=record.incarnation,
        snapshot_id=record.snapshot_id,
        node=node,
        stage=stage,
        failure=failure,
        command_id=record.command_id,
    )


def stop_missed(node: NodeName, record: ContainerRecord, at: datetime) -> DumpFailed:
    """Return that a container was stopped while no worker was there to dump it."""
    return DumpFailed(
        key=record.key,
        incarnation=record.incarnation,
        snapshot_id=new_snapshot_id(at),
        node=node,
        stage=DumpStage.PREFLIGHT,
        failure=Failure(
            "worker-away",
            "no node worker was there at the stop signal, so the container got the signal and no final snapshot was taken",
            "Keep the worker running (`woodfrog dev`, or the DaemonSet) while protected containers are stopped.",
        ),
    )


def snapshot_deleted(command: DeleteCommand) -> SnapshotDeleted:
    """Return that a command's snapshot is not in the store any more."""
    return SnapshotDeleted(
        key=command.key,
        incarnation=command.incarnation,
        snapshot_id=command.snapshot_id,
        node=command.node,
        command_id=command.command_id,
    )


def command_finished(command: Command, failure: Failure | None) -> CommandFinished:
    """Return how a command ended."""
    return CommandFinished(
        key=command.key,
        incarnation=command.incarnation,
        command_id=command.command_id,
        outcome=Outcome.SUCCEEDED if failure is None else Outcome.FAILED,
        failure=failure,
    )
