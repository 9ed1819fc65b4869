"""What a dump does while the container is frozen, and nothing else: every moment here is one in which the workload stands still.

One thread does it, without a turn of the event loop in between. Each step that a crash must not lose is in the journal before it
is taken: a worker that comes after a killed one thaws what the journal says is frozen.
"""

from __future__ import annotations

import sqlite3
import time
from datetime import UTC, datetime
from typing import Final

import msgspec
import structlog

from nodeworker import reports
from nodeworker.capture import projected_volumes, sqlite_files, thread_placement, volume_files, watches
from nodeworker.capture.bounds import Bounds
from nodeworker.capture.criu import interrupted
from nodeworker.capture.criu.runc import Runc
from nodeworker.capture.criu.spool import Aside, Spool, raw_bytes
from nodeworker.capture.gpu.cuda import Cuda
from nodeworker.capture.trees import CapturedTree
from nodeworker.dump import connections
from nodeworker.dump.preflight import Plan
from nodeworker.journal import ContainerRecord, ContainerState, DumpRecord, DumpStep, FrozenRecord, Journal
from nodeworker.settings import Settings
from woodfrog.protocol.failures import FailureError
from woodfrog.protocol.ids import ContainerId
from woodfrog.service import faultpoints, procfs

_log = structlog.get_logger(component="dump")
_READING_SECONDS: Final = (0.01, 0.02, 0.05, 0.1, 0.2)
"""How long processes may go on to read what waits in their watches, one time after the other."""


class _Freeze:
    """One freeze, as the journal knows it."""

    def __init__(self, journal: Journal, record: DumpRecord, plan: Plan) -> None:
        self._journal = journal
        self._noted = FrozenRecord(
            container_id=record.container_id,
            freezer_path=str(plan.freezer.path),
            cgroup_version=plan.freezer.version,
            snapshot_id=record.snapshot_id,
            since=datetime.now(UTC),
        )
        self.cuda_pids: tuple[int, ...] = ()
        """The processes whose GPUs are put aside."""
        journal.note_frozen(self._noted)

    def note_gpus(self, pids: tuple[int, ...]) -> None:
        """Note whose GPUs are put aside, before they are."""
        self.cuda_pids = pids
        self._journal.note_frozen(msgspec.structs.replace(self._noted, cuda_pids=pids))


