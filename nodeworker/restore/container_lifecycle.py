"""A protected container's life as the journal and the log have it: that it runs, that it is gone, and what goes with either.

Several may notice that a container runs (the runtime, a pipe, the worker's own look), and one is to tell. What was fetched for
its start lies in a folder of its name until then; removing it takes long for large images, and the engine waits for ``start``,
so that is done behind its back, and whoever uses the name again waits for it.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Collection
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import msgspec

from nodeworker import bundle, reports
from nodeworker.capture.criu import work_folders
from nodeworker.disk.criu_logs import drop_old_logs
from nodeworker.errors import refusal
from nodeworker.journal import ContainerRecord, ContainerState, Journal
from nodeworker.restore import restore_files
from nodeworker.runtime.container import Marker
from nodeworker.settings import Settings
from woodfrog.protocol.failures import FailureError
from woodfrog.protocol.ids import CONTAINER_ID, ContainerId, SnapshotId


def check_container_id(container_id: str) -> None:
    """Refuse an id that cannot be the name of a folder.

    Raises:
        FailureError: ``invalid-container-id``.
    """
    if not CONTAINER_ID.fullmatch(container_id):
        raise refusal("invalid-container-id", f"{container_id!r} is not a container id", "Use letters and digits.")


class ContainerLifecycle:
    """The lives of one worker's containers."""

    def __init__(self, settings: Settings, journal: Journal) -> None:
        self._settings = settings
        self._journal = journal
        self._removals: dict[ContainerId, asyncio.Task[None]] = {}
        self._starting = asyncio.Lock()

    @property
    def removals(self) -> Collection[asyncio.Task[None]]:
        """What is being removed now."""
        return self._removals.values()

    def fetched(self, record: ContainerRecord) -> Path:
        """Where what is fetched for a container's start lies."""
        return self._settings.fetched / record.container_id

    def work(self, record: ContainerRecord, snapshot_id: SnapshotId) -> Path:
        """Where CRIU works at a restore. runc names its log there on the container's own standard error if that fails."""
        return self._settings.logs / f"{snapshot_id}.restore.{record.container_id[:12]}"

    def make_work(self, record: ContainerRecord, snapshot_id: SnapshotId) -> None:
        """Make that folder."""
        self._settings.logs.mkdir(exist_ok=True, mode=0o700)
        drop_old_logs(self._settings)
        self.work(record, snapshot_id).mkdir(exist_ok=True, mode=0o700)

    def write_config(self, record: ContainerRecord, text: str) -> Path:
        """Write the configuration that CRIU reads for this container, and say where."""
        folder = self._settings.container_dir(record.container_id)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        config = folder / "criu.conf"
        config.write_text(text)
        return config

    async def started(self, container_id: ContainerId) -> bool:
        """Note and report that a container's processes run; False if that is known, or the container is not."""
        async with self._starting:
            record = await asyncio.to_thread(self._journal.container, container_id)
            if record is None or not record.is_unstarted:
                return False
            await asyncio.to_thread(self._start, record)
        removal = asyncio.create_task(asyncio.to_thread(self._remove_fetched, record))
        self._removals[container_id] = removal
        removal.add_done_callback(lambda _: self._removals.pop(container_id, None))
        return True

    async def stopped(self, container_id: ContainerId) -> None:
        """Note that a container was sent a stop signal: how it ends from now on says nothing about its program."""
        async with self._starting:
            record = await asyncio.to_thread(self._journal.container, container_id)
            if record is not None and not record.stopped:
                await asyncio.to_thread(self._journal.save_container, msgspec.structs.replace(record, stopped=True))

    def _start(self, record: ContainerRecord) -> None:
        running = msgspec.structs.replace(record, state=ContainerState.RUNNING, applied=None)
        started = reports.container_started(self._settings.node, record)
        with self._journal.transaction():
            self._journal.note_life(running)
            self._journal.save_container(running, started)

    def _remove_fetched(self, record: ContainerRecord) -> None:
        restore_files.commit(self.fetched(record))
        shutil.rmtree(self.fetched(record), ignore_errors=True)
        if record.restored_from is not None:
            work_folders.remove(self.work(record, record.restored_from))

    async def removed(self, container_id: ContainerId) -> None:
        """Wait until what an earlier start of the container had fetched is gone: the folder's name is the container's."""
        removal = self._removals.get(container_id)
        if removal is not None:
            await asyncio.wait([removal])

    def was_started(self, container_id: ContainerId) -> bool:
        """Say whether the runtime has let a container's processes go on, or may have, although it may be that nobody noted that yet."""
        marker = Marker.read(str(self._settings.container_dir(container_id)))
        return marker is not None and marker.let_go

    def undo_unstarted(self, container_id: ContainerId) -> None:
        """Take out what was put into a container that never started: its engine may keep its files, and start it again."""
        record = self._journal.container(container_id)
        if record is not None and record.applied is not None:
            with suppress(FailureError, OSError):
                restore_files.rollback(bundle.read(record.bundle), self.fetched(record))

    def end(
        self, record: ContainerRecord, exit_code: int | None, at: datetime | None = None, *, never_ran: bool = False
    ) -> None:
        """Report it of a container that is known, now or ``at`` an earlier time, and remove what was kept for it. Blocks.

        ``never_ran`` says that the runtime is sure of that; else it may yet be seen.
        """
        never_ran = never_ran or self._never_ran(record)
        ended = reports.container_ended(self._settings.node, record, exit_code, never_ran=never_ran)
        self._journal.forget_container(record.container_id, *((ended,) if record.incarnation else ()), at=at)
        shutil.rmtree(self.fetched(record), ignore_errors=True)
        folder = self._settings.container_dir(record.container_id)
        with suppress(OSError):
            (folder / "criu.conf").unlink(missing_ok=True)
            folder.rmdir()

    def end_given_up(self, record: ContainerRecord) -> None:
        """Report that a start came to nothing whose container is forgotten already, if it was opened. Blocks."""
        if record.incarnation:
            self._journal.report(reports.container_ended(self._settings.node, record, None, never_ran=True))

    def _never_ran(self, record: ContainerRecord) -> bool:
        """Whether it is certain that a container's processes never ran: nobody was answered how to create it, or it was not started."""
        if record.state is not ContainerState.CREATED:
            return record.state is ContainerState.CREATING
        marker = Marker.read(str(self._settings.container_dir(record.container_id)))
        return marker is not None and not marker.let_go
