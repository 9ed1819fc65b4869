"""What a worker finds when it starts again, and sets right before it does anything else.

First, without needing anybody: whatever an earlier life froze is thawed. Then the journal is compared with what is there:
dumps that came to nothing are told, whole captures are handed on to be stored, containers that vanished are told gone.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import structlog

from nodeworker import reports
from nodeworker.capture import exec_gate
from nodeworker.capture.criu import work_folders
from nodeworker.capture.criu.freezer import Freezer
from nodeworker.capture.criu.runc import Runc
from nodeworker.capture.criu.spool import Spool
from nodeworker.capture.gpu.cuda import Cuda
from nodeworker.dump.uploader import SnapshotUploader
from nodeworker.journal import ContainerState, DumpRecord, DumpStep, FrozenRecord, Journal
from nodeworker.settings import Settings
from woodfrog.protocol.events import DumpStage
from woodfrog.protocol.failures import NODE_RESTARTED, Failure, FailureError
from woodfrog.protocol.ids import ContainerId

_log = structlog.get_logger(component="recovery")


async def thaw_all(settings: Settings, journal: Journal) -> dict[ContainerId, FrozenRecord]:
    """Thaw every container that an earlier life froze, all at once, and answer which they were.

    One that does not thaw stays in the journal, for the next life to try again.
    """
    frozen = await asyncio.to_thread(journal.frozen)
    await asyncio.gather(*(asyncio.to_thread(_thaw, journal, record) for record in frozen))
    await asyncio.to_thread(exec_gate.open_all, settings.container_dir(""))
    return {record.container_id: record for record in frozen}


def _thaw(journal: Journal, record: FrozenRecord) -> None:
    try:
        Freezer(Path(record.freezer_path), record.cgroup_version).release()
    except FailureError as problem:
        _log.error("a container cannot be thawed", container_id=record.container_id, failure=str(problem))
    else:
        if not record.cuda_pids:  # what was locked on its GPUs is let go by release_gpus
            journal.note_thawed(record.container_id)
        _log.warning("a container was found frozen and thawed", container_id=record.container_id)


def release_gpus(journal: Journal, cuda: Cuda, frozen: dict[ContainerId, FrozenRecord]) -> None:
    """Let the GPUs of every container go that an earlier life locked or put aside; they were thawed before."""
    for record in frozen.values():
        if not record.cuda_pids:
            continue
        inside = set(Freezer(Path(record.freezer_path), record.cgroup_version).pids())
        try:
            cuda.resume(inside.intersection(record.cuda_pids))
        except FailureError as problem:
            _log.error("a container's GPUs cannot be let go", container_id=record.container_id, failure=str(problem))
        else:
            journal.note_thawed(record.container_id)


def settle_dumps(
    settings: Settings,
    journal: Journal,
    uploader: SnapshotUploader,
    runc: Runc,
    *,
    boot_id: str,
    frozen: dict[ContainerId, FrozenRecord],
) -> list[DumpRecord]:
    """Tell the end of every dump that was cut off, and answer those whose capture is whole and is still to be stored."""
    whole = []
    for record in journal.dumps():
        problem = _lost(settings, record, boot_id)
        if problem is not None:
            stage = DumpStage.CAPTURE if record.step is DumpStep.STARTED else DumpStage.STORE
            uploader.fail(record, stage, problem)
        elif record.step is DumpStep.COMPLETE:
            whole.append(_finish_capture(journal, settings, runc, record, frozen.get(record.container_id)))
        else:
            whole.append(record)
    wanted = {record.snapshot_id for record in whole}
    for folder in settings.spool.iterdir() if settings.spool.is_dir() else ():
        if folder.name not in wanted:
            work_folders.remove(folder)
    return whole


def _lost(settings: Settings, record: DumpRecord, boot_id: str) -> Failure | None:
    """Say why nothing can be made of a dump that was cut off, or None if its capture is whole."""
    if record.boot_id != boot_id and not record.durable:
        return Failure(NODE_RESTARTED, "the node went down during the dump", "Take a new checkpoint.")
    if record.step is not DumpStep.STARTED:
        try:
            Spool(settings.spool / record.snapshot_id).read_list()
        except FailureError as problem:
            return problem.failure
        return None
    return Failure(
        "worker-restarted",
        "the node worker was restarted during the dump; the container was thawed and runs on",
        "Take a new checkpoint; the worker's log has the reason.",
    )


def _finish_capture(
    journal: Journal, settings: Settings, runc: Runc, record: DumpRecord, frozen: FrozenRecord | None
) -> DumpRecord:
    """Report a capture that was whole when the worker died; the container was let go by now, or is dead."""
    since = record.started_at if frozen is None else frozen.since
    record = msgspec.structs.replace(
        record, step=DumpStep.CAPTURED, freeze_seconds=max(0.0, (datetime.now(UTC) - since).total_seconds())
    )
    container = journal.container(record.container_id)
    with journal.transaction():
        if record.final and container is not None and not runc.is_alive(Path(container.runc_root), record.container_id):
            journal.save_container(
                msgspec.structs.replace(container, state=ContainerState.ENDED, final_snapshot=record.snapshot_id)
            )
        journal.save_dump(record, reports.captured(settings.node, record))
    return record
