"""A dump, from the wish to the stored snapshot: what happens in which order, and what is left when a step fails.

While the container is frozen only what must see one moment is done: CRIU's images, the writable layer and shared memory
are written to the spool. Hashing, compressing and storing happen afterwards, from the spool. Every step that a crash must
not lose is in the journal before it is taken, so a worker's next life thaws what is frozen and stores what is captured.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Coroutine
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec
import structlog

from nodeworker import reports
from nodeworker.bus import Bus
from nodeworker.capture import exec_gate
from nodeworker.capture.criu.runc import Runc
from nodeworker.capture.gpu.cuda import Cuda
from nodeworker.disk.reservations import Disk
from nodeworker.disk.snapshot_cache import SnapshotCache
from nodeworker.domain import dump_retries
from nodeworker.domain.criu_options import CriuConfig
from nodeworker.dump import exec_sessions, grace_period
from nodeworker.dump.dump_queue import DumpQueue, EarlierDumpError, GoneError
from nodeworker.dump.frozen_capture import FrozenCapture
from nodeworker.dump.preflight import Preflight
from nodeworker.dump.uploader import SnapshotUploader
from nodeworker.errors import failure_of, refusal
from nodeworker.journal import ContainerRecord, DumpRecord, Journal
from nodeworker.settings import Settings
from woodfrog.protocol.commands import DumpCommand
from woodfrog.protocol.events import DumpStage, Trigger
from woodfrog.protocol.failures import Failure, FailureError
from woodfrog.protocol.ids import CommandId, ContainerId, SnapshotId, new_snapshot_id
from woodfrog.service import logs, tracing

_log = structlog.get_logger(component="dump")
_ANNOUNCE_SECONDS: Final = 1.0
_RECORD_AGAIN_SECONDS: Final = 1.0


class NotBegunError(FailureError):
    """The dump that a command asked for had no turn: nothing of it was noted or told."""


class TryAgainError(Exception):
    """A final dump failed for a reason that may pass."""

    def __init__(self, pause_seconds: float) -> None:
        super().__init__()
        self.pause_seconds = pause_seconds


class Dumper:
    """Takes all dumps of one worker: one at a time of a container, a few at a time in all, while earlier ones are being stored."""

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        bus: Bus,
        runc: Runc,
        uploader: SnapshotUploader,
        copies: SnapshotCache,
        *,
        cuda: Cuda,
        disk: Disk,
        criu_config: CriuConfig | None,
        boot_id: str,
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._bus = bus
        self._runc = runc
        self._uploader = uploader
        self._frozen = FrozenCapture(settings, journal, runc, cuda)
        self.preflight = Preflight(settings, runc, cuda, copies, uploader.unstored, disk, criu_config)
        self._boot_id = boot_id
        self._turns = DumpQueue(settings.dumps_at_once)
        self._dumps: set[asyncio.Task[SnapshotId]] = set()
        self._not_begun: set[asyncio.Task[SnapshotId]] = set()
        """Of commands."""
        self._unrecorded: set[asyncio.Task[None]] = set()
        """The ends of dumps for which the journal has no room yet; the next life records those that are left."""

    def is_dumping(self, container_id: ContainerId) -> bool:
        """Say whether a dump of the container is being captured."""
        return self._turns.is_capturing(container_id)

    @property
    def in_flight(self) -> int:
        """How many dumps are being captured."""
        return self._turns.capturing

    @property
    def waiting(self) -> int:
        """How many dumps wait for their turn."""
        return self._turns.waiting

    @property
    def waiting_stops(self) -> list[tuple[ContainerId, datetime]]:
        """The containers whose last dump waits for its turn, each with when it came."""
        return self._turns.waiting_stops

    async def close(self) -> None:
        """Wait until every stop is answered and no capture is under way, so that nothing stays frozen.

        A command that has not begun is left to the next life, which is sent it again.
        """
        self._turns.close()
        for task in self._not_begun:
            task.cancel()
        if self._dumps:
            await asyncio.wait(self._dumps)
        for later in self._unrecorded:
            later.cancel()

    def forget(self, container_id: ContainerId) -> None:
        """Let the dumps of a container that is gone wait no longer."""
        self._turns.leave(container_id)

    async def stop(self, container_id: ContainerId) -> SnapshotId:
        """Take the final dump of a container, when its turn comes, and end it; storing goes on. Asked again, answers the same.

        Raises:
            FailureError: if there is no dump; the container is as it was.
        """
        return await self._owned(self._uploader.rehearsals.aside(self._stop(container_id)))

    async def checkpoint(self, container: ContainerRecord, command: DumpCommand) -> SnapshotId:
        """Dump a container, when its turn comes, and leave it running; storing goes on.

        Raises:
            NotBegunError: if it had no turn before the command's deadline, or before the container was gone.
            FailureError: if there is no dump, which is reported as the command's end; the container is as it was.
        """
        return await self._owned(self._checkpoint(container, command))

    async def _owned(self, dump: Coroutine[None, None, SnapshotId]) -> SnapshotId:
        """Dump in a task of our own, so that an asker who goes away does not leave a container half dumped."""
        task = asyncio.create_task(dump)
        self._dumps.add(task)
        task.add_done_callback(self._dumps.discard)
        return await asyncio.shield(task)

    async def _stop(self, container_id: ContainerId) -> SnapshotId:
        came = datetime.now(UTC)
        container = await self._known(container_id)
        if container.final_snapshot is not None:
            return container.final_snapshot
        key = container.key
        with logs.about(key=key, container_id=container_id), tracing.span("stop", key=key, container_id=container_id):
            return await self._try_to_stop(container, came)

    async def _try_to_stop(self, container: ContainerRecord, came: datetime) -> SnapshotId:
        grace_seconds = await asyncio.to_thread(grace_period.grace_seconds, container)
        deadline = came + timedelta(seconds=grace_seconds)
        tries = grace_period.Tries(came, deadline)
        while True:
            try:
                return await self._final(container, tries, came, deadline)
            except TryAgainError as problem:
                await asyncio.sleep(problem.pause_seconds)

    async def _final(
        self, container: ContainerRecord, tries: grace_period.Tries, came: datetime, deadline: datetime
    ) -> SnapshotId:
        container_id, limit_seconds = container.container_id, self._settings.stop_limit_seconds
        try:
            namespace = container.key.namespace
            async with self._turns.turn(
                container_id, final=True, deadline=deadline, namespace=namespace, own_limit_seconds=limit_seconds
            ):
                container = await self._not_gone(container_id)
                if container.final_snapshot is None:
                    warnings = grace_period.lateness(container, came, deadline)
                    snapshot_id = await self._capture(container, Trigger.STOP_SIGNAL, warnings=warnings, tries=tries)
                    self._turns.leave(container_id)
                    return snapshot_id
                await self._close(tries)
                return container.final_snapshot
        except EarlierDumpError as problem:
            await self._close(tries)
            cause = "an earlier dump of the container is still under way"
            raise refusal("dump-in-flight", cause, "Stop it again.") from problem
        except GoneError as problem:
            known = await asyncio.to_thread(self._journal.container, container_id)
            if known is not None and known.final_snapshot is not None:
                await self._close(tries)
                return known.final_snapshot  # it was stopped twice, and the other one has dumped it
            failure = tries.failure or grace_period.gone(came)
            if tries.record is None:
                record = self._record(container, Trigger.STOP_SIGNAL)
                await asyncio.to_thread(
                    self._journal.report, reports.dump_failed(self._settings.node, record, DumpStage.PREFLIGHT, failure)
                )
            await self._close(tries)
            raise FailureError(failure) from problem

    async def _not_gone(self, container_id: ContainerId) -> ContainerRecord:
        """Look a container up once more: between two tries nobody waits in the queue who could be told."""
        container = await asyncio.to_thread(self._journal.container, container_id)
        if container is None:
            raise GoneError
        return container

    async def _close(self, tries: grace_period.Tries) -> None:
        """Report the end of a final dump that was tried, and is not tried again; another dump may have frozen the container meanwhile."""
        if (record := tries.record) is not None and (failure := tries.failure) is not None:
            told = reports.dump_failed(self._settings.node, record, DumpStage.PREFLIGHT, failure)
            await asyncio.to_thread(self._journal.finish_dump, record, failure, told)

    async def _known(self, container_id: ContainerId) -> ContainerRecord:
        container = await asyncio.to_thread(self._journal.container, container_id)
        if container is None:
            raise refusal("container-unknown", f"the worker knows no container {container_id}", "It is not protected.")
        return container

    async def _checkpoint(self, container: ContainerRecord, command: DumpCommand) -> SnapshotId:
        came = datetime.now(UTC)
        task = asyncio.current_task()
        assert task is not None
        self._not_begun.add(task)
        try:
            async with (
                asyncio.timeout((command.deadline - came).total_seconds()) as wait,
                self._turns.turn(
                    container.container_id,
                    final=False,
                    deadline=command.deadline,
                    namespace=container.key.namespace,
                ),
            ):
                wait.reschedule(None)
                self._not_begun.discard(task)
                trigger = Trigger.SCHEDULE if command.scheduled else Trigger.COMMAND
                return await self._capture(container, trigger, command.command_id)
        except TimeoutError as problem:
            cause = f"the command's deadline was {command.deadline:%FT%TZ}, and other dumps of the node came first until then"
            raise NotBegunError(Failure("command-expired", cause, "Ask again.")) from problem
        except GoneError as problem:
            raise NotBegunError(grace_period.gone(came)) from problem
        finally:
            self._not_begun.discard(task)

    def _record(
        self,
        container: ContainerRecord,
        trigger: Trigger,
        command_id: CommandId | None = None,
        warnings: tuple[str, ...] = (),
    ) -> DumpRecord:
        now = datetime.now(UTC)
        return DumpRecord(
            snapshot_id=new_snapshot_id(now),
            container_id=container.container_id,
            key=container.key,
            incarnation=container.incarnation,
            trigger=trigger,
            final=trigger is Trigger.STOP_SIGNAL,
            facts=container.facts,
            started_at=now,
            boot_id=self._boot_id,
            command_id=command_id,
            warnings=warnings,
            environment=container.environment,
            generation=container.generation,
        )

    async def _capture(
        self,
        container: ContainerRecord,
        trigger: Trigger,
        command_id: CommandId | None = None,
        warnings: tuple[str, ...] = (),
        tries: grace_period.Tries | None = None,
    ) -> SnapshotId:
        known = None if tries is None else tries.record
        record = known or self._record(container, trigger, command_id, warnings)
        stage = DumpStage.PREFLIGHT
        try:
            with tracing.span("dump preflight", snapshot_id=record.snapshot_id):
                plan = await asyncio.to_thread(self.preflight.look, container, final=record.final)
            own = self._settings.container_dir(record.container_id)
            with closing(plan.room), exec_gate.closed(own, plan.freezer):
                facts = msgspec.structs.replace(record.facts, privileges=plan.privileges)
                record = msgspec.structs.replace(record, facts=facts)
                if tries is None or not tries.announced:
                    await asyncio.to_thread(self._announce, record)
                    if self._bus.connected:
                        await self._bus.flush(_ANNOUNCE_SECONDS)
                if tries is not None:
                    tries.announced = True
                stage = DumpStage.CAPTURE
                with tracing.span("dump capture", snapshot_id=record.snapshot_id) as step:
                    record = await asyncio.to_thread(self._frozen.take, record, plan, container)
                    if step is not None:
                        step.say(freeze_seconds=record.freeze_seconds, raw_bytes=record.raw_bytes)
        except Exception as problem:
            failure = failure_of(problem)
            if tries is not None:
                tries.record = record
                if (pause := tries.pause_seconds(failure)) is not None:
                    await asyncio.to_thread(self._uploader.clear, record)
                    tries.record = await asyncio.to_thread(self._without_sessions, record, container, failure)
                    raise TryAgainError(pause) from problem
                failure = tries.failure or failure
            await self._fail(record, stage, failure)
            raise FailureError(failure) from problem
        self._uploader.store(record, rehearse=True)
        return record.snapshot_id

    async def _fail(self, record: DumpRecord, stage: DumpStage, failure: Failure) -> None:
        """Record how a dump ended: on a full disk as soon as there is room to, which nobody waits for."""
        try:
            await asyncio.to_thread(self._uploader.fail, record, stage, failure)
        except sqlite3.Error as problem:
            _log.warning("the end of a dump is not recorded yet", snapshot_id=record.snapshot_id, error=str(problem))
            later = asyncio.create_task(self._fail_later(record, stage, failure))
            self._unrecorded.add(later)
            later.add_done_callback(self._unrecorded.discard)

    async def _fail_later(self, record: DumpRecord, stage: DumpStage, failure: Failure) -> None:
        told = reports.dump_failed(self._settings.node, record, stage, failure)
        while True:
            await asyncio.sleep(_RECORD_AGAIN_SECONDS)
            with suppress(sqlite3.Error):
                await asyncio.to_thread(self._journal.finish_dump, record, failure, told)
                return

    def _without_sessions(self, record: DumpRecord, container: ContainerRecord, failure: Failure) -> DumpRecord:
        """End the sessions in a container that is to end, if its dump may have failed because of one."""
        ended = exec_sessions.end(self._runc, container) if failure.code in dump_retries.BY_SESSIONS else ()
        return msgspec.structs.replace(record, warnings=(*record.warnings, *ended))

    def _announce(self, record: DumpRecord) -> None:
        self._journal.save_dump(record, reports.dump_started(self._settings.node, record))
