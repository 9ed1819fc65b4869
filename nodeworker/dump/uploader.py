"""What happens to a capture after the container was let go: it is stored, or told to be lost, whatever dies in between.

Storing is slow and nobody is frozen for it, so it runs in the background, is tried again when the store is away, and is
taken up by the worker's next life from the spool and the journal. What cannot be had again is tried until it is stored.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

import msgspec
import structlog

from nodeworker import reports
from nodeworker.capture.criu.spool import Aside, Spool
from nodeworker.disk.criu_logs import keep_log
from nodeworker.disk.snapshot_cache import SnapshotCache
from nodeworker.disk.spooled_captures import check_of, vouch
from nodeworker.disk.unstored_captures import UnstoredCaptures
from nodeworker.domain.store_retries import goes_on, is_stores
from nodeworker.dump.store_tries import StoreTries
from nodeworker.errors import failure_of
from nodeworker.journal import DumpRecord, Journal
from nodeworker.rehearsal.rehearsals import Rehearsals
from nodeworker.settings import Settings
from nodeworker.store.snapshots import ManifestHeader, SnapshotStore
from nodeworker.threads import in_daemon_thread
from woodfrog.protocol.events import DumpStage
from woodfrog.protocol.facts import NodeFacts
from woodfrog.protocol.failures import CAPTURE_REPLACED, Failure
from woodfrog.protocol.ids import CommandId, SnapshotId
from woodfrog.service import faultpoints, tracing
from woodfrog.service.backoff import Backoff

_log = structlog.get_logger(component="storing")
_RETRY_SECONDS: Final = 0.5


class SnapshotUploader:
    """Stores the captures of one worker and closes their dumps in the journal."""

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        store: SnapshotStore,
        copies: SnapshotCache,
        facts: NodeFacts,
        rehearsals: Rehearsals,
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._store = store
        self._copies = copies
        self._facts = facts
        self.rehearsals = rehearsals
        self._stores: dict[SnapshotId, asyncio.Task[None]] = {}
        self._tries = StoreTries()
        self.unstored = UnstoredCaptures(
            settings.spool,
            settings.spool_floor_bytes,
            lambda record, failure: self.fail(record, DumpStage.STORE, failure),
        )
        """The captures that the store did not take yet."""

    @property
    def in_flight(self) -> int:
        """How many captures are being stored."""
        return len(self._stores)

    async def close(self) -> None:
        """Leave what is not stored yet to the next life."""
        tasks = list(self._stores.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def wait(self, snapshot_id: SnapshotId) -> None:
        """Wait until a capture is stored, or is told to be lost."""
        storing = self._stores.get(snapshot_id)
        if storing is not None:
            await asyncio.wait([storing])

    async def storing_for(self, command_id: CommandId) -> SnapshotId | None:
        """Tell which capture that is being stored was asked for by a command."""
        dumps = await asyncio.to_thread(self._journal.dumps)
        wanted = (dump.snapshot_id for dump in dumps if dump.command_id == command_id)
        return next((snapshot_id for snapshot_id in wanted if snapshot_id in self._stores), None)

    def fail(self, record: DumpRecord, stage: DumpStage, failure: Failure) -> None:
        """Remove what the dump left, first of all, so that there is room to say so if the disk was full."""
        self._remove_spool(record)
        _log.warning(
            "a dump failed",
            snapshot_id=record.snapshot_id,
            key=str(record.key),
            stage=stage,
            failure=str(failure),
            detail=failure.detail,
        )
        with self._journal.transaction():
            if stage in {DumpStage.PREFLIGHT, DumpStage.CAPTURE}:  # later it runs, or stands for its next dump
                self._journal.note_thawed(record.container_id)
            self._journal.finish_dump(record, failure, reports.dump_failed(self._settings.node, record, stage, failure))

    def clear(self, record: DumpRecord) -> None:
        """Remove what a try of a final dump left; another one follows, also if there is no room to note that the container runs."""
        self._remove_spool(record)
        with suppress(sqlite3.Error):
            self._journal.note_thawed(record.container_id)

    def _remove_spool(self, record: DumpRecord) -> None:
        spool = Spool(self._settings.spool / record.snapshot_id)
        keep_log(self._settings, spool.work / "dump.log", record.snapshot_id)
        spool.remove()

    def store(self, record: DumpRecord, *, rehearse: bool = False) -> None:
        """Begin to store a capture in the background, after a rehearsal if it is wished; ``close`` leaves it to the next life.

        A capture of an earlier life is not rehearsed: it may have been a rehearsal that ended that life.
        """
        task = asyncio.create_task(self._rehearse_and_store(record) if rehearse else self._store_capture(record))
        self._stores[record.snapshot_id] = task
        task.add_done_callback(lambda task: self._ended(record.snapshot_id, task))

    def _ended(self, snapshot_id: SnapshotId, task: asyncio.Task[None]) -> None:
        self._stores.pop(snapshot_id, None)
        if not task.cancelled():  # else the next life tries
            self._tries.ended(snapshot_id)

    async def try_now(self, snapshot_id: SnapshotId) -> Failure | None:
        """Try at once to store a capture that waits; return why it failed, or ``None`` if the capture waits no more."""
        return await self._tries.ask(snapshot_id) if snapshot_id in self._stores else None

    async def _rehearse_and_store(self, record: DumpRecord) -> None:
        failure = None
        try:
            with tracing.span("dump rehearsal", snapshot_id=record.snapshot_id):
                failure = await self.rehearsals.failure(record)
        except Exception:  # noqa: BLE001 -- whatever it was, it must keep no capture from the store
            _log.exception("a restore could not be rehearsed", snapshot_id=record.snapshot_id)
        if failure is None:
            await self._store_capture(record)
            return
        with suppress(sqlite3.Error):
            await asyncio.to_thread(self.fail, record, DumpStage.REHEARSAL, failure)

    async def _store_capture(self, record: DumpRecord) -> None:
        backoff = Backoff(_RETRY_SECONDS, self._settings.store_pause_limit_seconds)
        tries_left = self._settings.store_attempts
        while (problem := await self._tried(record)) is not None:
            tries_left -= 1
            failure = failure_of(problem)
            newest = await asyncio.to_thread(self._journal.is_newest_dump, record)
            again = goes_on(failure.code, final=record.final, newest=newest, tries_left=tries_left)
            if not newest and not again and is_stores(failure.code):
                failure = Failure(
                    CAPTURE_REPLACED, f"a newer capture of the id waits in its place: {failure.cause}", failure.advice
                )
            _log.warning(
                "a capture is not stored yet", snapshot_id=record.snapshot_id, again=again, failure=str(failure)
            )
            if not again:
                with suppress(sqlite3.Error):
                    await asyncio.to_thread(self.fail, record, DumpStage.STORE, failure)
                return
            record = await asyncio.to_thread(self._note_delay, record, failure)
            await asyncio.to_thread(self.unstored.wait, record)
            for older in self.unstored.older_than(record):  # each has its last try now, and makes room
                self._tries.hasten(older.snapshot_id)
            self._tries.ended(record.snapshot_id, failure)
            try:
                if await self._tries.pause(record.snapshot_id, backoff.step()):
                    backoff.reset()
            finally:
                waited = self.unstored.resume(record)
            if not waited:  # it had to give way
                return

    async def _tried(self, record: DumpRecord) -> Exception | None:
        try:
            await in_daemon_thread(lambda: self._put(record))
        except Exception as problem:  # noqa: BLE001 -- whatever it was, what follows depends on what would be lost
            return problem
        return None

    def _note_delay(self, record: DumpRecord, failure: Failure) -> DumpRecord:
        """Let the capture be restored from here and outlive the machine's boot, and report why it is not stored, once for each reason."""
        digest = record.manifest_digest or self._vouched(record)
        if not record.durable or digest != record.manifest_digest:
            with suppress(OSError):
                Spool(self._settings.spool / record.snapshot_id).sync()
                record = msgspec.structs.replace(record, durable=True)
        since = record.delayed_since or datetime.now(UTC)
        news = record.delay is None or record.delay.code != failure.code or digest != record.manifest_digest
        record = msgspec.structs.replace(record, delay=failure, delayed_since=since, manifest_digest=digest)
        if news:
            with suppress(sqlite3.Error):
                self._journal.save_dump(
                    record, reports.store_delayed(self._settings.node, record, failure, since, self._facts)
                )
        return record

    def _vouched(self, record: DumpRecord) -> str:
        spool = Spool(self._settings.spool / record.snapshot_id)
        try:
            return vouch(spool, self._header(record, spool.read_aside()))
        except Exception as problem:  # noqa: BLE001 -- then it waits for the store, and only that
            _log.warning("a capture cannot be restored from here", snapshot_id=record.snapshot_id, error=str(problem))
            return ""

    def _header(self, record: DumpRecord, aside: Aside) -> ManifestHeader:
        return ManifestHeader(
            snapshot_id=record.snapshot_id,
            key=record.key,
            incarnation=record.incarnation,
            taken_at=record.started_at,
            node_facts=self._facts,
            container_facts=record.facts,
            stopped_pids=record.stopped_pids,
            warnings=record.warnings,
            environment=record.environment,
            held_files=aside.held_files,
            threads=aside.threads,
            databases=aside.databases,
            generation=record.generation,
        )

    def _put(self, record: DumpRecord) -> None:
        """Store a capture and report it, in one thread that may outlive the event loop."""
        spool = Spool(self._settings.spool / record.snapshot_id)
        header = self._header(record, spool.read_aside())
        began = time.monotonic()
        with tracing.span("dump store", snapshot_id=record.snapshot_id):
            stored = self._store.put(header, spool.read_list(), check_of(spool, record))
        store_seconds = time.monotonic() - began
        faultpoints.reach("dump.stored")
        self._journal.finish_dump(
            record, None, reports.stored(self._settings.node, record, stored, store_seconds, self._facts)
        )
        _log.info(
            "a snapshot is stored",
            snapshot_id=record.snapshot_id,
            key=str(record.key),
            stored_bytes=stored.stored_bytes,
        )
        self._copies.take_over(
            spool,
            record.key,
            record.snapshot_id,
            lambda: self._store.read_manifest(record.key, record.snapshot_id, stored.manifest_digest),
        )