class FrozenCapture:
    """Takes the captures of one worker. Every method blocks."""

    def __init__(self, settings: Settings, journal: Journal, runc: Runc, cuda: Cuda) -> None:
        self._settings = settings
        self._journal = journal
        self._runc = runc
        self._cuda = cuda

    def take(self, record: DumpRecord, plan: Plan, container: ContainerRecord) -> DumpRecord:
        """Write the capture while the container is frozen; then it runs on, or is dead if the dump is final.

        Raises:
            FailureError: why it could not be taken. The container runs on as before.
        """
        # 1. A place on the disk, and a word in the journal before anything stands still.
        spool = Spool(self._settings.spool / record.snapshot_id)
        spool.make()
        plan.room.folder = spool.folder
        freeze = _Freeze(self._journal, record, plan)
        faultpoints.reach("dump.after-journal")
        began = time.monotonic()
        limit_seconds = plan.freeze_limit(record.trigger)
        bounds = plan.bounds.until(began + limit_seconds) if limit_seconds else plan.bounds
        try:
            # 2. GPUs are put aside while the processes run, since the driver needs them to; then all stand still.
            if plan.gpus is not None:
                self._cuda.suspend(plan.gpus, freeze.note_gpus)
                faultpoints.reach("dump.gpus-aside")
            plan.freezer.freeze()
            unread = self._let_read(plan)
            faultpoints.reach("dump.frozen")
            # 3. CRIU writes the images, and waits while the files are copied: both show one moment.
            files, noticed = self._write(record, plan, spool, bounds)
            noticed = (*noticed, *unread)
            # 4. A container that is to end is killed before it is thawed, and only once the list of its capture is written.
            if record.final:
                record = self._note_complete(record, plan, spool, files, noticed)
                self._kill(plan)
            else:
                plan.freezer.thaw()
        except BaseException as problem:
            plan.freezer.release()
            self._return_gpus(plan, freeze.cuda_pids)
            self._note_thawed(record.container_id)
            removed = interrupted.removal(problem, plan.root / record.container_id)
            if removed is not None:
                raise FailureError(removed) from problem
            raise
        finally:
            plan.criu_config.write_text(plan.criu.for_dump())
        # 5. It runs again, and gets its GPUs back.
        warnings = () if record.final else self._return_gpus(plan, freeze.cuda_pids)
        freeze_seconds = time.monotonic() - began
        # 6. The list is written, the journal knows that all is there, and the report goes out.
        if not record.final:
            record = self._note_complete(record, plan, spool, files, (*noticed, *warnings))
        record = msgspec.structs.replace(record, step=DumpStep.CAPTURED, freeze_seconds=freeze_seconds)
        self._note_captured(record, container)
        faultpoints.reach("dump.captured")
        return record

    def _let_read(self, plan: Plan) -> tuple[str, ...]:
        """Let processes read what waits in their watches, which CRIU would drop, and freeze again; return what is lost nevertheless."""
        for seconds in _READING_SECONDS:
            if not watches.unread(plan.watchers):
                return ()
            plan.freezer.thaw()
            time.sleep(seconds)
            plan.freezer.freeze()
        return tuple(
            f"{procfs.named(pid)} had not read all events of the files that it watches, and does not get them after a restore"
            for pid in watches.unread(plan.watchers)
        )

    def _write(
        self, record: DumpRecord, plan: Plan, spool: Spool, bounds: Bounds
    ) -> tuple[list[CapturedTree], tuple[str, ...]]:
        return connections.dump(
            plan,
            spool,
            lambda: self._runc.checkpoint(
                plan.root,
                record.container_id,
                image_path=spool.images,
                work_path=spool.work,
                leave_running=True,
                stopped_pids=plan.stopped_pids,
            ),
            lambda: self._copy_files(spool, plan, bounds),
        )

    def _copy_files(self, spool: Spool, plan: Plan, bounds: Bounds) -> tuple[list[CapturedTree], tuple[str, ...]]:
        faultpoints.reach("dump.after-criu")
        pids = plan.freezer.pids()
        held, noticed = volume_files.record(spool.images, plan.outside, pids)
        spool.write_aside(Aside(held, thread_placement.record(pids, plan.cpusets), sqlite_files.record(pids)))
        trees = [*spool.copy_files(plan.upper, plan.shm, plan.volumes, bounds), *projected_volumes.links(plan.configs)]
        return trees, (*plan.noticed, *noticed)

    def _return_gpus(self, plan: Plan, cuda_pids: tuple[int, ...]) -> tuple[str, ...]:
        """Bring the GPUs of a thawed container back. One that cannot be is ended: it would wait for its GPU for ever.

        Its engine starts it again then, from the last valid snapshot; return what the capture is to say about it.
        """
        if not cuda_pids:
            return ()
        try:
            self._cuda.resume(list(cuda_pids))
        except FailureError as problem:
            _log.error("a container's GPUs are lost, so it is ended", pids=list(cuda_pids), failure=str(problem))
            self._kill(plan)
            return (f"the container was ended after this capture: {problem.failure.cause}",)
        return ()

    def _kill(self, plan: Plan) -> None:
        try:
            plan.freezer.kill_all()
        except FailureError as problem:
            # SIGKILL is pending in every process: no more of it will run, whoever keeps the cgroup frozen.
            _log.warning("the container was dumped and killed, but does not thaw", failure=str(problem))

    def _note_complete(
        self, record: DumpRecord, plan: Plan, spool: Spool, files: list[CapturedTree], warnings: tuple[str, ...]
    ) -> DumpRecord:
        trees = spool.write_list(files)
        record = msgspec.structs.replace(
            record,
            step=DumpStep.COMPLETE,
            stopped_pids=plan.stopped_pids,
            raw_bytes=raw_bytes(trees),
            warnings=(*record.warnings, *warnings, *(warning for tree in trees for warning in tree.warnings)),
        )
        self._journal.save_dump(record)
        faultpoints.reach("dump.complete")
        return record

    def _note_captured(self, record: DumpRecord, container: ContainerRecord) -> None:
        try:
            with self._journal.transaction():
                self._journal.note_thawed(record.container_id)
                if record.final:
                    self._journal.save_container(
                        msgspec.structs.replace(
                            container, state=ContainerState.ENDED, final_snapshot=record.snapshot_id
                        )
                    )
                self._journal.save_dump(record, reports.captured(self._settings.node, record))
        except sqlite3.Error as problem:
            if not record.final:
                raise
            # The processes are dead and the spool holds all that is left of them: store it, whatever the journal says.
            _log.exception("a final capture could not be journaled", snapshot_id=record.snapshot_id, error=str(problem))

    def _note_thawed(self, container_id: ContainerId) -> None:
        """Forget that the container was frozen; if even that cannot be written, the next worker thaws it once more."""
        try:
            self._journal.note_thawed(container_id)
        except sqlite3.Error as problem:
            _log.warning("the journal could not note a thawing", container_id=container_id, error=str(problem))
